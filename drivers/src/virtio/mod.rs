//! virtio 1.2 (OASIS Committee Specification 01): devices provided by a hypervisor.
//!
//! - [`transport`]: a driver's interface to the bus; implemented by [`pci`] (4.1) and [`mmio`] (4.2).
//! - [`queue`]: the split virtqueue (2.7).
//! - [`disk`]: the common part of all disks.
//! - [`blk`]: the block device (5.2); [`scsi`]: a disk on a SCSI host (5.6).

pub mod blk;
pub mod disk;
pub mod mmio;
pub mod pci;
pub mod queue;
pub mod scsi;
mod sense;
pub mod transport;

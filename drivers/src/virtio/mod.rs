//! virtio 1.2 (OASIS Committee Specification 01): devices that a hypervisor offers.
//!
//! - [`transport`]: what a driver needs of the bus; [`pci`] (4.1) and [`mmio`] (4.2) offer it.
//! - [`queue`]: the split virtqueue (2.7).
//! - [`disk`]: what all disks have in common.
//! - [`blk`]: the block device (5.2); [`scsi`]: a disk on a SCSI host (5.6).

pub mod blk;
pub mod disk;
pub mod mmio;
pub mod pci;
pub mod queue;
pub mod scsi;
mod sense;
pub mod transport;

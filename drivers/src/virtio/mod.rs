//! virtio 1.2 (OASIS Committee Specification 01): devices provided by a hypervisor.
//!
//! - `transport`: what a driver needs of the bus; `pci` (4.1) and [`mmio`] (4.2) offer it.
//! - `queue`: the split virtqueue (2.7).
//! - `disk`: what all disks have in common.
//! - [`blk`]: the block device (5.2); [`scsi`]: a disk on a SCSI host (5.6).

pub mod blk;
#[allow(unreachable_pub, reason = "the driver's own")]
mod disk;
pub mod mmio;
#[allow(unreachable_pub, reason = "the driver's own")]
mod pci;
#[allow(unreachable_pub, reason = "see `internals`")]
mod queue;
pub mod scsi;
mod sense;
#[allow(unreachable_pub, reason = "the driver's own")]
mod transport;

#[cfg(feature = "_test-utils")]
#[doc(hidden)]
pub use queue::{Piece, QUEUE_ALIGN, QUEUE_BYTES, Queue};

//! virtio 1.2 (OASIS Committee Specification 01): devices that a hypervisor offers.
//!
//! - [`transport`]: finding and driving a device over PCI (4.1).
//! - [`queue`]: the split virtqueue (2.7).
//! - [`blk`]: the block device (5.2).

pub mod blk;
pub mod queue;
pub mod transport;

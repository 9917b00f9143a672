//! Register-level fakes of the controllers, for tests on a host: they stall, lie and disappear on demand.
//!
//! A fake reaches the driver only as hardware would: by registers, configuration space and shared memory. It keeps a
//! list of what the driver did against the specification, and every access to memory it was not given.

mod clock;
mod memory;
mod pci;
mod virtio_blk;

pub use clock::ClockPlatform;
pub use memory::DmaMemory;
pub use virtio_blk::{Fault, Plan, VirtioBlkFake, Window};

//! Access to controllers: registers, the PCI bus, and memory shared with the device.

pub mod access;
pub mod barrier;
pub mod mmio;
pub mod pci;
#[cfg(target_arch = "x86_64")]
pub mod ports;
pub mod registers;
pub mod shared;

pub use access::Access;

//! What a controller is built on: its registers, the PCI bus, and the memory it shares with the driver.

pub mod access;
pub mod barrier;
pub mod mmio;
pub mod pci;
#[cfg(target_arch = "x86_64")]
pub mod ports;
pub mod registers;
pub mod shared;

pub use access::Access;

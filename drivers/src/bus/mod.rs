//! What a controller stands on: its registers, the PCI bus, and the memory it shares with the driver.

pub mod barrier;
pub mod mmio;
pub mod pci;
pub mod registers;
pub mod shared;

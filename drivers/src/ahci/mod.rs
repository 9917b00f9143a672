//! Serial ATA disks on an HBA of the Advanced Host Controller Interface (AHCI 1.3.1).
//!
//! - [`registers`]: register offsets and bits (3).
//! - [`hba`]: the controller as a whole: ports, hand-off from the BIOS, reset (10.4.3, 10.6).
//! - [`port`]: stop, COMRESET, start (10.1, 10.3, 10.4.2).
//! - [`command`]: command list, command tables and commands (4.2).
//! - [`disk`]: a disk that receives a dump.

pub mod command;
pub mod disk;
pub mod hba;
pub mod port;
pub mod registers;

use crate::bus::pci::{ConfigSpace, Function, functions};

/// The machine's HBA number `index`, counted from 0 in bus order.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(hba::is_hba).nth(index)
}

//! Memory-mapped configuration space (PCI Express Base 5.0, 7.2.2: ECAM).

use dumpcore::integrity::Digest;

use super::{Address, ConfigSpace};
use crate::bus::registers::Registers;

/// Bytes of configuration space per function.
const FUNCTION_SIZE: u16 = 4096;

/// Configuration space as a register window: one mebibyte per bus.
#[derive(Debug)]
pub struct Ecam<R> {
    window: R,
    first_bus: u8,
}

impl<R: Registers> Ecam<R> {
    /// `window` starts with the configuration space of `first_bus`.
    pub const fn new(window: R, first_bus: u8) -> Ecam<R> {
        Ecam { window, first_bus }
    }

    /// Offset of a register in the window; beyond its end if it is not in the window.
    fn offset(&self, address: Address, offset: u16) -> usize {
        match address.bus().checked_sub(self.first_bus) {
            Some(bus) if offset < FUNCTION_SIZE => {
                (bus as usize) << 20
                    | (address.device() as usize) << 15
                    | (address.function() as usize) << 12
                    | offset as usize
            }
            _ => usize::MAX,
        }
    }
}

impl<R: Registers> ConfigSpace for Ecam<R> {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        self.window.read32(self.offset(address, offset))
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        self.window.write16(self.offset(address, offset), value);
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        self.window.write32(self.offset(address, offset), value);
    }

    fn integrity(&self, digest: &mut Digest) {
        self.window.integrity(digest);
        digest.number(self.first_bus.into());
    }
}

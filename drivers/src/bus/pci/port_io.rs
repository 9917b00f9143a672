//! Configuration space through two ports (PCI Local Bus 3.0, 3.2.2.3.2: mechanism #1).

use core::arch::asm;

use dumpcore::integrity::Digest;

use super::{Address, ConfigSpace};

/// The address port.
const ADDRESS_PORT: u16 = 0xcf8;
/// The data port: the 4 bytes at that address.
const DATA_PORT: u16 = 0xcfc;
/// Bytes of configuration space within reach.
const REACH: u16 = 256;

/// Mechanism #1. It needs no mapping, so it works even in a kernel that has lost its page tables.
#[derive(Clone, Copy, Debug)]
pub struct PortIo {
    _private: (),
}

impl PortIo {
    /// The way through the ports.
    ///
    /// # Safety
    /// The code must run with port access, on a machine with mechanism #1, and nobody else may use the two
    /// ports during a method call: the address goes to one, the data through the other.
    pub const unsafe fn new() -> PortIo {
        PortIo { _private: () }
    }

    /// Selects the register; false if it is out of reach.
    fn select(self, address: Address, offset: u16) -> bool {
        if offset >= REACH {
            return false;
        }
        let select = 1 << 31 | u32::from(address.bits()) << 8 | u32::from(offset & !3);
        // SAFETY: new()'s caller promised that the ports are PCI's and ours to use.
        unsafe {
            asm!("out dx, eax", in("dx") ADDRESS_PORT, in("eax") select,
                options(nomem, nostack, preserves_flags));
        }
        true
    }
}

impl ConfigSpace for PortIo {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        if !self.select(address, offset) {
            return u32::MAX;
        }
        let value: u32;
        // SAFETY: as in select(); asm is volatile by default, so it is neither dropped nor reordered.
        unsafe {
            asm!("in eax, dx", in("dx") DATA_PORT, out("eax") value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        if self.select(address, offset) {
            let port = DATA_PORT | (offset & 2);
            // SAFETY: as in select(). Not `nomem`: writes to memory must precede the doorbell.
            unsafe {
                asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags));
            }
        }
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if self.select(address, offset) {
            // SAFETY: as in select(). Not `nomem`: writes to memory must precede the doorbell.
            unsafe {
                asm!("out dx, eax", in("dx") DATA_PORT, in("eax") value, options(nostack, preserves_flags));
            }
        }
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(ADDRESS_PORT.into());
    }
}

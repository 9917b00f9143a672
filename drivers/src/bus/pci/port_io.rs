//! Configuration space through two ports (PCI Local Bus 3.0, 3.2.2.3.2: mechanism #1).

use core::arch::asm;

use dumpcore::integrity::Digest;

use super::{Address, ConfigSpace};

/// Takes the address.
const ADDRESS_PORT: u16 = 0xcf8;
/// Returns the 4 bytes at that address.
const DATA_PORT: u16 = 0xcfc;
/// Bytes of configuration space that can be reached.
const REACH: u16 = 256;

/// Mechanism #1. It needs no mapping, so it also works in a kernel whose page tables are lost.
#[derive(Clone, Copy, Debug)]
pub struct PortIo {
    _private: (),
}

impl PortIo {
    /// The way through the ports.
    ///
    /// # Safety
    /// The code runs with the right to access ports, on a machine that has mechanism #1, and nobody else uses the
    /// two ports during a call of a method: the address goes to one, the data through the other.
    pub const unsafe fn new() -> PortIo {
        PortIo { _private: () }
    }

    /// Names the register; false if it cannot be reached.
    fn select(self, address: Address, offset: u16) -> bool {
        if offset >= REACH {
            return false;
        }
        let select = 1 << 31 | u32::from(address.bits()) << 8 | u32::from(offset & !3);
        // SAFETY: new() was promised that the ports are PCI's and ours.
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
        // SAFETY: as in select(); volatile by default, so neither dropped nor reordered with it.
        unsafe {
            asm!("in eax, dx", in("dx") DATA_PORT, out("eax") value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        if self.select(address, offset) {
            let port = DATA_PORT | (offset & 2);
            // SAFETY: as in select(). Not `nomem`: writes to memory stay ahead of what they tell the device.
            unsafe {
                asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags));
            }
        }
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if self.select(address, offset) {
            // SAFETY: as in select(). Not `nomem`: writes to memory stay ahead of what they tell the device.
            unsafe {
                asm!("out dx, eax", in("dx") DATA_PORT, in("eax") value, options(nostack, preserves_flags));
            }
        }
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(ADDRESS_PORT.into());
    }
}

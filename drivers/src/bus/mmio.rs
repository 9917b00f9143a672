//! Memory-mapped registers: volatile accesses of exactly the requested width.

use core::ptr::NonNull;

use dumpcore::integrity::Digest;
use volatile::VolatilePtr;

use super::registers::Registers;

/// A mapped window of memory-mapped registers.
///
/// It holds no reference to the registers: a reference would allow the compiler to add reads.
#[derive(Debug)]
pub struct Mmio {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the window is mapped for every CPU, as promised to new().
unsafe impl Send for Mmio {}

impl Mmio {
    /// The window of `length` bytes at `start`.
    ///
    /// # Safety
    /// The bytes must be device registers (or memory without references from Rust), mapped uncached and
    /// strongly ordered, readable and writable, on every CPU, for as long as the value exists.
    pub const unsafe fn new(start: NonNull<u8>, length: usize) -> Mmio {
        Mmio { start, length }
    }

    fn at<T>(&self, offset: usize) -> Option<VolatilePtr<'_, T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.length {
            return None;
        }
        // SAFETY: offset is inside the window, which is one mapping.
        let register = unsafe { self.start.add(offset) }.cast::<T>();
        if !register.is_aligned() {
            return None;
        }
        // SAFETY: inside the window and aligned; new()'s caller promised the mapping and that there are no
        // references.
        Some(unsafe { VolatilePtr::new(register) })
    }
}

impl Registers for Mmio {
    fn length(&self) -> usize {
        self.length
    }

    fn read8(&self, offset: usize) -> u8 {
        self.at(offset).map_or(u8::MAX, VolatilePtr::read)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.at(offset).map_or(u16::MAX, |register| u16::from_le(register.read()))
    }

    fn read32(&self, offset: usize) -> u32 {
        self.at(offset).map_or(u32::MAX, |register| u32::from_le(register.read()))
    }

    fn read64(&self, offset: usize) -> u64 {
        self.at(offset).map_or(u64::MAX, |register| u64::from_le(register.read()))
    }

    fn write8(&self, offset: usize, value: u8) {
        if let Some(register) = self.at(offset) {
            register.write(value);
        }
    }

    fn write16(&self, offset: usize, value: u16) {
        if let Some(register) = self.at(offset) {
            register.write(value.to_le());
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(register) = self.at(offset) {
            register.write(value.to_le());
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        if let Some(register) = self.at(offset) {
            register.write(value.to_le());
        }
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.start.as_ptr() as u64).number(self.length as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aligned_accesses_inside_the_window_touch_memory() {
        let mut memory = [0x1122_3344_5566_7788_u64, 0];
        let start = NonNull::from(&mut memory).cast::<u8>();
        // SAFETY: the array outlives the window, and is not accessed otherwise while the window exists.
        let window = unsafe { Mmio::new(start, 12) };
        assert_eq!(window.read8(0), 0x88);
        assert_eq!(window.read16(2), 0x5566);
        assert_eq!(window.read32(4), 0x1122_3344);
        assert_eq!(window.read64(0), 0x1122_3344_5566_7788);
        for offset in [10, 11, 12, 13, usize::MAX - 1, usize::MAX] {
            assert_eq!(window.read32(offset), u32::MAX);
            window.write32(offset, 7);
        }
        assert_eq!(window.read64(8), u64::MAX);
        assert_eq!(window.read8(12), u8::MAX);
        assert_eq!(window.read16(1), u16::MAX, "misaligned");
        window.write16(3, 7);
        window.write32(8, 9);
        assert_eq!(memory, [0x1122_3344_5566_7788, 9]);
    }
}

//! Registers in the port space of x86.

use core::arch::asm;

use dumpcore::integrity::Digest;

use super::registers::Registers;

/// A window of ports. Ports have no 64-bit access: reads return all ones, writes are dropped.
#[derive(Debug)]
pub struct PortWindow {
    first: u16,
    length: u16,
}

impl PortWindow {
    /// The window of `length` ports from `first` on, cut off at the end of the port space.
    ///
    /// # Safety
    /// The code must run with port access, and these ports must be a device's registers that nobody else uses
    /// during a method call.
    pub const unsafe fn new(first: u16, length: u16) -> PortWindow {
        // This leaves out port 0xffff, which no device uses.
        let room = u16::MAX.wrapping_sub(first);
        PortWindow { first, length: if length < room { length } else { room } }
    }

    /// The port for an access of `width` bytes at an offset.
    #[inline]
    fn port(&self, offset: usize, width: usize) -> Option<u16> {
        let end = offset.checked_add(width)?;
        let inside = end <= usize::from(self.length) && offset & width.wrapping_sub(1) == 0;
        inside.then(|| self.first.wrapping_add(offset as u16))
    }
}

impl Registers for PortWindow {
    fn length(&self) -> usize {
        self.length.into()
    }

    #[inline]
    fn read8(&self, offset: usize) -> u8 {
        let Some(port) = self.port(offset, 1) else { return u8::MAX };
        let value: u8;
        // SAFETY: a port of the window, which new()'s caller promised to us. Not `nomem`: memory accesses
        // must not move across it.
        unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
        value
    }

    #[inline]
    fn read16(&self, offset: usize) -> u16 {
        let Some(port) = self.port(offset, 2) else { return u16::MAX };
        let value: u16;
        // SAFETY: as in read8().
        unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
        value
    }

    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        let Some(port) = self.port(offset, 4) else { return u32::MAX };
        let value: u32;
        // SAFETY: as in read8().
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
        value
    }

    fn read64(&self, _: usize) -> u64 {
        u64::MAX
    }

    #[inline]
    fn write8(&self, offset: usize, value: u8) {
        if let Some(port) = self.port(offset, 1) {
            // SAFETY: as in read8().
            unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
        }
    }

    #[inline]
    fn write16(&self, offset: usize, value: u16) {
        if let Some(port) = self.port(offset, 2) {
            // SAFETY: as in read8().
            unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
        }
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        if let Some(port) = self.port(offset, 4) {
            // SAFETY: as in read8().
            unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
        }
    }

    fn write64(&self, _: usize, _: u64) {}

    fn read16s(&self, offset: usize, bytes: &mut [u8]) {
        let (pairs, _) = bytes.as_chunks_mut::<2>();
        let Some(port) = self.port(offset, 2) else {
            pairs.as_flattened_mut().fill(u8::MAX);
            return;
        };
        // SAFETY: as in read8(); it stores exactly the pairs of the slice. The direction flag is clear, as
        // always in Rust.
        unsafe {
            asm!("rep insw", in("dx") port, inout("rdi") pairs.as_mut_ptr() => _,
                inout("rcx") pairs.len() => _, options(nostack, preserves_flags));
        };
    }

    fn write16s(&self, offset: usize, bytes: &[u8]) {
        let (pairs, _) = bytes.as_chunks::<2>();
        let Some(port) = self.port(offset, 2) else { return };
        // SAFETY: as in read8(); it loads exactly the pairs of the slice. The direction flag is clear, as
        // always in Rust.
        unsafe {
            asm!("rep outsw", in("dx") port, inout("rsi") pairs.as_ptr() => _,
                inout("rcx") pairs.len() => _, options(nostack, preserves_flags));
        };
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.first.into()).number(self.length.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests run without port access, so touching a port would kill the test.
    #[test]
    fn accesses_that_are_misaligned_or_outside_touch_no_port() {
        // SAFETY: no port is accessed.
        let window = unsafe { PortWindow::new(0x1f0, 8) };
        for offset in [8, 9, 0x1f0, usize::MAX] {
            assert_eq!(window.read8(offset), u8::MAX);
            window.write8(offset, 0);
        }
        for offset in [1, 3, 7, 8, usize::MAX] {
            assert_eq!(window.read16(offset), u16::MAX);
            window.write16(offset, 0);
            window.write16s(offset, &[1, 2]);
            let mut bytes = [1, 2, 3];
            window.read16s(offset, &mut bytes);
            assert_eq!(bytes, [u8::MAX, u8::MAX, 3]);
        }
        for offset in [1, 2, 5, 6, 8, usize::MAX - 1] {
            assert_eq!(window.read32(offset), u32::MAX);
            window.write32(offset, 0);
        }
        assert_eq!(window.read64(0), u64::MAX);
        window.write64(0, 0);
    }

    #[test]
    fn a_window_ends_with_the_port_space() {
        // SAFETY: no port is accessed.
        let window = unsafe { PortWindow::new(0xfffc, 16) };
        assert_eq!(window.length(), 3);
        assert_eq!(window.read32(0), u32::MAX);
    }
}

//! Access to a device's registers; there is no other.

use dumpcore::integrity::Digest;

/// A window of registers, addressed by byte offset from its start. Values are in the CPU's byte order,
/// registers in little-endian, as in PCI.
///
/// An access that is not wholly inside the window, or not aligned to its own size, does nothing: a read
/// returns all ones, as for a device that is gone, and a write is dropped.
pub trait Registers: Send {
    /// Size of the window in bytes.
    fn length(&self) -> usize;

    /// Reads 8 bits.
    fn read8(&self, offset: usize) -> u8;

    /// Reads 16 bits.
    fn read16(&self, offset: usize) -> u16;

    /// Reads 32 bits.
    fn read32(&self, offset: usize) -> u32;

    /// Reads 64 bits in one access. Not every device allows that; if not, read two halves.
    fn read64(&self, offset: usize) -> u64;

    /// Writes 8 bits.
    fn write8(&self, offset: usize, value: u8);

    /// Writes 16 bits.
    fn write16(&self, offset: usize, value: u16);

    /// Writes 32 bits.
    fn write32(&self, offset: usize, value: u32);

    /// Writes 64 bits in one access. Not every device allows that; if not, write two halves.
    fn write64(&self, offset: usize, value: u64);

    /// Reads a 16-bit data port repeatedly into `bytes`, one pair after another, in the device's byte order.
    /// A last odd byte is left unchanged.
    fn read16s(&self, offset: usize, bytes: &mut [u8]) {
        for pair in bytes.as_chunks_mut::<2>().0 {
            *pair = self.read16(offset).to_le_bytes();
        }
    }

    /// Writes `bytes` to a 16-bit data port, one pair after another, in the device's byte order. A last odd
    /// byte is left out.
    fn write16s(&self, offset: usize, bytes: &[u8]) {
        for pair in bytes.as_chunks::<2>().0 {
            self.write16(offset, u16::from_le_bytes(*pair));
        }
    }

    /// Feeds everything that must not change while armed: the window's place and size.
    fn integrity(&self, digest: &mut Digest);
}

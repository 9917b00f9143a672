//! Memory that a driver shares with its device: rings, tables, buffers. DMA is coherent on the machines that
//! this kernel supports.

use core::ptr::NonNull;

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::{Arena, PageClass};

use crate::arch::paging;
use crate::memory;

/// Contiguous pages, allocated for good. Every access is volatile; reads out of bounds return 0, and such
/// writes are dropped.
pub(super) struct Shared {
    start: NonNull<u8>,
    bus: u64,
    length: usize,
}

// SAFETY: accesses are volatile and of one word each; the driver's lock governs the meaning of each word.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Zeroed pages from the kernel.
    pub(super) fn of_kernel(pages: usize) -> Option<Shared> {
        let bytes = memory::take_bytes(pages * memory::FRAME as usize, 1, PageClass::KernelData)?;
        let bus = paging::physical(bytes.as_ptr());
        Some(Shared { length: bytes.len(), start: NonNull::from(bytes).cast(), bus })
    }

    /// Zeroed pages in the arena of the dump.
    pub(super) fn of_arena(pages: usize, arena: &mut Arena<'static>) -> Option<Shared> {
        let buffer: DmaBuffer = arena.dma(pages * memory::FRAME as usize, memory::FRAME as usize).ok()?;
        Some(Shared { start: buffer.address(), bus: buffer.bus_address(), length: buffer.len() })
    }

    /// The bus address of a byte.
    #[unsafe(link_section = ".dump_path.text")]
    pub(super) fn bus(&self, offset: usize) -> u64 {
        self.bus.wrapping_add(offset as u64)
    }

    #[unsafe(link_section = ".dump_path.text")]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let inside =
            offset.checked_add(size_of::<T>())? <= self.length && offset.is_multiple_of(size_of::<T>());
        inside.then(|| self.start.as_ptr().wrapping_add(offset).cast())
    }

    /// Reads 32 bits.
    #[unsafe(link_section = ".dump_path.text")]
    pub(super) fn read(&self, offset: usize) -> u32 {
        // SAFETY: inside the pages, which are ours for good, and aligned.
        self.at::<u32>(offset).map_or(0, |place| unsafe { u32::from_le(place.read_volatile()) })
    }

    /// Writes 32 bits.
    #[unsafe(link_section = ".dump_path.text")]
    pub(super) fn write(&self, offset: usize, value: u32) {
        if let Some(place) = self.at::<u32>(offset) {
            // SAFETY: as above.
            unsafe { place.write_volatile(value.to_le()) };
        }
    }

    /// Writes 64 bits, in two halves.
    #[unsafe(link_section = ".dump_path.text")]
    pub(super) fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value as u32);
        self.write(offset.wrapping_add(4), (value >> 32) as u32);
    }

    /// Zeroes `length` bytes from `offset` on, both multiples of 4.
    #[unsafe(link_section = ".dump_path.text")]
    pub(super) fn clear(&self, offset: usize, length: usize) {
        for step in (0..length).step_by(4) {
            self.write(offset.wrapping_add(step), 0);
        }
    }

    /// Feeds in its place.
    pub(super) fn integrity(&self, digest: &mut Digest) {
        digest.number(self.start.as_ptr() as u64).number(self.bus).number(self.length as u64);
    }
}

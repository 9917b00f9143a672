//! Memory that the fake device can reach: the driver's arena, and nothing else.

use std::ptr::NonNull;

use dumpcore::arena::Arena;

/// Where the device sees the memory. Not where the CPU does, so that a mix-up of the two shows.
const BUS: u64 = 0x40_0000_0000;
const ALIGN: usize = 4096;

/// A leaked, page-aligned piece of memory.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: only an address. Accesses are bounded, and happen while no reference to the same bytes is in use.
unsafe impl Send for DmaMemory {}

impl DmaMemory {
    /// `length` zeroed bytes that are never freed: a test's driver may have given any of them to the device.
    pub fn leak(length: usize) -> DmaMemory {
        let layout = std::alloc::Layout::from_size_align(length.max(ALIGN), ALIGN).expect("a sane length");
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        DmaMemory { start: NonNull::new(start).expect("memory"), length }
    }

    /// An arena over all of it, zeroed. Again only after everything made with an earlier one is gone.
    pub fn arena(&self) -> Arena<'static> {
        // SAFETY: leaked, so it is there for ever; the caller uses one arena of it at a time, and the fake device touches it
        // only by raw accesses to what the driver gave it.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) };
        // SAFETY: one piece in the fake device's address space.
        unsafe { Arena::new(memory, BUS, BUS) }
    }

    fn place(&self, bus: u64, length: usize) -> Option<*mut u8> {
        let offset = usize::try_from(bus.checked_sub(BUS)?).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: inside the allocation.
        (end <= self.length).then(|| unsafe { self.start.as_ptr().add(offset) })
    }

    /// What the device reads at a bus address; `None` if that is not wholly inside.
    pub fn read(&self, bus: u64, bytes: &mut [u8]) -> Option<()> {
        let place = self.place(bus, bytes.len())?;
        // SAFETY: inside the allocation; `bytes` is memory of the test's own.
        unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        Some(())
    }

    /// What the device writes at a bus address; `None` if that is not wholly inside.
    pub fn write(&self, bus: u64, bytes: &[u8]) -> Option<()> {
        let place = self.place(bus, bytes.len())?;
        // SAFETY: inside the allocation; `bytes` is memory of the test's own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        Some(())
    }

    /// Reads 16 bits.
    pub fn read16(&self, bus: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(bus, &mut bytes)?;
        Some(u16::from_le_bytes(bytes))
    }
}

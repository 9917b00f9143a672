//! Memory that the fake device can reach: the driver's arena, and nothing else.

use std::ptr::NonNull;

use dumpcore::arena::Arena;

/// Where the device sees the memory. Not where the CPU does, so that a mix-up of the two shows.
const BUS: u64 = 0x40_0000_0000;
/// The same for a device that reaches no more than 4 GiB.
const LOW_BUS: u64 = 0x4000_0000;
const ALIGN: usize = 4096;
/// Bytes in a cache line: as large as any driver has to expect.
const LINE: usize = crate::bus::shared::LINE;

/// A leaked, page-aligned piece of memory.
///
/// Where it is not coherent, CPU and device each have their own copy: the CPU's is the cache, the device's is what is in
/// RAM. Only cache maintenance, by whole lines, takes bytes from one to the other.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    start: NonNull<u8>,
    /// The device's copy: the same memory, if it is coherent.
    ram: NonNull<u8>,
    length: usize,
    bus: u64,
}

// SAFETY: only addresses. Accesses are bounded, and happen while no reference to the same bytes is in use.
unsafe impl Send for DmaMemory {}
// SAFETY: as above.
unsafe impl Sync for DmaMemory {}

fn leak(length: usize) -> NonNull<u8> {
    let layout = std::alloc::Layout::from_size_align(length.max(ALIGN), ALIGN).expect("a sane length");
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory")
}

impl DmaMemory {
    /// `length` zeroed bytes that are never freed: a test's driver may have given any of them to the device.
    pub fn leak(length: usize) -> DmaMemory {
        let start = leak(length);
        DmaMemory { start, ram: start, length, bus: BUS }
    }

    /// The same on a machine whose DMA is not coherent.
    pub fn incoherent(length: usize) -> DmaMemory {
        DmaMemory { ram: leak(length), ..DmaMemory::leak(length) }
    }

    /// Where devices see it below 4 GiB.
    #[must_use]
    pub fn low(self) -> DmaMemory {
        DmaMemory { bus: LOW_BUS, ..self }
    }

    /// Where devices see it beyond 4 GiB.
    #[must_use]
    pub fn high(self) -> DmaMemory {
        DmaMemory { bus: BUS, ..self }
    }

    /// The same memory, with its second half at 4 GiB and beyond.
    #[must_use]
    pub fn astride(self) -> DmaMemory {
        DmaMemory { bus: (1 << 32) - (self.length / 2 / ALIGN * ALIGN) as u64, ..self }
    }

    /// An arena over all of it, zeroed. Again only after everything made with an earlier one is gone.
    pub fn arena(&self) -> Arena<'static> {
        // SAFETY: leaked, so it is there for ever, in one piece in the fake device's address space; the caller uses one arena of it
        // at a time, and the fake device touches only what the driver gave it, when the driver does not.
        unsafe { Arena::at(self.start, self.length, self.bus, self.bus) }
    }

    fn place(&self, bus: u64, length: usize) -> Option<*mut u8> {
        let offset = usize::try_from(bus.checked_sub(self.bus)?).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: inside the allocation.
        (end <= self.length).then(|| unsafe { self.ram.as_ptr().add(offset) })
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

    /// The cache lines that hold these bytes: where they begin in the memory, and their bytes. `None` for other memory.
    fn lines(&self, start: *const u8, length: usize) -> Option<(usize, usize)> {
        let offset = (start as usize).checked_sub(self.start.as_ptr() as usize)?;
        let end = offset.checked_add(length)?.next_multiple_of(LINE).min(self.length);
        let first = offset / LINE * LINE;
        (first < end).then(|| (first, end - first))
    }

    /// The CPU's cache lines are written back to RAM.
    pub(super) fn clean(&self, start: *const u8, length: usize) {
        if let Some((first, bytes)) = self.lines(start, length)
            && self.ram != self.start
        {
            // SAFETY: inside both allocations, which are not the same one.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.start.as_ptr().add(first),
                    self.ram.as_ptr().add(first),
                    bytes,
                );
            };
        }
    }

    /// The CPU's cache lines are dropped, and read from RAM again.
    pub(super) fn invalidate(&self, start: *const u8, length: usize) {
        if let Some((first, bytes)) = self.lines(start, length)
            && self.ram != self.start
        {
            // SAFETY: inside both allocations, which are not the same one.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.ram.as_ptr().add(first),
                    self.start.as_ptr().add(first),
                    bytes,
                );
            };
        }
    }
}

//! Memory within the fake device's reach: the driver's arena, and nothing else.

use std::ptr::NonNull;

use dumpcore::arena::Arena;

/// Bus address of the memory. It differs from the CPU's address, so that a mix-up shows.
const BUS: u64 = 0x40_0000_0000;
/// Bus address for a device with 32-bit addresses.
const LOW_BUS: u64 = 0x4000_0000;
const ALIGN: usize = 4096;
/// Bytes in a cache line: the largest that a driver must expect.
const LINE: usize = crate::bus::shared::LINE;

/// A leaked, page-aligned piece of memory.
///
/// If not coherent, CPU and device each have a copy: the CPU's is the cache, the device's is RAM. Only cache
/// maintenance, by whole lines, copies bytes from one to the other.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    start: NonNull<u8>,
    /// The device's copy: the same memory if coherent.
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
    /// `length` zeroed bytes that are never freed: a driver under test may have given any of them to the
    /// device.
    pub fn leak(length: usize) -> DmaMemory {
        let start = leak(length);
        DmaMemory { start, ram: start, length, bus: BUS }
    }

    /// The same on a machine with non-coherent DMA.
    pub fn incoherent(length: usize) -> DmaMemory {
        DmaMemory { ram: leak(length), ..DmaMemory::leak(length) }
    }

    /// Mapped below 4 GiB for devices.
    #[must_use]
    pub fn low(self) -> DmaMemory {
        DmaMemory { bus: LOW_BUS, ..self }
    }

    /// Mapped above 4 GiB for devices.
    #[must_use]
    pub fn high(self) -> DmaMemory {
        DmaMemory { bus: BUS, ..self }
    }

    /// The same memory, with its second half at 4 GiB and above.
    #[must_use]
    pub fn astride(self) -> DmaMemory {
        DmaMemory { bus: (1 << 32) - (self.length / 2 / ALIGN * ALIGN) as u64, ..self }
    }

    /// An arena of all of it, zeroed. Call again only after everything from an earlier arena is gone.
    pub fn arena(&self) -> Arena<'static> {
        // SAFETY: leaked, so it is permanent, and contiguous in the fake device's address space; the caller
        // uses one arena of it at a time, and the fake device accesses only what the driver gave it, when the
        // driver does not.
        unsafe { Arena::at(self.start, self.length, self.bus, self.bus) }
    }

    fn place(&self, bus: u64, length: usize) -> Option<*mut u8> {
        let offset = usize::try_from(bus.checked_sub(self.bus)?).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: inside the allocation.
        (end <= self.length).then(|| unsafe { self.ram.as_ptr().add(offset) })
    }

    /// Reads memory as the device does; `None` if it is not wholly inside.
    pub fn read(&self, bus: u64, bytes: &mut [u8]) -> Option<()> {
        let place = self.place(bus, bytes.len())?;
        // SAFETY: inside the allocation; `bytes` is separate memory of the test.
        unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len()) };
        Some(())
    }

    /// Writes memory as the device does; `None` if it is not wholly inside.
    pub fn write(&self, bus: u64, bytes: &[u8]) -> Option<()> {
        let place = self.place(bus, bytes.len())?;
        // SAFETY: inside the allocation; `bytes` is separate memory of the test.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        Some(())
    }

    /// Reads 16 bits.
    pub fn read16(&self, bus: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(bus, &mut bytes)?;
        Some(u16::from_le_bytes(bytes))
    }

    /// The cache lines that hold these bytes: their offset in the memory, and their size. `None` for other
    /// memory.
    fn lines(&self, start: *const u8, length: usize) -> Option<(usize, usize)> {
        let offset = (start as usize).checked_sub(self.start.as_ptr() as usize)?;
        let end = offset.checked_add(length)?.next_multiple_of(LINE).min(self.length);
        let first = offset / LINE * LINE;
        (first < end).then(|| (first, end - first))
    }

    /// Writes the CPU's cache lines back to RAM.
    pub(super) fn clean(&self, start: *const u8, length: usize) {
        if let Some((first, bytes)) = self.lines(start, length)
            && self.ram != self.start
        {
            // SAFETY: inside both allocations, which are distinct.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.start.as_ptr().add(first),
                    self.ram.as_ptr().add(first),
                    bytes,
                );
            };
        }
    }

    /// Drops the CPU's cache lines; later reads come from RAM.
    pub(super) fn invalidate(&self, start: *const u8, length: usize) {
        if let Some((first, bytes)) = self.lines(start, length)
            && self.ram != self.start
        {
            // SAFETY: inside both allocations, which are distinct.
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

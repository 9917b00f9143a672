//! Memory shared by driver and device: rings, request headers, status bytes.

use core::ptr::NonNull;

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;
use volatile::VolatilePtr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Maximum size of a cache line: the granularity of non-coherent DMA. Most CPUs have 64 bytes, some 128.
pub const LINE: usize = 128;

/// Shared memory. Every access is volatile and bounded, and there are never references into it, since the
/// device may write at any moment.
///
/// If DMA is not coherent, [clean](Shared::clean) the data before telling the device, and
/// [invalidate](Shared::invalidate) the device's data before reading it. Data of the driver and data of the
/// device never share a [`LINE`], so that neither operation damages the other's bytes.
#[derive(Debug)]
pub struct Shared {
    memory: DmaBuffer,
}

impl Shared {
    /// Shares the buffer.
    pub fn new(memory: DmaBuffer) -> Shared {
        Shared { memory }
    }

    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.memory.len() {
            return None;
        }
        // SAFETY: offset is inside the buffer.
        let place = unsafe { self.memory.address().add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }

    /// Reads a value at a byte offset; `None` if it is not aligned or not wholly inside.
    #[inline]
    pub fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: inside the buffer, which we own, and aligned; any bytes are a T; only the device accesses
        // it too.
        Some(unsafe { VolatilePtr::new(place) }.read())
    }

    /// Writes a value at a byte offset; does nothing if it is not aligned or not wholly inside.
    #[inline]
    pub fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: T) {
        if let Some(place) = self.at::<T>(offset) {
            // SAFETY: inside the buffer, which we own exclusively, and aligned; only the device accesses it
            // too.
            unsafe { VolatilePtr::new(place) }.write(value);
        }
    }

    /// Makes `length` bytes at an offset, written by the CPU, visible to the device.
    #[inline]
    pub fn clean(&self, offset: usize, length: usize, platform: &dyn Platform) {
        if let Some(start) = self.range(offset, length) {
            platform.clean_for_device(start, length);
        }
    }

    /// Makes `length` bytes at an offset, possibly written by the device, visible to the CPU.
    #[inline]
    pub fn invalidate(&self, offset: usize, length: usize, platform: &dyn Platform) {
        if let Some(start) = self.range(offset, length) {
            platform.invalidate_from_device(start, length);
        }
    }

    fn range(&self, offset: usize, length: usize) -> Option<*const u8> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.memory.len());
        inside.then(|| self.memory.address().as_ptr().wrapping_add(offset).cast_const())
    }

    /// Zeroes everything, for the device too. Call only while the device cannot access it.
    pub fn clear(&mut self, platform: &dyn Platform) {
        for offset in 0..self.memory.len() {
            self.write(offset, 0_u8);
        }
        self.clean(0, self.memory.len(), platform);
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Bus address of the byte at an offset.
    pub fn bus_address(&self, offset: usize) -> u64 {
        self.memory.bus_address().wrapping_add(offset as u64)
    }

    /// Feeds its addresses, for CPU and device.
    pub fn integrity(&self, digest: &mut Digest) {
        digest
            .number(self.memory.address().as_ptr() as u64)
            .number(self.memory.bus_address())
            .number(self.memory.len() as u64);
    }
}

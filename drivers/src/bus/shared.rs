//! Memory that driver and device use at the same time: rings, request headers, status bytes.

use core::ptr::NonNull;

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;
use volatile::VolatilePtr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes in a cache line, at most: what DMA that is not coherent has to keep apart. Most CPUs have 64, some 128.
pub const LINE: usize = 128;

/// Shared memory: every access is volatile and bounded, and no reference into it is ever made, since the device may
/// write at any moment.
///
/// Where DMA is not coherent, what was written has to be [cleaned](Shared::clean) before the device is told, and what the
/// device writes [invalidated](Shared::invalidate) before it is read. So that neither harms the other's bytes, what the
/// driver writes and what the device writes never share a [`LINE`].
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

    /// Reads what is at a byte offset; `None` if it is not aligned or not wholly inside.
    #[inline]
    pub fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: inside the buffer, which we own, aligned, and any bytes are a T; the device is the only other party.
        Some(unsafe { VolatilePtr::new(place) }.read())
    }

    /// Writes a value at a byte offset; nothing if it is not aligned or not wholly inside.
    #[inline]
    pub fn write<T: IntoBytes + Immutable + Copy>(&mut self, offset: usize, value: T) {
        if let Some(place) = self.at::<T>(offset) {
            // SAFETY: inside the buffer, which we own exclusively, and aligned; the device is the only other party.
            unsafe { VolatilePtr::new(place) }.write(value);
        }
    }

    /// Makes `length` bytes that were written at an offset visible to the device.
    #[inline]
    pub fn clean(&self, offset: usize, length: usize, platform: &dyn Platform) {
        if let Some(start) = self.range(offset, length) {
            platform.clean_for_device(start, length);
        }
    }

    /// Makes `length` bytes that the device may have written at an offset visible to the CPU.
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

    /// Zeroes all of it, for the device too. Only while the device cannot reach it.
    pub fn clear(&mut self, platform: &dyn Platform) {
        for offset in 0..self.memory.len() {
            self.write(offset, 0_u8);
        }
        self.clean(0, self.memory.len(), platform);
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Where the device sees the byte at an offset.
    pub fn bus_address(&self, offset: usize) -> u64 {
        self.memory.bus_address().wrapping_add(offset as u64)
    }

    /// Feeds where it is, for CPU and device.
    pub fn integrity(&self, digest: &mut Digest) {
        digest
            .number(self.memory.address().as_ptr() as u64)
            .number(self.memory.bus_address())
            .number(self.memory.len() as u64);
    }
}

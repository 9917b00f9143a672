//! Memory that driver and device use at the same time: rings, request headers, status bytes.

use core::ptr::NonNull;

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use volatile::VolatilePtr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Shared memory: every access is volatile and bounded, and no reference into it is ever made, since the device may
/// write at any moment.
///
/// It must be coherent: what the device writes is seen by the CPU without cache maintenance.
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

    /// Reads what stands at a byte offset; `None` if it is not aligned or not wholly inside.
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

    /// Zeroes all of it. Only while the device cannot reach it.
    pub fn clear(&mut self) {
        for offset in 0..self.memory.len() {
            self.write(offset, 0_u8);
        }
    }

    /// Where the device sees the byte at an offset.
    pub fn bus_address(&self, offset: usize) -> u64 {
        self.memory.bus_address().wrapping_add(offset as u64)
    }

    /// Feeds where it is, for CPU and device.
    pub fn seal(&self, digest: &mut Digest) {
        digest
            .number(self.memory.address().as_ptr() as u64)
            .number(self.memory.bus_address())
            .number(self.memory.len() as u64);
    }
}

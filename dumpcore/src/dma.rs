//! Memory that a device may read and write: buffers from the arena, each owned by exactly one party.

use core::ptr::NonNull;

use crate::format::BLOCK_SIZE;
use crate::platform::Platform;

/// A piece of the arena with an owner. Whoever has it may touch the memory; a request in flight has given it
/// to the device, so that nobody else can.
#[derive(Debug)]
pub struct DmaBuffer {
    start: NonNull<u8>,
    bus: u64,
    length: usize,
}

// SAFETY: a buffer is the only handle to its memory, so moving it moves the memory.
unsafe impl Send for DmaBuffer {}

/// Where a buffer is: what is kept of one that was given away.
#[derive(Clone, Copy, Debug)]
pub struct DmaPlace {
    start: NonNull<u8>,
    bus: u64,
    length: usize,
}

// SAFETY: three numbers; touching what they name takes a DmaBuffer.
unsafe impl Send for DmaPlace {}

impl DmaPlace {
    /// The buffer once more.
    ///
    /// # Safety
    /// Whoever had the buffer will not touch its memory any more, and no device writes to it any more.
    pub unsafe fn buffer(&self) -> DmaBuffer {
        // SAFETY: the place is that of a buffer, for which new() was promised the rest.
        unsafe { DmaBuffer::new(self.start, self.bus, self.length) }
    }

    /// Everything that must be the same at the crash.
    pub fn integrity(&self, digest: &mut crate::integrity::Digest) {
        digest.number(self.start.as_ptr() as u64).number(self.bus).number(self.length as u64);
    }
}

impl DmaBuffer {
    /// Where it is.
    pub fn place(&self) -> DmaPlace {
        DmaPlace { start: self.start, bus: self.bus, length: self.length }
    }

    /// A buffer over `length` bytes at `start`, which a device sees at bus address `bus`.
    ///
    /// # Safety
    /// The memory is valid for reads and writes for as long as the buffer or a part of it exists, is
    /// initialised, and nobody else touches it, but for a device to which the buffer was given. `bus` is
    /// where the device sees it, without a gap.
    pub const unsafe fn new(start: NonNull<u8>, bus: u64, length: usize) -> DmaBuffer {
        DmaBuffer { start, bus, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the promise given to new(); a shared borrow of self keeps others from writing.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the promise given to new(); the exclusive borrow of self makes this the only access.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Makes its bytes visible to a device that will read them, or ready for one that will write them.
    pub fn clean_for_device(&self, platform: &dyn Platform) {
        platform.clean_for_device(self.start.as_ptr(), self.length);
    }

    /// Makes what a device wrote visible in its bytes.
    pub fn invalidate_from_device(&self, platform: &dyn Platform) {
        platform.invalidate_from_device(self.start.as_ptr(), self.length);
    }

    /// The bytes as blocks; what is after the last whole block is left out.
    pub fn blocks(&self) -> &[[u8; BLOCK_SIZE]] {
        self.bytes().as_chunks().0
    }

    /// The bytes as blocks, to write.
    pub fn blocks_mut(&mut self) -> &mut [[u8; BLOCK_SIZE]] {
        self.bytes_mut().as_chunks_mut().0
    }

    /// Where a device sees the first byte.
    pub fn bus_address(&self) -> u64 {
        self.bus
    }

    /// Where the CPU sees the first byte.
    pub fn address(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Splits it in two at `at`; beyond the end, the second is empty.
    pub fn split(self, at: usize) -> (DmaBuffer, DmaBuffer) {
        let at = at.min(self.length);
        // SAFETY: at is within the memory, or just after it.
        let middle = unsafe { self.start.add(at) };
        let first = DmaBuffer { start: self.start, bus: self.bus, length: at };
        let second = DmaBuffer {
            start: middle,
            bus: self.bus.wrapping_add(at as u64),
            length: self.length.wrapping_sub(at),
        };
        (first, second)
    }

    /// Joins two that lie one behind the other, the reverse of [`split`](DmaBuffer::split).
    ///
    /// # Errors
    /// Both, if they do not.
    pub fn join(self, behind: DmaBuffer) -> Result<DmaBuffer, (DmaBuffer, DmaBuffer)> {
        let end = self.start.as_ptr().wrapping_add(self.length);
        if end != behind.start.as_ptr() || self.bus.wrapping_add(self.length as u64) != behind.bus {
            return Err((self, behind));
        }
        Ok(DmaBuffer { start: self.start, bus: self.bus, length: self.length.wrapping_add(behind.length) })
    }
}

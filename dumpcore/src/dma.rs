//! Memory that a device may read and write: buffers from the arena, each with exactly one owner.

use core::ptr::NonNull;

use crate::format::BLOCK_SIZE;
use crate::platform::Platform;

/// A piece of the arena with an owner. Only the owner may touch the memory; a request in flight has passed
/// ownership to the device.
#[derive(Debug)]
pub struct DmaBuffer {
    start: NonNull<u8>,
    bus: u64,
    length: usize,
}

// SAFETY: a buffer is the only handle to its memory, so moving it moves the memory.
unsafe impl Send for DmaBuffer {}

/// Where a buffer is. It is kept for a buffer that was given away.
#[derive(Clone, Copy, Debug)]
pub struct DmaPlace {
    start: NonNull<u8>,
    bus: u64,
    length: usize,
}

// SAFETY: just three numbers; access to the memory takes a DmaBuffer.
unsafe impl Send for DmaPlace {}

impl DmaPlace {
    /// Creates the buffer again.
    ///
    /// # Safety
    /// The previous owner of the buffer no longer touches its memory, and no device writes to it.
    pub unsafe fn buffer(&self) -> DmaBuffer {
        // SAFETY: the place is that of a buffer, for which the promise of new() was made; the caller promises
        // the rest.
        unsafe { DmaBuffer::new(self.start, self.bus, self.length) }
    }

    /// Feeds everything into `digest` that must be the same at the crash.
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
    /// The memory is initialised, and valid for reads and writes as long as the buffer or a part of it
    /// exists. No one else touches it, except a device that was given the buffer. `bus` is the address at
    /// which the device sees it, contiguously.
    pub const unsafe fn new(start: NonNull<u8>, bus: u64, length: usize) -> DmaBuffer {
        DmaBuffer { start, bus, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the promise made to new(); a shared borrow of self keeps others from writing.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the promise made to new(); the exclusive borrow of self makes this the only access.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Makes its bytes visible to a device that will read them, or prepares them for a device that will write
    /// them.
    pub fn clean_for_device(&self, platform: &dyn Platform) {
        platform.clean_for_device(self.start.as_ptr(), self.length);
    }

    /// Makes the data that a device wrote visible in its bytes.
    pub fn invalidate_from_device(&self, platform: &dyn Platform) {
        platform.invalidate_from_device(self.start.as_ptr(), self.length);
    }

    /// The bytes as blocks, without any bytes after the last whole block.
    pub fn blocks(&self) -> &[[u8; BLOCK_SIZE]] {
        self.bytes().as_chunks().0
    }

    /// The bytes as blocks, for writing.
    pub fn blocks_mut(&mut self) -> &mut [[u8; BLOCK_SIZE]] {
        self.bytes_mut().as_chunks_mut().0
    }

    /// Bus address of the first byte.
    pub fn bus_address(&self) -> u64 {
        self.bus
    }

    /// Virtual address of the first byte.
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

    /// Splits it in two at `at`. If `at` is beyond the end, the second part is empty.
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

    /// Joins two adjacent buffers; the reverse of [`split`](DmaBuffer::split).
    ///
    /// # Errors
    /// Both buffers, if they are not adjacent.
    pub fn join(self, behind: DmaBuffer) -> Result<DmaBuffer, (DmaBuffer, DmaBuffer)> {
        let end = self.start.as_ptr().wrapping_add(self.length);
        if end != behind.start.as_ptr() || self.bus.wrapping_add(self.length as u64) != behind.bus {
            return Err((self, behind));
        }
        Ok(DmaBuffer { start: self.start, bus: self.bus, length: self.length.wrapping_add(behind.length) })
    }
}

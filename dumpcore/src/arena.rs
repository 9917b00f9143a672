//! The arena: all the memory that a dump ever uses, handed over while the kernel was healthy.
//!
//! Everything that a dump changes is in the arena: driver state, rings, buffers, the dump's own stack. The
//! rest of memory stays as it was at the crash.

use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use crate::dma::DmaBuffer;
use crate::stack::{RED_ZONE, RedZone, STACK_ALIGN, STACK_SIZE};

/// The arena has fewer free bytes than were requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfArena {
    /// Number of bytes requested.
    pub bytes: usize,
}

/// Memory that is handed out from the front and never taken back. [`new`](Arena::new) reserves the dump's own
/// stack first, so that a stack overflow runs out of the arena.
#[derive(Debug)]
pub struct Arena<'a> {
    start: NonNull<u8>,
    bus: u64,
    physical: u64,
    length: usize,
    used: usize,
    /// The dump's stack with its red zone below it, until they are taken; `None` if they did not fit.
    stack: Option<NonNull<u8>>,
    _memory: core::marker::PhantomData<&'a mut [u8]>,
}

// SAFETY: the arena is the only handle to the memory that it has not handed out.
unsafe impl Send for Arena<'_> {}

impl<'a> Arena<'a> {
    /// Recommended size for one disk and the default configuration: 1 MiB.
    pub const DEFAULT_SIZE: usize = 1 << 20;

    /// An arena over `memory`, at physical address `physical` and bus address `bus` (usually the same).
    ///
    /// # Safety
    /// The memory is physically contiguous, `physical` and `bus` are its addresses, and they never change. It
    /// is never used for anything else, not even after the arena is dropped: buffers taken from it have no
    /// lifetime, and devices may still hold them.
    pub unsafe fn new(memory: &'a mut [u8], physical: u64, bus: u64) -> Arena<'a> {
        let length = memory.len();
        // SAFETY: the caller's promise; the memory is exclusively borrowed for 'a.
        unsafe { Arena::at(NonNull::from(memory).cast(), length, physical, bus) }
    }

    /// An arena over the `length` bytes at `start`, like [`new`](Arena::new), for a caller that keeps a
    /// pointer to them. A device implemented in software does: it reads and writes the buffers, which it must
    /// not do while an exclusive borrow exists.
    ///
    /// # Safety
    /// As for [`new`](Arena::new). The bytes are also valid for reads and writes during 'a, and no one else
    /// touches any of them while a reference to it is in use.
    pub unsafe fn at(start: NonNull<u8>, length: usize, physical: u64, bus: u64) -> Arena<'a> {
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(0, length) };
        let mut arena =
            Arena { start, bus, physical, length, used: 0, stack: None, _memory: core::marker::PhantomData };
        arena.stack =
            arena.take(RED_ZONE.saturating_add(STACK_SIZE), STACK_ALIGN).ok().map(|(start, _)| start);
        arena
    }

    /// Size in bytes, including what was handed out.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes handed out, including those lost to alignment.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Physical address of the first byte.
    pub fn physical(&self) -> u64 {
        self.physical
    }

    /// The next `bytes` bytes whose bus and virtual addresses are multiples of `align` (a power of two).
    fn take(&mut self, bytes: usize, align: usize) -> Result<(NonNull<u8>, u64), OutOfArena> {
        let out = OutOfArena { bytes };
        let here = (self.start.as_ptr() as usize).checked_add(self.used).ok_or(out)?;
        let skip = here.checked_next_multiple_of(align).ok_or(out)?.wrapping_sub(here);
        let first = self.used.checked_add(skip).ok_or(out)?;
        let end = first.checked_add(bytes).filter(|end| *end <= self.length).ok_or(out)?;
        let bus = self.bus.checked_add(first as u64).ok_or(out)?;
        if !bus.is_multiple_of(align as u64) && align <= crate::format::PAGE_SIZE {
            return Err(out);
        }
        self.used = end;
        // SAFETY: first is inside the memory.
        Ok((unsafe { self.start.add(first) }, bus))
    }

    /// Memory for a device to read and write, zeroed. `align` is a power of two, at most a page.
    ///
    /// # Errors
    /// If not enough is left, or if bus and virtual addresses are aligned differently.
    pub fn dma(&mut self, bytes: usize, align: usize) -> Result<DmaBuffer, OutOfArena> {
        let (start, bus) = self.take(bytes, align.min(crate::format::PAGE_SIZE))?;
        // SAFETY: take() hands out each byte once; new() has zeroed the memory and was promised its address.
        // The buffer has no lifetime, but only a dump can use it, and a dump borrows the arena for 'a.
        Ok(unsafe { DmaBuffer::new(start, bus, bytes) })
    }

    /// Moves a value into the arena, for as long as the arena's memory lives. It is never dropped.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn place<T>(&mut self, value: T) -> Result<&'a mut T, OutOfArena> {
        let (start, _) = self.take(size_of::<T>(), align_of::<T>())?;
        let slot = start.cast::<T>();
        // SAFETY: only we got these bytes from take(); they are aligned for T and alive for 'a.
        unsafe {
            slot.write(value);
            Ok(&mut *slot.as_ptr())
        }
    }

    /// The dump's own stack with the red zone below it. Can be taken once.
    ///
    /// # Errors
    /// If the arena is too small for it.
    pub(crate) fn own_stack(&mut self) -> Result<(RedZone, &'a mut [u8]), OutOfArena> {
        let start = self.stack.take().ok_or(OutOfArena { bytes: RED_ZONE.saturating_add(STACK_SIZE) })?;
        // SAFETY: new() reserved these bytes for this purpose only.
        Ok(unsafe { Arena::lay_stack(start, RED_ZONE, STACK_SIZE) })
    }

    /// Another stack of `bytes` bytes, with a red zone of `zone` bytes below it.
    ///
    /// # Errors
    /// If not enough is left.
    pub(crate) fn stack(&mut self, zone: usize, bytes: usize) -> Result<(RedZone, &'a mut [u8]), OutOfArena> {
        let (start, _) = self.take(zone.saturating_add(bytes), STACK_ALIGN)?;
        // SAFETY: only we got these bytes from take().
        Ok(unsafe { Arena::lay_stack(start, zone, bytes) })
    }

    /// A stack of `bytes` bytes, after a red zone of `zone` bytes that begins at `start`.
    ///
    /// # Safety
    /// `zone + bytes` bytes from `start` on were taken from the arena with the alignment of stacks, and no
    /// one else uses them.
    unsafe fn lay_stack(start: NonNull<u8>, zone: usize, bytes: usize) -> (RedZone, &'a mut [u8]) {
        // SAFETY: the caller's promise; new() zeroed the memory, it is alive for 'a, and zone and stack do
        // not overlap.
        unsafe {
            (RedZone::lay(start, zone), core::slice::from_raw_parts_mut(start.add(zone).as_ptr(), bytes))
        }
    }

    /// Plain bytes, zeroed.
    ///
    /// # Errors
    /// If not enough is left.
    pub fn bytes(&mut self, bytes: usize, align: usize) -> Result<&'a mut [u8], OutOfArena> {
        let (start, _) = self.take(bytes, align)?;
        // SAFETY: only we got these bytes from take(); new() zeroed them, and they are alive for 'a.
        Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
    }
}

//! The dump's own stack: where it is, how its use is measured, and how an overflow is detected.
//!
//! It is the first thing in the arena, so an overflow leaves the arena and never reaches memory that the dump
//! trusts. Below it is a red zone with a known pattern, as below each helper's stack. If a zone was written
//! to, nothing can be trusted any more: the zones are checked before each write to a disk, and no write
//! happens after one is damaged.

use core::ptr::NonNull;

use zeroize::Zeroize;

use crate::integrity::Digest;
use crate::limits::MAX_HELPERS;

/// Size in bytes of the stack that the dump runs on. Unoptimised code needs more than 22,000 bytes.
pub const STACK_SIZE: usize = if cfg!(debug_assertions) { 64 << 10 } else { 16 << 10 };

/// Size in bytes of a helper's stack.
pub const HELPER_STACK: usize = if cfg!(debug_assertions) { 24 << 10 } else { 8 << 10 };

/// Size in bytes of the red zone below the dump's stack: as large as the largest frame that is not probed
/// page by page, so that no frame skips it.
pub const RED_ZONE: usize = 4 << 10;

/// Size in bytes of the red zone below a helper's stack, on which there are no large frames.
pub const HELPER_RED_ZONE: usize = 1 << 10;

/// Alignment of a stack.
pub(crate) const STACK_ALIGN: usize = 64;

/// The paint on unused stack, so that its use can be measured.
pub(crate) const STACK_PAINT: u8 = 0xa5;

/// Memory below a stack that must not be written to.
#[derive(Clone, Copy, Debug)]
pub struct RedZone {
    start: NonNull<u64>,
    words: usize,
}

// SAFETY: two numbers; the memory that they name is only read volatilely, as memory that may change.
unsafe impl Send for RedZone {}
// SAFETY: as above.
unsafe impl Sync for RedZone {}

impl RedZone {
    /// Fills the `bytes` bytes at `start` with the pattern.
    ///
    /// # Safety
    /// They are aligned to 8, stay readable and writable for good, and are used for nothing else.
    pub(crate) unsafe fn lay(start: NonNull<u8>, bytes: usize) -> RedZone {
        let zone = RedZone { start: start.cast(), words: bytes / 8 };
        for number in 0..zone.words {
            // SAFETY: within the bytes that the caller promised.
            unsafe { zone.start.add(number).write_volatile(word(number)) };
        }
        zone
    }

    /// Whether it is unchanged.
    pub(crate) fn is_whole(&self) -> bool {
        (0..self.words).all(|number| {
            // SAFETY: within the bytes promised to lay(). Volatile, because an overflow writes to it without
            // the compiler's knowledge.
            unsafe { self.start.add(number).read_volatile() == word(number) }
        })
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.start.as_ptr() as u64).number(self.words as u64);
    }
}

/// The pattern: no word occurs twice, and none is small or an address.
fn word(number: usize) -> u64 {
    (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The red zones of all stacks that a dump uses.
#[derive(Debug)]
pub struct RedZones([Option<RedZone>; 1 + MAX_HELPERS]);

impl RedZones {
    /// No zones: for code that does not run on a stack in the arena.
    pub const NONE: RedZones = RedZones([None; 1 + MAX_HELPERS]);

    /// The zone of the dump's own stack.
    pub(crate) fn new(own: RedZone) -> RedZones {
        let mut zones = RedZones::NONE;
        zones.add(own);
        zones
    }

    /// Adds a zone; there is room for one per helper.
    pub(crate) fn add(&mut self, zone: RedZone) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(zone);
        }
    }

    /// Whether no stack has overflowed.
    pub fn are_whole(&self) -> bool {
        self.0.iter().flatten().all(RedZone::is_whole)
    }

    pub(crate) fn integrity(&self, digest: &mut Digest) {
        for zone in self.0.iter().flatten() {
            zone.integrity(digest);
        }
    }
}

/// Bytes wiped below a frame: more than the key agreement uses.
const WIPED: usize = if cfg!(debug_assertions) { 16 << 10 } else { 6 << 10 };

/// Wipes the stack below the caller's frame, where functions that have returned left data.
#[inline(never)]
pub(crate) fn wipe_below() {
    let mut left = [0_u8; WIPED];
    left.zeroize();
    core::hint::black_box(&mut left);
}

/// Paints a stack that is not in use; its content is lost.
pub(crate) fn paint(stack: &mut [u8]) {
    stack.fill(STACK_PAINT);
}

/// The end of a stack, from which it grows down.
#[inline]
pub fn top(stack: NonNull<[u8]>) -> *mut u8 {
    stack.cast::<u8>().as_ptr().wrapping_add(stack.len())
}

/// A painted stack, to measure how much of it was used.
pub(crate) struct Painted {
    start: NonNull<u8>,
    length: usize,
}

impl Painted {
    /// A stack that [`paint`] has painted and that has not been used since.
    pub(crate) fn of(stack: NonNull<[u8]>) -> Painted {
        Painted { start: stack.cast(), length: stack.len() }
    }

    /// Its size in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Bytes used, counted from the first byte whose paint is gone.
    pub(crate) fn used(&self) -> usize {
        let is_clean = |at: &usize| {
            // SAFETY: inside the stack, which is in the arena. Volatile, because it is in use as a stack.
            let byte = unsafe { self.start.add(*at).read_volatile() };
            byte == STACK_PAINT
        };
        let clean = (0..self.length).take_while(is_clean).count();
        self.length.saturating_sub(clean)
    }
}

/// Calls `run` on the stack that ends at `top`, and returns true. Returns `false`, without calling it, on an
/// architecture without an implementation.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that is large enough and otherwise unused. `run` does not
/// unwind.
pub unsafe fn call_on(top: *mut u8, run: &mut dyn FnMut()) -> bool {
    let mut run = run;
    let word = (&raw mut run).cast::<u8>();
    // SAFETY: the caller's promise; `run` outlives the call.
    unsafe { switch::call(top, switch::run, word) }
}

#[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
macro_rules! switch_by {
    ($abi:literal, $($line:literal),+ $(,)?) => {
        /// Runs on the other stack; `word` points to the closure's reference.
        pub(super) extern $abi fn run(word: *mut u8) {
            // SAFETY: call_on() passes a pointer to its own `run`, and waits.
            let run = unsafe { &mut *word.cast::<&mut dyn FnMut()>() };
            run();
        }

        /// # Safety
        /// As [`call_on`](super::call_on).
        pub(super) unsafe fn call(top: *mut u8, run: extern $abi fn(*mut u8), word: *mut u8) -> bool {
            // SAFETY: the caller's promise.
            unsafe { switch(top, run, word) };
            true
        }

        /// # Safety
        /// As [`call_on`](super::call_on).
        #[unsafe(naked)]
        unsafe extern $abi fn switch(top: *mut u8, run: extern $abi fn(*mut u8), word: *mut u8) {
            core::arch::naked_asm!($($line),+)
        }
    };
}

#[cfg(all(not(miri), target_arch = "x86_64"))]
mod switch {
    switch_by!(
        "sysv64",
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rdi, rdx",
        "call rsi",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    );
}

#[cfg(all(not(miri), target_arch = "aarch64"))]
mod switch {
    switch_by!(
        "C",
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov sp, x0",
        "mov x0, x2",
        "blr x1",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
    );
}

#[cfg(all(not(miri), target_arch = "riscv64"))]
mod switch {
    switch_by!(
        "C",
        "addi sp, sp, -16",
        "sd ra, 8(sp)",
        "sd s0, 0(sp)",
        "mv s0, sp",
        "mv sp, a0",
        "mv a0, a2",
        "jalr a1",
        "mv sp, s0",
        "ld ra, 8(sp)",
        "ld s0, 0(sp)",
        "addi sp, sp, 16",
        "ret",
    );
}

/// Miri cannot switch stacks: the call is made on the current one.
#[cfg(miri)]
mod switch {
    pub(super) extern "C" fn run(word: *mut u8) {
        // SAFETY: call_on() passes a pointer to its own `run`, and waits.
        let run = unsafe { &mut *word.cast::<&mut dyn FnMut()>() };
        run();
    }

    /// # Safety
    /// As [`call_on`](super::call_on).
    pub(super) unsafe fn call(_: *mut u8, run: extern "C" fn(*mut u8), word: *mut u8) -> bool {
        run(word);
        true
    }
}

#[cfg(not(any(miri, target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod switch {
    pub(super) extern "C" fn run(_: *mut u8) {}

    /// # Safety
    /// None: it does nothing.
    pub(super) unsafe fn call(_: *mut u8, _: extern "C" fn(*mut u8), _: *mut u8) -> bool {
        false
    }
}

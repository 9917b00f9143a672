//! The dump's own stack: where it lies, how much of it was used, and how an overflow is found out.
//!
//! It comes first in the arena, so what grows out of it leaves the arena and never runs into what the dump
//! trusts. Below it is a red zone, memory with a known pattern, as below the stack of each CPU that helps. A
//! zone that was written to means that nothing can be relied on any more: it is looked at before each write
//! to a disk, and there is none afterwards.

use core::ptr::NonNull;

use crate::integrity::Digest;
use crate::limits::MAX_HELPERS;

/// Bytes of the stack that the dump runs on. Code that is not optimised needs more than 22,000 of them.
pub const STACK_SIZE: usize = if cfg!(debug_assertions) { 64 << 10 } else { 16 << 10 };

/// Bytes of a helping CPU's stack.
pub const HELPER_STACK: usize = if cfg!(debug_assertions) { 24 << 10 } else { 8 << 10 };

/// Bytes of the red zone below the dump's stack: as long as the largest frame that is not probed page by
/// page, so none reaches over it.
pub const RED_ZONE: usize = 4 << 10;

/// Bytes of the red zone below a helping CPU's stack, on which there are no large frames.
pub const HELPER_RED_ZONE: usize = 1 << 10;

/// What a stack is aligned to.
pub(crate) const STACK_ALIGN: usize = 64;

/// What the stack is painted with, so that its use can be measured.
pub(crate) const STACK_PAINT: u8 = 0xa5;

/// Memory below a stack that nobody writes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedZone {
    start: NonNull<u64>,
    words: usize,
}

// SAFETY: two numbers; who looks at what they name reads it as memory that anybody may change.
unsafe impl Send for RedZone {}
// SAFETY: as above.
unsafe impl Sync for RedZone {}

impl RedZone {
    /// Lays the pattern over `bytes` bytes at `start`.
    ///
    /// # Safety
    /// They are aligned to 8, can be read and written for good, and are used for nothing else.
    pub(crate) unsafe fn lay(start: NonNull<u8>, bytes: usize) -> RedZone {
        let zone = RedZone { start: start.cast(), words: bytes / 8 };
        for number in 0..zone.words {
            // SAFETY: inside of what the caller promised.
            unsafe { zone.start.add(number).write_volatile(word(number)) };
        }
        zone
    }

    /// Whether nobody has written to it.
    pub(crate) fn is_whole(&self) -> bool {
        (0..self.words).all(|number| {
            // SAFETY: inside of what lay() was promised. Volatile, since an overflow writes to it behind the
            // compiler's back.
            unsafe { self.start.add(number).read_volatile() == word(number) }
        })
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.start.as_ptr() as u64).number(self.words as u64);
    }
}

/// The pattern: no word comes twice, and none is an address or small.
fn word(number: usize) -> u64 {
    (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The red zones of all stacks that a dump uses.
#[derive(Debug)]
pub(crate) struct RedZones([Option<RedZone>; 1 + MAX_HELPERS]);

impl RedZones {
    /// None: for code that runs on no stack of the arena.
    pub(crate) const NONE: RedZones = RedZones([None; 1 + MAX_HELPERS]);

    /// That of the dump's own stack.
    pub(crate) fn new(own: RedZone) -> RedZones {
        let mut zones = RedZones::NONE;
        zones.add(own);
        zones
    }

    /// Adds one; there is a place for each CPU that may help.
    pub(crate) fn add(&mut self, zone: RedZone) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(zone);
        }
    }

    /// Whether no stack has overflowed.
    pub(crate) fn are_whole(&self) -> bool {
        self.0.iter().flatten().all(RedZone::is_whole)
    }

    pub(crate) fn integrity(&self, digest: &mut Digest) {
        for zone in self.0.iter().flatten() {
            zone.integrity(digest);
        }
    }
}

/// Bytes below a frame that are wiped: more than agreeing on a key takes.
#[cfg(feature = "encryption")]
const WIPED: usize = if cfg!(debug_assertions) { 16 << 10 } else { 6 << 10 };

/// Wipes the stack below the caller's frame: what functions that have returned left there.
#[cfg(feature = "encryption")]
#[inline(never)]
pub(crate) fn wipe_below() {
    let mut left = [0_u8; WIPED];
    zeroize::Zeroize::zeroize(&mut left);
    core::hint::black_box(&mut left);
}

/// Paints a stack that is not in use; what was on it is gone.
pub(crate) fn paint(stack: &mut [u8]) {
    stack.fill(STACK_PAINT);
}

/// The end of a stack: where it grows from.
#[inline]
pub fn top(stack: NonNull<[u8]>) -> *mut u8 {
    stack.cast::<u8>().as_ptr().wrapping_add(stack.len())
}

/// A stack that was painted, to see how much of it was used.
pub(crate) struct Painted {
    start: NonNull<u8>,
    length: usize,
}

impl Painted {
    /// Of a stack that [`paint`] has painted, and nobody used since.
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
            // SAFETY: inside the stack, which lies in the arena. Volatile, since it is in use as a stack.
            let byte = unsafe { self.start.add(*at).read_volatile() };
            byte == STACK_PAINT
        };
        let clean = (0..self.length).take_while(is_clean).count();
        self.length.saturating_sub(clean)
    }
}

/// Calls `run` on the stack that ends at `top`, and comes back. `false`, with nothing done, on an
/// architecture for which nobody has written this.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that nobody else uses and that is large enough. `run` does not
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

/// Miri has no stack that could be switched: the call is made on the one that there is.
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

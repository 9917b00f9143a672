//! Measures how much of the crashed stack a dump uses: the stack below is painted, and examined afterwards.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch::{cpu, stack};
use crate::log::Text;

/// The paint.
const PAINT: u64 = 0x7061_696e_7465_6421;
/// Bytes below its caller that `paint` uses itself and cannot paint.
const OWN: u64 = 512;

static ENABLED: AtomicBool = AtomicBool::new(false);
/// Stack pointer of `paint`'s caller; 0 if not painted, or already reported.
static BEGIN: AtomicU64 = AtomicU64::new(0);

/// Requests a measurement of the next crash.
pub(crate) fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Paints the stack below the caller, if a measurement was requested.
#[inline(never)]
pub(crate) fn paint() {
    if !ENABLED.swap(false, Ordering::Relaxed) {
        return;
    }
    let here = stack::pointer();
    BEGIN.store(here, Ordering::Relaxed);
    let mut at = stack::bottom(cpu::number()) as u64;
    while at < here - OWN {
        // SAFETY: below the stack pointer, inside this CPU's stack: unused, and interrupts are off.
        unsafe { (at as *mut u64).write_volatile(PAINT) };
        at += 8;
    }
}

/// Reports, once, how deep the stack was used since `paint`.
pub(crate) fn report() {
    let begin = BEGIN.swap(0, Ordering::Relaxed);
    if begin == 0 {
        return;
    }
    let bottom = stack::bottom(cpu::number()) as u64;
    let mut at = bottom;
    // SAFETY: inside this CPU's stack, all of which is initialised.
    while at < begin && unsafe { (at as *const u64).read_volatile() } == PAINT {
        at += 8;
    }
    let mut line = Text::<128>::new();
    // Cannot fail: Text accepts what fits.
    let _ = core::fmt::Write::write_fmt(
        &mut line,
        format_args!("testkernel: stack used={} of={}\n", begin - at, begin - bottom),
    );
    crate::arch::console::write_raw(line.as_str());
}

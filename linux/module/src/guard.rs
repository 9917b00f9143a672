//! The guard: a CPU that resets the machine after the dump if the panic notifiers take too long.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dumpcore::Platform;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{SECOND, Wait};

use crate::{kernel, stop};

/// The CPUs that can stand guard are the first ones: one may be the dumping CPU, and one may not stop.
pub(crate) const GUARDS: usize = 3;

/// How long the panic notifiers may take after a dump, all together. A management controller is slow: some
/// IPMI records take a second each.
const HEARING: Nanoseconds = 30 * SECOND;

/// How long to wait for a guard.
const GUARD_COMES: Nanoseconds = SECOND / 10;

/// How often the guard reads the clock, and how many times at most: longer than [`HEARING`] only if the clock
/// stands still.
const GUARD_LOOKS: Nanoseconds = SECOND / 100;
const MOST_LOOKS: u32 = 10_000;

/// When the guard resets the machine; [`NEVER`] if no guard is needed.
static RESET_AT: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: Nanoseconds = u64::MAX;

/// Whether a CPU stands guard.
static IS_GUARDED: AtomicBool = AtomicBool::new(false);

/// After the dump, before the panic notifiers run: looks for a stopped CPU that will reset the machine if
/// they take too long. Returns false if there is none.
pub(crate) fn take(wait: &Wait<'_>) -> bool {
    RESET_AT.store(wait.now().saturating_add(HEARING), Ordering::Release);
    stop::over();
    let comes = || IS_GUARDED.load(Ordering::Acquire).then_some(());
    wait.until("a CPU that stands guard", GUARD_COMES, comes).is_ok()
}

/// Stands guard, if a guard is needed and this CPU is the first one.
pub(crate) fn stand(platform: &dyn Platform, stack: *mut u8) {
    extern "C" fn reset(_: *mut c_void) {
        kernel::restart();
    }
    let end = RESET_AT.load(Ordering::Acquire);
    if end == NEVER || IS_GUARDED.swap(true, Ordering::AcqRel) {
        return;
    }
    for _ in 0..MOST_LOOKS {
        if platform.now() >= end {
            break;
        }
        stop::rest(platform, GUARD_LOOKS);
    }
    // SAFETY: the stack in the arena is for the guard, which is only this CPU.
    unsafe { kernel::call_on(stack, reset, core::ptr::null_mut()) };
}

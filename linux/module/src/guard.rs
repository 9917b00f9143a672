//! A CPU that stands guard after the dump: it resets the machine if others that hear of the panic take too long.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dumpcore::Platform;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{SECOND, Wait};

use crate::{kernel, stop};

/// CPUs that can stand guard: the first ones, of which one may be the CPU that dumps, and one may not stop.
pub(crate) const GUARDS: usize = 3;

/// How long whoever else hears of the panic after a dump may take, all together. A management controller is slow: some records of
/// IPMI's take a second each.
const HEARING: Nanoseconds = 30 * SECOND;

/// How long a guard may take to come forward.
const GUARD_COMES: Nanoseconds = SECOND / 10;

/// How often a guard looks at the clock, and how often at most: longer than [`HEARING`] only if the clock stands still.
const GUARD_LOOKS: Nanoseconds = SECOND / 100;
const MOST_LOOKS: u32 = 10_000;

/// When the guard resets the machine; [`NEVER`] if nobody is to stand guard.
static RESET_AT: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: Nanoseconds = u64::MAX;

/// A CPU stands guard.
static IS_GUARDED: AtomicBool = AtomicBool::new(false);

/// The dump is over, and others are to hear of the panic: looks for a stopped CPU that resets the machine when that takes too long. False
/// if there is none.
pub(crate) fn take(wait: &Wait<'_>) -> bool {
    RESET_AT.store(wait.now().saturating_add(HEARING), Ordering::Release);
    stop::over();
    let comes = || IS_GUARDED.load(Ordering::Acquire).then_some(());
    wait.until("a CPU that stands guard", GUARD_COMES, comes).is_ok()
}

/// Stands guard, if this CPU is the first that can, and somebody has to.
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
    // SAFETY: the stack in the arena is for the one that stands guard, which is this CPU alone.
    unsafe { kernel::call_on(stack, reset, core::ptr::null_mut()) };
}

//! What has come of the dumps of a kernel that goes on.

use core::sync::atomic::{AtomicU32, Ordering};

use dumpcore::Outcome;

use crate::arch::cpu;
use crate::command_line::{Scenario, options};
use crate::end::{EXIT_COMPLETE, name_and_exit};

/// Dumps that have come back, whole or not.
static DUMPS: AtomicU32 = AtomicU32::new(0);
/// The exit value of the first dump that was not complete; 0 if all were.
static FAILED: AtomicU32 = AtomicU32::new(0);

/// A dump has come back.
pub(crate) fn note(outcome: &Outcome) {
    DUMPS.fetch_add(1, Ordering::Relaxed);
    let (_, exit) = name_and_exit(outcome);
    if exit != EXIT_COMPLETE {
        // The first one stays.
        let _ = FAILED.compare_exchange(0, exit, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How many dumps have come back.
pub(crate) fn dumps() -> u32 {
    DUMPS.load(Ordering::Relaxed)
}

/// The exit value of all dumps that have come back.
pub(crate) fn exit_value() -> u32 {
    match FAILED.load(Ordering::Relaxed) {
        0 => EXIT_COMPLETE,
        failed => failed,
    }
}

/// `scenario=two-crashes`: the first dump has come back, and the kernel crashes once more.
pub(crate) fn crash_again() {
    if options().scenario == Scenario::TwoCrashes && DUMPS.load(Ordering::Relaxed) == 1 {
        panic!("CPU {} panics again, as the command line asks", cpu::number());
    }
}

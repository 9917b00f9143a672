//! The outcomes of dumps that the kernel survived.

use core::sync::atomic::{AtomicU32, Ordering};

use dumpcore::Outcome;

use crate::arch::cpu;
use crate::command_line::{Scenario, options};
use crate::end::{EXIT_COMPLETE, name_and_exit};

/// Number of dumps that have returned, complete or not.
static DUMPS: AtomicU32 = AtomicU32::new(0);
/// The exit value of the first incomplete dump; 0 if all were complete.
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Records that a dump has returned.
pub(crate) fn note(outcome: &Outcome) {
    DUMPS.fetch_add(1, Ordering::Relaxed);
    let (_, exit) = name_and_exit(outcome);
    if exit != EXIT_COMPLETE {
        // Keeps the first one.
        let _ = FAILED.compare_exchange(0, exit, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Number of dumps that have returned.
pub(crate) fn dumps() -> u32 {
    DUMPS.load(Ordering::Relaxed)
}

/// The exit value for all dumps that have returned.
pub(crate) fn exit_value() -> u32 {
    match FAILED.load(Ordering::Relaxed) {
        0 => EXIT_COMPLETE,
        failed => failed,
    }
}

/// `scenario=two-crashes`: after the first dump has returned, crashes again.
pub(crate) fn crash_again() {
    if options().scenario == Scenario::TwoCrashes && DUMPS.load(Ordering::Relaxed) == 1 {
        panic!("CPU {} panics again, as the command line asks", cpu::number());
    }
}

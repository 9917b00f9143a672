//! How the kernel ends, and its report of that.

use dumpcore::Outcome;

use crate::arch::power;
use crate::log::log;

/// The exit value for a complete dump.
pub(crate) const EXIT_COMPLETE: u32 = 1;

/// The name of an outcome, and its exit value.
pub(crate) fn name_and_exit(outcome: &Outcome) -> (&'static str, u32) {
    match outcome {
        Outcome::Complete => ("complete", EXIT_COMPLETE),
        Outcome::Incomplete(_) => ("incomplete", 2),
        Outcome::Refused(_) => ("refused", 3),
        Outcome::Unclosed(_) => ("unclosed", 7),
        Outcome::NotArmed => ("not-armed", 4),
        Outcome::Nested => ("nested", 5),
        Outcome::OtherCpu { .. } => ("other-cpu", 6),
    }
}

/// Reports a mistake in how the kernel was started, as opposed to a crash, and exits.
pub(crate) fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log!("testkernel: error: {why}");
    power::exit(0x3f)
}

//! How the kernel ends, and what it says of that.

use dumpcore::Outcome;

use crate::arch::power;
use crate::log::log;

/// The exit value of a whole dump.
pub(crate) const EXIT_COMPLETE: u32 = 1;

/// How an outcome is called, and the exit value for it.
pub(crate) fn name_and_exit(outcome: &Outcome) -> (&'static str, u32) {
    match outcome {
        Outcome::Complete => ("complete", EXIT_COMPLETE),
        Outcome::Incomplete(_) => ("incomplete", 2),
        Outcome::Refused(_) => ("refused", 3),
        Outcome::Unclosed(_) => ("unclosed", 7),
        Outcome::NotArmed => ("not-armed", 4),
        Outcome::Nested => ("nested", 5),
        Outcome::OtherCpu { .. } => ("other-cpu", 6),
        _ => ("unknown", 8),
    }
}

/// The kernel cannot go on, and it is not a crash but a mistake in how it was started: says so and ends.
pub(crate) fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log!("testkernel: error: {why}");
    power::exit(0x3f)
}

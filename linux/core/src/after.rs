//! What follows a dump.
//!
//! Others want to know about a panic too: IPMI writes a record and gives its watchdog more time, pvpanic and
//! Hyper-V tell the host, pstore saves the end of the log. They run after the dump, because they may be the
//! code that crashed, or may end the machine. They may also hang: a lock held by a stopped CPU is never
//! released. So a guard CPU must be there to reset the machine anyway.

use crate::config::{Notify, Then};

/// The next action of the CPU that dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The machine is reset now.
    Reset,
    /// The panic notifiers run; the machine is reset when they are done or take too long.
    Notify,
    /// The kernel continues its panic.
    Continue,
    /// The machine stays as it is.
    Halt,
}

/// The action after a dump that is good `enough`, or not. `take_guard` looks for a CPU to stand guard from
/// then on, if one is needed.
pub fn next(enough: bool, then: Then, notify: Notify, take_guard: impl FnOnce() -> bool) -> Next {
    match (then, notify) {
        _ if !enough => Next::Continue,
        (Then::Continue, _) => Next::Continue,
        (Then::Halt, _) => Next::Halt,
        (Then::Reboot, Notify::Never) => Next::Reset,
        (Then::Reboot, Notify::Guarded | Notify::Always) => {
            if take_guard() || notify == Notify::Always {
                Next::Notify
            } else {
                Next::Reset
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: [Then; 3] = [Then::Reboot, Then::Continue, Then::Halt];
    const NOTIFY: [Notify; 3] = [Notify::Guarded, Notify::Always, Notify::Never];

    #[test]
    fn others_hear_of_a_panic_only_under_guard_unless_told_otherwise() {
        for notify in NOTIFY {
            for guard in [false, true] {
                let expected = match notify {
                    Notify::Guarded if guard => Next::Notify,
                    Notify::Always => Next::Notify,
                    _ => Next::Reset,
                };
                assert_eq!(next(true, Then::Reboot, notify, || guard), expected, "{notify:?}, {guard}");
            }
        }
    }

    #[test]
    fn nobody_stands_guard_over_a_kernel_that_goes_on_or_halts() {
        for notify in NOTIFY {
            for then in THEN {
                assert_eq!(next(false, then, notify, || panic!("a guard")), Next::Continue);
            }
            assert_eq!(next(true, Then::Continue, notify, || panic!("a guard")), Next::Continue);
            assert_eq!(next(true, Then::Halt, notify, || panic!("a guard")), Next::Halt);
        }
        assert_eq!(next(true, Then::Reboot, Notify::Never, || panic!("a guard")), Next::Reset);
    }
}

//! What follows a dump.
//!
//! Others want to hear of a panic, too: IPMI writes a record and gives its watchdog more time, pvpanic and Hyper-V tell the host, pstore
//! keeps the end of the log. They come after the dump, since what they do may be what crashes, or may end the machine. Then it may also
//! hang: a lock that a stopped CPU holds is never given back. So somebody has to be there who resets the machine all the same.

use crate::config::{Notify, Then};

/// What the CPU that dumped does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The machine is reset now.
    Reset,
    /// Others hear of the panic; the machine is reset when they have, or when they take too long.
    Notify,
    /// The kernel continues its panic.
    Continue,
    /// The machine stays as it is.
    Halt,
}

/// After a dump that is good `enough`, or not. `take_guard` looks for a CPU that stands guard from then on, if one is needed.
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

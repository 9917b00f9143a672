//! The one bounded wait.
//!
//! Nothing in a dump waits in any other way. While it waits, it runs the private timers and tasklets and pats
//! the watchdog. It ends at its deadline, at the end of the dump's budget, or, should the clock stand still,
//! after a number of looks.

use core::cell::Cell;

use crate::deferred::Queues;
use crate::platform::Platform;
use crate::text::{Describe, Line, display_by_describe};
use crate::time::Nanoseconds;

pub use crate::time::{MILLISECOND, SECOND};

/// How often the watchdog is patted while waiting.
const PAT_EVERY: Nanoseconds = MILLISECOND / 2;

/// So many looks at a clock that does not move, and the watchdog is patted all the same. They take less than
/// a millisecond.
const PAT_LOOKS: u32 = 1_000;

/// So many looks at a clock that does not move mean that it never will. A look costs at least some
/// nanoseconds, so this is at most seconds.
const LOOKS_AT_DEAD_CLOCK: u32 = 10_000_000;

/// Something did not happen in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut {
    /// What was waited for.
    pub what: &'static str,
    /// How long, in nanoseconds; 0 if the clock stood still.
    pub after: Nanoseconds,
}

impl Describe for TimedOut {
    fn describe(&self, line: &mut Line) {
        line.text(self.what).text(" did not happen within ").decimal(self.after / MILLISECOND).text(" ms");
    }
}

display_by_describe!(TimedOut);

/// How long a CPU that helps rests between two looks: at first, and at most.
const REST: (Nanoseconds, Nanoseconds) = (1_000, 100_000);

/// The way to wait, bound to the platform, the private queues and the end of the budget.
pub struct Wait<'a> {
    platform: &'a dyn Platform,
    queues: Option<&'a Queues>,
    end: Nanoseconds,
    patted: Cell<Nanoseconds>,
    /// What the clock said last, and how often it has said it again since.
    seen: Cell<Nanoseconds>,
    again: Cell<u32>,
    /// Whether this is a CPU that helps, and not the one that dumps.
    aside: bool,
}

impl<'a> Wait<'a> {
    /// A wait that ends at `end` on the platform's clock at the latest, and runs `queues` meanwhile.
    pub fn new(platform: &'a dyn Platform, queues: Option<&'a Queues>, end: Nanoseconds) -> Wait<'a> {
        Wait {
            platform,
            queues,
            end,
            patted: Cell::new(0),
            seen: Cell::new(0),
            again: Cell::new(0),
            aside: false,
        }
    }

    /// A wait for a CPU that helps: it pats no watchdog and runs no queues, which is for the one that dumps;
    /// and it [rests](Platform::rest) between looks, the longer the less there is to see.
    pub fn aside(platform: &'a dyn Platform, end: Nanoseconds) -> Wait<'a> {
        Wait { aside: true, ..Wait::new(platform, None, end) }
    }

    /// The platform.
    pub fn platform(&self) -> &'a dyn Platform {
        self.platform
    }

    /// Nanoseconds on the platform's clock.
    pub fn now(&self) -> Nanoseconds {
        self.platform.now()
    }

    /// Whether the budget is spent.
    pub fn expired(&self) -> bool {
        self.now() >= self.end
    }

    /// Looks with `look` until it gives something, for at most `limit` nanoseconds and within the budget. It
    /// is looked at least once, and once more after the deadline, so that a machine that was held up for long
    /// does not miss what has happened.
    ///
    /// # Errors
    /// If it did not happen; `what` names it.
    pub fn until<T>(
        &self,
        what: &'static str,
        limit: Nanoseconds,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, TimedOut> {
        let begin = self.now();
        let deadline = begin.saturating_add(limit).min(self.end);
        let mut seen = begin;
        let mut still = 0_u32;
        let (mut rest, longest) = REST;
        // Each turn looks once, until the deadline, or until the clock has stood still for long.
        loop {
            let now = self.now();
            if let Some(found) = look() {
                return Ok(found);
            }
            if now >= deadline {
                return Err(TimedOut { what, after: now.saturating_sub(begin) });
            }
            if now == seen {
                still = still.saturating_add(1);
                if still >= LOOKS_AT_DEAD_CLOCK {
                    return Err(TimedOut { what, after: 0 });
                }
            } else {
                seen = now;
                still = 0;
            }
            self.breathe_at(now);
            if self.aside {
                self.platform.rest(rest);
                rest = rest.saturating_mul(2).min(longest);
            }
            core::hint::spin_loop();
        }
    }

    /// Lets time pass: `span` nanoseconds, or until the budget is spent.
    pub fn pause(&self, span: Nanoseconds) {
        // Nothing is looked for, so running out of time is the purpose.
        let _ = self.until("a pause", span, || None::<()>);
    }

    /// What has to go on during long work that does not wait: watchdog, timers, tasklets.
    pub fn breathe(&self) {
        self.breathe_at(self.now());
    }

    fn breathe_at(&self, now: Nanoseconds) {
        let again = if now == self.seen.get() { self.again.get().saturating_add(1) } else { 0 };
        self.seen.set(now);
        self.again.set(again);
        if !self.aside && (now.wrapping_sub(self.patted.get()) >= PAT_EVERY || again >= PAT_LOOKS) {
            self.patted.set(now);
            self.again.set(0);
            self.platform.pat_watchdog();
        }
        if let Some(queues) = self.queues {
            queues.run(now);
        }
    }
}

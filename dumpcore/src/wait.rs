//! The one bounded wait.
//!
//! A dump waits in no other way. While waiting, it runs the private timers and tasklets and pats the
//! watchdog. A wait ends at its deadline, at the end of the dump's budget or, if the clock stands still,
//! after a number of polls.

use core::cell::Cell;

use crate::deferred::Queues;
use crate::platform::Platform;
use crate::time::Nanoseconds;

pub use crate::time::{MILLISECOND, SECOND};

/// How often the watchdog is patted while waiting.
const PAT_EVERY: Nanoseconds = MILLISECOND / 2;

/// With a clock that does not move, the watchdog is patted after this many polls. They take less than a
/// millisecond.
const PAT_LOOKS: u32 = 1_000;

/// After this many polls the clock is considered dead. A poll takes at least some nanoseconds, so this takes
/// seconds at most.
const LOOKS_AT_DEAD_CLOCK: u32 = 10_000_000;

/// A wait timed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut {
    /// What was waited for.
    pub what: &'static str,
    /// The time waited in nanoseconds; 0 if the clock stood still.
    pub after: Nanoseconds,
}

/// How long a helper rests between two polls: initially, and at most.
const REST: (Nanoseconds, Nanoseconds) = (1_000, 100_000);

/// The way to wait, with the platform, the private queues and the end of the budget.
pub struct Wait<'a> {
    platform: &'a dyn Platform,
    queues: Option<&'a Queues>,
    end: Nanoseconds,
    patted: Cell<Nanoseconds>,
    /// The last time read from the clock, and how often it has been read again since.
    seen: Cell<Nanoseconds>,
    again: Cell<u32>,
    /// Whether this is a helper rather than the dumping CPU.
    aside: bool,
}

impl<'a> Wait<'a> {
    /// A wait that ends at `end` on the platform's clock at the latest and runs `queues` meanwhile.
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

    /// A wait for a helper: it leaves the watchdog and the queues to the dumping CPU, and it
    /// [rests](Platform::rest) between polls, longer the longer there is nothing to do.
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

    /// Polls `look` until it returns a value, for at most `limit` nanoseconds and within the budget. It polls
    /// at least once, and once more after the deadline, so that a machine that was held up does not miss an
    /// event.
    ///
    /// # Errors
    /// If there was no value in time; the error names `what`.
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
        // Each turn polls once, until the deadline or until the clock has stood still for too long.
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

    /// Waits for `span` nanoseconds, or until the budget is spent.
    pub fn pause(&self, span: Nanoseconds) {
        // There is no result to poll for, so the timeout is intended.
        let _ = self.until("a pause", span, || None::<()>);
    }

    /// Serves watchdog, timers and tasklets during long work that does not wait.
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

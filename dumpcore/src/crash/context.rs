//! State that all steps of a dump share.

use core::cell::Cell;

use crate::armed::{Lasting, Settings};
use crate::deferred::Queues;
use crate::memory::map::PfnRange;
use crate::outcome::{Crash, Outcome};
use crate::platform::{Lacks, Platform};
use crate::stack::RedZones;
use crate::time::{Nanoseconds, SECOND};
use crate::vitals::Vitals;
use crate::wait::Wait;

/// Time at the end of the budget reserved for closing the dump: an eighth of the budget, at most this. A disk
/// may have gigabytes in its cache by then.
const CLOSING: Nanoseconds = 60 * SECOND;

/// A dump under way.
pub(super) struct Context<'r> {
    pub(super) platform: &'r dyn Platform,
    pub(super) crash: &'r Crash<'r>,
    pub(super) cpu: u32,
    /// When `crash()` was called.
    pub(super) begin: Nanoseconds,
    /// The wait that ends with the budget.
    pub(super) wait: Wait<'r>,
    pub(super) lacks: Lacks,
    /// When our own code was verified; 0 before.
    pub(super) code_checked: Nanoseconds,
    /// Whether the dump found its own state damaged: it then writes nothing more and is not armed again.
    pub(super) harmed: Cell<bool>,
}

impl Context<'_> {
    /// Nanoseconds since the crash.
    pub(super) fn elapsed(&self) -> Nanoseconds {
        self.platform.now().saturating_sub(self.begin)
    }

    /// No chunk is begun after this time.
    pub(super) fn stop_at(&self, settings: &Settings) -> Nanoseconds {
        let budget = settings.budget;
        self.begin.saturating_add(budget.saturating_sub(CLOSING.min(budget / 8)))
    }
}

/// State that all attempts of a dump share.
pub(super) struct Shared<'s> {
    pub(super) settings: &'s Settings,
    pub(super) ram: &'s [PfnRange],
    pub(super) vitals: &'s Vitals,
    pub(super) queues: Option<&'s Queues>,
    pub(super) zones: &'s RedZones,
    pub(super) lasting: &'s Lasting,
}

/// How one attempt ended.
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    /// Whether another target should be tried.
    pub(super) go_on: bool,
}

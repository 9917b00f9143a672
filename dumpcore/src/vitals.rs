//! The progress of a dump: the little state that a crash inside the dump may still read.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::platform::ResetPolicy;
use crate::time::Nanoseconds;

/// The steps of a dump, for the record when the dump itself crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Step {
    Integrity = 1,
    Freeze = 2,
    Code = 3,
    Takeover = 4,
    Verify = 5,
    Begin = 6,
    Memory = 7,
    Close = 8,
}

impl Step {
    const ALL: [Step; 8] = [
        Step::Integrity,
        Step::Freeze,
        Step::Code,
        Step::Takeover,
        Step::Verify,
        Step::Begin,
        Step::Memory,
        Step::Close,
    ];

    /// What the dump does in this step, in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Integrity => "checking the armed state",
            Step::Freeze => "stopping the other CPUs",
            Step::Code => "checking its code",
            Step::Takeover => "taking the disk over",
            Step::Verify => "checking the partition",
            Step::Begin => "writing its first blocks",
            Step::Memory => "writing memory",
            Step::Close => "closing the dump",
        }
    }
}

/// The state that a crash inside the dump may still read. Outside [`Armed`], which the dump has borrowed.
pub(crate) struct Vitals {
    step: AtomicU32,
    reset: AtomicU32,
    /// The reset policy inverted, so that a stray write is noticed.
    reset_inverted: AtomicU32,
    /// When each step was entered, by its number; 0 if it was not.
    entered: [AtomicU64; Step::ALL.len() + 1],
}

impl Vitals {
    pub(crate) fn new(reset: ResetPolicy) -> Vitals {
        Vitals {
            step: AtomicU32::new(0),
            reset: AtomicU32::new(reset as u32),
            reset_inverted: AtomicU32::new(!(reset as u32)),
            entered: [const { AtomicU64::new(0) }; Step::ALL.len() + 1],
        }
    }

    /// Records that a step begins `now`.
    pub(crate) fn enter(&self, step: Step, now: Nanoseconds) {
        self.step.store(step as u32, Ordering::Relaxed);
        if let Some(entered) = self.entered.get(step as usize) {
            entered.store(now, Ordering::Relaxed);
        }
    }

    /// Clears a step's time, for another attempt.
    pub(crate) fn clear(&self, step: Step) {
        if let Some(entered) = self.entered.get(step as usize) {
            entered.store(0, Ordering::Relaxed);
        }
    }

    /// When a step began; 0 if it did not.
    pub(crate) fn entered(&self, step: Step) -> Nanoseconds {
        self.entered.get(step as usize).map_or(0, |entered| entered.load(Ordering::Relaxed))
    }

    pub(crate) fn step(&self) -> Option<Step> {
        let number = self.step.load(Ordering::Relaxed);
        Step::ALL.into_iter().find(|step| *step as u32 == number)
    }

    /// The reset policy; `Reset` if the stored value was changed.
    pub(crate) fn reset(&self) -> ResetPolicy {
        let number = self.reset.load(Ordering::Relaxed);
        if number != !self.reset_inverted.load(Ordering::Relaxed) {
            return ResetPolicy::Reset;
        }
        [ResetPolicy::Reset, ResetPolicy::PowerOff, ResetPolicy::Halt, ResetPolicy::Return]
            .into_iter()
            .find(|policy| *policy as u32 == number)
            .unwrap_or(ResetPolicy::Reset)
    }
}

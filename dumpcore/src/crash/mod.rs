//! A dump, once it is entered: the seal is checked, and the steps run on a stack in the arena.

pub(crate) mod report;
mod steps;

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use self::steps::Running;
use crate::armed::Armed;
use crate::console;
use crate::outcome::{Crash, Outcome, Refusal};
use crate::platform::{Lacks, Platform, ResetPolicy};
use crate::stack::{Painted, paint};
use crate::vitals::{Step, Vitals};

/// Set while any dump of this kernel runs.
static CRASHDUMP_MODE: AtomicBool = AtomicBool::new(false);

/// Whether a dump is running: drivers poll then, console and log code takes no locks.
pub fn crashdump_mode() -> bool {
    CRASHDUMP_MODE.load(Ordering::Acquire)
}

/// Where the CPU that dumps runs.
pub(crate) mod phase {
    /// Between the stack that crashed and the dump's own. Also while no dump runs.
    pub(crate) const CROSSING: u32 = 0;
    /// On the dump's own stack.
    pub(crate) const OWN_STACK: u32 = 1;
    /// On the stack that crashed, since the platform cannot switch.
    pub(crate) const BORROWED_STACK: u32 = 2;
}

/// What a dump is begun with.
pub(crate) struct Entry<'e> {
    pub(crate) crash: &'e Crash<'e>,
    pub(crate) resumes: bool,
    pub(crate) cpu: u32,
    pub(crate) phase: &'e AtomicU32,
}

/// How it ended.
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Whether the armed state is not to be relied on any more.
    pub(crate) harmed: bool,
    /// Whether the other CPUs were stopped.
    pub(crate) frozen: bool,
}

/// Checks the seal, then runs the dump on the stack in the arena, if the platform can switch to it.
pub(crate) fn checked(
    armed: &mut Armed<'_>,
    vitals: Option<&Vitals>,
    platform: &dyn Platform,
    entry: &Entry<'_>,
) -> End {
    let Entry { crash, resumes, cpu, phase: runs_on } = *entry;
    let begin = platform.now();
    CRASHDUMP_MODE.store(true, Ordering::Release);
    if let Some(vitals) = vitals {
        vitals.enter(Step::Seal, begin);
    }
    if let Err(harm) = armed.check_seal() {
        // Not even the stack in the arena can be trusted then.
        let refusal = Refusal::from(harm);
        report::crash(platform, cpu, crash, resumes);
        console::refused(platform, &refusal);
        if !resumes {
            platform.reset(vitals.map_or(ResetPolicy::Reset, Vitals::reset));
        }
        CRASHDUMP_MODE.store(false, Ordering::Release);
        return End { outcome: Outcome::Refused(refusal), harmed: true, frozen: false };
    }
    // From here on an address: what runs on a stack writes to it, behind any reference.
    let stack = NonNull::from(core::mem::take(&mut armed.stack));
    let painted = Painted::of(stack);
    let mut harmed = false;
    // The crashed stack is being dumped too: what is learnt from here on stays in the arena.
    let mut run = |own_stack: bool| {
        runs_on.store(if own_stack { phase::OWN_STACK } else { phase::BORROWED_STACK }, Ordering::Release);
        report::crash(platform, cpu, crash, resumes);
        let lacks = if own_stack { Lacks::empty() } else { Lacks::STACK };
        let mut running =
            Running { platform, crash, cpu, begin, lacks, code_checked: 0, harmed: Cell::new(false) };
        let outcome = running.run(armed);
        armed.outcome = outcome;
        harmed = running.harmed.get() || !armed.zones.are_whole();
        if let Outcome::Refused(refusal) = &outcome {
            console::refused(platform, refusal);
        } else if own_stack {
            report::footprint(platform, armed, &painted);
        }
        if !resumes {
            platform.reset(armed.vitals.reset());
        }
        runs_on.store(phase::CROSSING, Ordering::Release);
    };
    if !platform.on_stack(stack, &mut || run(true)) {
        run(false);
    }
    // SAFETY: it was taken out of the armed state, as the only reference to it, and nobody runs on it any more.
    let stack = unsafe { &mut *stack.as_ptr() };
    paint(stack);
    armed.stack = stack;
    if let Some(queues) = armed.queues {
        queues.set_crashdump_mode(false);
    }
    CRASHDUMP_MODE.store(false, Ordering::Release);
    End { outcome: armed.outcome, harmed, frozen: true }
}

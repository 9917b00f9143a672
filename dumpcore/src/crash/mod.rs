//! A dump, once entered: check the armed state, then run the steps on a stack in the arena.
//!
//! | file | contents |
//! | --- | --- |
//! | `steps` | the order: stop the other CPUs, check our own code, dump |
//! | `targets` | which target is next, and when to try another |
//! | `attempt` | one dump to a set of targets: take over, check, write |
//! | `write` | front headers, notes, memory |
//! | `close` | settle what is in flight, back headers, front headers again |
//! | `header` | the contents of a dump's headers |
//! | `ledger` | which targets are out, and why |
//! | `report` | console output |
//! | `reset` | the reset policy |
//! | `context` | shared state |

mod attempt;
mod close;
mod context;
mod header;
mod ledger;
pub(crate) mod report;
pub(crate) mod reset;
mod steps;
mod targets;
mod write;

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use self::context::Context;
use self::reset::Kernel;
use crate::armed::Armed;
use crate::console;
use crate::outcome::{Crash, Outcome, Refusal};
use crate::platform::{Lacks, Platform};
use crate::stack::{Painted, paint};
use crate::time::Nanoseconds;
use crate::vitals::{Step, Vitals};
use crate::wait::Wait;

/// Set while any dump of this kernel runs.
static CRASHDUMP_MODE: AtomicBool = AtomicBool::new(false);

/// Whether a dump is running: drivers then poll, and console and log code takes no locks.
pub fn crashdump_mode() -> bool {
    CRASHDUMP_MODE.load(Ordering::Acquire)
}

/// Which stack the dumping CPU runs on.
pub(crate) mod phase {
    /// Between the crashed stack and the dump's own. Also while no dump runs.
    pub(crate) const CROSSING: u32 = 0;
    /// On the dump's own stack.
    pub(crate) const OWN_STACK: u32 = 1;
    /// On the crashed stack, because the platform cannot switch stacks.
    pub(crate) const BORROWED_STACK: u32 = 2;
}

/// The input of a dump.
pub(crate) struct Entry<'e> {
    pub(crate) platform: &'e dyn Platform,
    pub(crate) crash: &'e Crash<'e>,
    pub(crate) kernel: Kernel,
    pub(crate) cpu: u32,
    /// A [`phase`].
    pub(crate) phase: &'e AtomicU32,
    pub(crate) vitals: Option<&'e Vitals>,
}

/// How a dump ended.
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Whether the armed state can no longer be trusted.
    pub(crate) harmed: bool,
    /// Whether the other CPUs were stopped.
    pub(crate) stopped: bool,
}

/// Runs a dump if the armed state is intact. `None` means that the pointer to it is damaged.
pub(crate) fn run(armed: Option<&mut Armed<'_>>, entry: &Entry<'_>) -> End {
    CRASHDUMP_MODE.store(true, Ordering::Release);
    let begin = entry.platform.now();
    if let Some(vitals) = entry.vitals {
        vitals.enter(Step::Integrity, begin);
    }
    let end = match armed {
        None => refuse(entry, Refusal::Pointer),
        Some(armed) => match armed.check_integrity() {
            // Then the stack in the arena cannot be trusted either.
            Err(harm) => refuse(entry, harm.into()),
            Ok(()) => on_own_stack(armed, entry, begin),
        },
    };
    CRASHDUMP_MODE.store(false, Ordering::Release);
    end
}

/// The armed state is damaged: nothing is written.
fn refuse(entry: &Entry<'_>, refusal: Refusal) -> End {
    report::crash(entry.platform, entry.cpu, entry.crash, entry.kernel);
    console::refused(entry.platform, &refusal);
    reset::carry_out(entry.platform, entry.kernel, entry.vitals);
    End { outcome: Outcome::Refused(refusal), harmed: true, stopped: false }
}

/// Runs the steps on the stack in the arena, if the platform can switch to it, then prepares for another
/// dump.
fn on_own_stack(armed: &mut Armed<'_>, entry: &Entry<'_>, begin: Nanoseconds) -> End {
    let Entry { platform, crash, kernel, cpu, phase: runs_on, .. } = *entry;
    // Keep only a pointer from here on: the code that runs on the stack writes to it, so no reference may
    // exist.
    let stack = NonNull::from(core::mem::take(&mut armed.stack));
    let painted = Painted::of(stack);
    let mut harmed = false;
    // The crashed stack is dumped too, so data gathered from here on goes into the arena.
    let mut run = |own_stack: bool| {
        runs_on.store(if own_stack { phase::OWN_STACK } else { phase::BORROWED_STACK }, Ordering::Release);
        report::crash(platform, cpu, crash, kernel);
        let mut context = Context {
            platform,
            crash,
            cpu,
            begin,
            wait: Wait::new(platform, armed.queues, begin.saturating_add(armed.settings.budget)),
            lacks: if own_stack { Lacks::empty() } else { Lacks::STACK },
            code_checked: 0,
            harmed: Cell::new(false),
        };
        let outcome = steps::run(&mut context, armed);
        armed.outcome = outcome;
        harmed = context.harmed.get() || !armed.zones.are_whole();
        if let Outcome::Refused(refusal) = &outcome {
            console::refused(platform, refusal);
        } else if own_stack {
            report::footprint(platform, armed, &painted);
        }
        reset::carry_out(platform, kernel, Some(armed.vitals));
        runs_on.store(phase::CROSSING, Ordering::Release);
    };
    if !platform.on_stack(stack, &mut || run(true)) {
        run(false);
    }
    // SAFETY: it was the only reference, taken out of the armed state, and no CPU runs on the stack any more.
    let stack = unsafe { &mut *stack.as_ptr() };
    paint(stack);
    armed.stack = stack;
    if let Some(queues) = armed.queues {
        queues.set_crashdump_mode(false);
    }
    if !harmed {
        armed.renew();
    }
    End { outcome: armed.outcome, harmed, stopped: true }
}

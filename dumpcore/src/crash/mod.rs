//! A dump, once it is entered: the armed state is checked, and the steps run on a stack in the arena.
//!
//! | file | what it says |
//! | --- | --- |
//! | `steps` | the order: stop the other CPUs, check our own code, dump |
//! | `targets` | which target is next, and when to go on to another |
//! | `attempt` | one dump to a set of targets: take over, check, write |
//! | `write` | front headers, notes, memory |
//! | `close` | what is in flight comes home, back headers, front headers once more |
//! | `header` | what a dump's headers say |
//! | `ledger` | which targets are out, and why |
//! | `report` | what the console is told |
//! | `reset` | the reset policy |
//! | `context` | what all of them share |

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
    pub(crate) platform: &'e dyn Platform,
    pub(crate) crash: &'e Crash<'e>,
    pub(crate) kernel: Kernel,
    pub(crate) cpu: u32,
    /// A [`phase`].
    pub(crate) phase: &'e AtomicU32,
    pub(crate) vitals: Option<&'e Vitals>,
}

/// How it ended.
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Whether the armed state is not to be relied on any more.
    pub(crate) harmed: bool,
    /// Whether the other CPUs were stopped.
    pub(crate) stopped: bool,
}

/// Runs a dump, if what was armed is found as it was: `None` if not even the pointer to it is.
pub(crate) fn run(armed: Option<&mut Armed<'_>>, entry: &Entry<'_>) -> End {
    CRASHDUMP_MODE.store(true, Ordering::Release);
    let begin = entry.platform.now();
    if let Some(vitals) = entry.vitals {
        vitals.enter(Step::Integrity, begin);
    }
    let end = match armed {
        None => refuse(entry, Refusal::Pointer),
        Some(armed) => match armed.check_integrity() {
            // Not even the stack in the arena can be trusted then.
            Err(harm) => refuse(entry, harm.into()),
            Ok(()) => on_own_stack(armed, entry, begin),
        },
    };
    CRASHDUMP_MODE.store(false, Ordering::Release);
    end
}

/// The armed state is harmed: nothing is written.
fn refuse(entry: &Entry<'_>, refusal: Refusal) -> End {
    report::crash(entry.platform, entry.cpu, entry.crash, entry.kernel);
    console::refused(entry.platform, &refusal);
    reset::carry_out(entry.platform, entry.kernel, entry.vitals);
    End { outcome: Outcome::Refused(refusal), harmed: true, stopped: false }
}

/// Runs the steps on the stack in the arena, if the platform can switch to it, and makes ready for another
/// dump.
fn on_own_stack(armed: &mut Armed<'_>, entry: &Entry<'_>, begin: Nanoseconds) -> End {
    let Entry { platform, crash, kernel, cpu, phase: runs_on, .. } = *entry;
    // From here on an address: what runs on a stack writes to it, behind any reference.
    let stack = NonNull::from(core::mem::take(&mut armed.stack));
    let painted = Painted::of(stack);
    let mut harmed = false;
    // The crashed stack is being dumped too: what is learnt from here on stays in the arena.
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
    // SAFETY: it was taken out of the armed state, as the only reference to it, and nobody runs on it any
    // more.
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

//! The steps of a dump, in order: stop the other CPUs, check our own code, then dump to one target after
//! another until one succeeds.

use super::context::Context;
use super::targets;
use crate::armed::{Armed, Settings};
use crate::code;
use crate::helpers::pool::HelperPool;
use crate::outcome::{Outcome, Refusal};
use crate::platform::Lacks;
use crate::time::{Nanoseconds, SECOND};
use crate::vitals::Step;
use crate::wait::Wait;

/// How long the other CPUs may take to stop, all together. CPUs that take longer are dumped without
/// registers.
const STOPPING: Nanoseconds = SECOND;

/// Runs all steps after the check of the armed state.
pub(super) fn run(context: &mut Context<'_>, armed: &mut Armed<'_>) -> Outcome {
    let platform = context.platform;
    armed.vitals.enter(Step::Freeze, platform.now());
    platform.stop_cpus();
    let stopped = || platform.all_stopped().then_some(());
    // CPUs that did not stop have no registers in the dump, and the dump says so.
    let _ = context.wait.until("stopping the other CPUs", STOPPING, stopped);
    // Not earlier: a CPU that was stopped while it used the private queues would keep them locked for good.
    if let Some(queues) = armed.queues {
        queues.set_crashdump_mode(true);
    }
    see_what_is_lacking(context, &armed.settings);

    armed.vitals.enter(Step::Code, platform.now());
    let (now, _) = code::checksum(platform);
    let expected = armed.settings.code_crc;
    if u64::from(now) != expected {
        return Outcome::Refused(Refusal::Code { armed: expected as u32, now });
    }
    context.code_checked = platform.now();

    if let Some(helper_pool) = armed.helper_pool {
        helper_pool.open(context.begin.saturating_add(armed.settings.budget));
    }
    let outcome = targets::dump(context, armed);
    if let Some(helper_pool) = armed.helper_pool {
        send_away(context, armed, helper_pool);
    }
    outcome
}

/// Sends the helpers away, and updates the checksum of their shared state for the next dump. Helpers that do
/// not leave in time get no more work.
fn send_away(context: &Context<'_>, armed: &Armed<'_>, helper_pool: &HelperPool<'_>) {
    helper_pool.close();
    let patience = armed.settings.patience.saturating_mul(2);
    let end = context.platform.now().saturating_add(patience);
    let leave = Wait::new(context.platform, armed.queues, end);
    let gone = leave.until("other CPUs", patience, || (helper_pool.present() == 0).then_some(()));
    if gone.is_err() {
        helper_pool.dismiss_all();
    }
}

/// Records what the dump has to do without.
#[inline(never)]
fn see_what_is_lacking(context: &mut Context<'_>, settings: &Settings) {
    let platform = context.platform;
    let silent = |cpu: u32| cpu != context.cpu && platform.registers(cpu).is_none();
    let facts = [
        (Lacks::CODE_CHECK, platform.code_ranges().is_empty()),
        (Lacks::OTHER_CPUS, platform.cpus() == 0 || (0..platform.cpus()).any(silent)),
        (Lacks::WALL_CLOCK, platform.wall_clock().is_none()),
        (Lacks::LOG, settings.log_tail > 0 && platform.log_length() == 0),
        (Lacks::BUILD_ID, platform.build_id().is_empty()),
        (Lacks::CLASSES, !settings.has_classes()),
        (Lacks::GUARD, !platform.has_guard()),
    ];
    for (what, lacking) in facts {
        context.lacks.set(what, lacking);
    }
}

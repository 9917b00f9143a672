//! Which target is next: healthy ones first, risky ones in a second round, until one has a dump.

use super::attempt::attempt;
use super::context::Context;
use super::ledger::{Ledger, Set};
use crate::armed::{Armed, Refusals};
use crate::console::say;
use crate::device::{DeviceError, Health};
use crate::integrity::Harm;
use crate::limits::MAX_TARGETS;
use crate::outcome::{Outcome, Refusal};
use crate::text::Describe;
use crate::vitals::Step;

/// Which targets are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Those that report themselves as healthy.
    Healthy,
    /// Also those that report themselves as risky.
    Risky,
}

/// The progress of a dump through its targets.
struct Tried {
    /// Those that are no longer tried.
    out: Set,
    /// Those that reported themselves as risky.
    risky: Set,
    /// Those whose drivers were called and may have changed their state.
    called: Set,
    /// The best outcome so far.
    best: Option<Outcome>,
}

/// Tries the targets in order until one has a dump.
#[inline(never)]
pub(super) fn dump(context: &Context<'_>, armed: &mut Armed<'_>) -> Outcome {
    *armed.refusals = Refusals::NONE;
    let mut tried = Tried { out: Set::EMPTY, risky: Set::EMPTY, called: Set::EMPTY, best: None };
    for round in [Round::Healthy, Round::Risky] {
        if round == Round::Risky && (!armed.settings.allows_risky() || context.wait.expired()) {
            break;
        }
        // Each turn takes at least one target out, and there are at most this many.
        for _ in 0..MAX_TARGETS {
            if let Err(harm) = armed.check_again(|target| tried.called.has(target)) {
                return harmed(context, harm, tried.best);
            }
            let set = choose(context, armed, round, &mut tried);
            if set == Set::EMPTY {
                break;
            }
            tried.called.add_all(set);
            let attempt = attempt(context, armed, set, &mut tried.out);
            tried.best = better(tried.best, attempt.outcome);
            if !attempt.go_on || context.harmed.get() {
                return tried.best.unwrap_or(attempt.outcome);
            }
            if context.wait.expired() {
                break;
            }
        }
    }
    tried.best.unwrap_or(Outcome::Refused(Refusal::Unusable(DeviceError::NotReady)))
}

/// The dump found its own state damaged between two targets.
#[inline(never)]
fn harmed(context: &Context<'_>, harm: Harm, best: Option<Outcome>) -> Outcome {
    context.harmed.set(true);
    match best {
        Some(begun) if !matches!(begun, Outcome::Refused(_)) => {
            say(context.platform, |line| harm.describe(line.text("no other disk is tried: ")));
            begun
        }
        _ => Outcome::Refused(harm.into()),
    }
}

/// Chooses the next target, or all healthy ones when striping.
#[inline(never)]
fn choose(context: &Context<'_>, armed: &mut Armed<'_>, round: Round, tried: &mut Tried) -> Set {
    let platform = context.platform;
    let Armed { settings, targets, refusals, vitals, .. } = armed;
    let Tried { out, risky, best, .. } = tried;
    let mut ledger = Ledger::new(platform, refusals, out, targets.iter().flatten().count());
    let stripe = settings.stripes() && round == Round::Healthy;
    let mut set = Set::EMPTY;
    // All stripes must be encrypted to the same recipient: an unencrypted stripe would reveal part of the
    // secret.
    let mut recipient = None;
    for (number, target) in targets.iter_mut().enumerate() {
        let Some(target) = target else { continue };
        let waits = risky.has(number) && round == Round::Healthy;
        if ledger.is_out(number) || waits || (set != Set::EMPTY && !stripe) {
            continue;
        }
        let own = target.key.is_some().then_some(target.settings.recipient);
        if recipient.is_some_and(|common| common != own) {
            continue;
        }
        vitals.enter(Step::Takeover, platform.now());
        let refusal = match target.device.sanity_check(&context.wait) {
            Health::Healthy => {
                set.add(number);
                recipient = Some(own);
                continue;
            }
            Health::Risky(error) => {
                if !risky.has(number) {
                    ledger.say(number, |line| error.describe(line.text("the disk looks risky: ")));
                }
                risky.add(number);
                if round == Round::Risky {
                    set.add(number);
                    recipient = Some(own);
                    continue;
                }
                if settings.allows_risky() {
                    continue;
                }
                Refusal::Risky(error)
            }
            Health::Unusable(error) => Refusal::Unusable(error),
        };
        ledger.refuse(number, &refusal);
        *best = better(*best, Outcome::Refused(refusal));
    }
    set
}

/// The better of two outcomes: the one with more on a medium, or the later one if they are equal.
fn better(before: Option<Outcome>, now: Outcome) -> Option<Outcome> {
    let worth = |outcome: &Outcome| match outcome {
        Outcome::Complete => 3,
        Outcome::Incomplete(_) => 2,
        Outcome::Unclosed(_) => 1,
        Outcome::NotArmed | Outcome::OtherCpu { .. } | Outcome::Nested | Outcome::Refused(_) => 0,
    };
    match before {
        Some(before) if worth(&before) > worth(&now) => Some(before),
        _ => Some(now),
    }
}

//! One dump to a set of targets: take their devices over, check their partitions, write the dump to those
//! that are fit.

use super::context::{Attempt, Context, Shared};
use super::ledger::{Ledger, Set};
use super::write::{Work, write};
use crate::armed::{Armed, ArmedTarget};
use crate::console::{Progress, say};
use crate::device::DeviceError;
use crate::helpers::coordinator::Coordinator;
use crate::limits::MAX_TARGETS;
use crate::outcome::{Ended, Outcome, Refusal};
use crate::partition::member::{EncryptionKeys, Member, Members, Place};
use crate::partition::range::BlockRange;
use crate::partition::scheduler::IoScheduler;
use crate::partition::unfit::Unfit;
use crate::partition::verify::{Verify, sample};
use crate::partition::window::Window;
use crate::partition::{find, label};
use crate::stack::RedZones;
use crate::vitals::Step;
use crate::wait::Wait;

/// Makes one dump to a set of targets. Adds targets that fail to `out`.
#[inline(never)]
pub(super) fn attempt(context: &Context<'_>, armed: &mut Armed<'_>, set: Set, out: &mut Set) -> Attempt {
    let platform = context.platform;
    let Armed {
        settings,
        ram,
        queues,
        targets,
        pool,
        helper_pool,
        own,
        pack_buffers,
        posted,
        written,
        vitals,
        refusals,
        attempts,
        zones,
        lasting,
        ..
    } = armed;
    let mut ledger = Ledger::new(platform, refusals, out, targets.iter().flatten().count());
    let shared = Shared { settings, ram, vitals, queues: *queues, zones, lasting };
    vitals.enter(Step::Takeover, platform.now());
    vitals.clear(Step::Memory);
    vitals.clear(Step::Close);
    pool.forget_members();
    let mut members = Members::new();
    let mut last = Refusal::Unusable(DeviceError::NotReady);
    for (number, target) in targets.iter_mut().enumerate() {
        let Some(target) = target.as_mut().filter(|_| set.has(number)) else { continue };
        if let Err(error) = take_over(context, &mut members, number, target, zones) {
            last = Refusal::Takeover(error);
            ledger.refuse(number, &last);
        }
    }

    vitals.enter(Step::Verify, platform.now());
    let mut coordinator = Coordinator::new(*helper_pool, own, posted, settings.patience);
    let mut scheduler =
        IoScheduler { pool, members: &mut members, coordinator: &mut coordinator, checked: 0 };
    check_all(context, &mut scheduler, &shared, &mut ledger, &mut last);
    if scheduler.members.is_empty() {
        return Attempt { outcome: Outcome::Refused(last), go_on: true };
    }
    if !zones.are_whole() {
        context.harmed.set(true);
        return Attempt { outcome: Outcome::Refused(Refusal::Stack), go_on: false };
    }
    *attempts = attempts.saturating_add(1);
    write(context, scheduler, &shared, Work { pack_buffers, written, attempt: *attempts }, &mut ledger)
}

/// Takes a target's device over and makes the target a member.
#[inline(never)]
fn take_over<'t>(
    context: &Context<'_>,
    members: &mut Members<'t>,
    number: usize,
    target: &'t mut ArmedTarget<'_>,
    zones: &'t RedZones,
) -> Result<(), DeviceError> {
    let ArmedTarget { settings, device, scratch, state, key } = target;
    let mut window = Window::new(*device, settings.bounds(), scratch, zones);
    window.quiesce(&context.wait)?;
    say(context.platform, |line| {
        line.text("took over ").text(window.device().name());
    });
    let keys = key.as_ref().map(|key| EncryptionKeys {
        key,
        ephemeral: &settings.ephemeral,
        recipient: &settings.recipient,
    });
    members.push(Member::new(number, window, &settings.uuid, keys, state));
    Ok(())
}

/// Checks the partition of each member. Removes members whose partition is not fit for a dump or whose device
/// gets stuck; `last` is set to the reason.
#[inline(never)]
fn check_all(
    context: &Context<'_>,
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    shared: &Shared<'_>,
    ledger: &mut Ledger<'_>,
    last: &mut Refusal,
) {
    let wait = &context.wait;
    for number in 0..MAX_TARGETS {
        let Some(target) = scheduler.members.get(number).map(|member| member.target) else { continue };
        let Err(unfit) = check(context, scheduler, number, shared) else { continue };
        // Reads of a check that ended early may still be in flight.
        let stuck = scheduler.settle(wait);
        if let Some(member) = scheduler.members.get_mut(number)
            && stuck.get(number) == Some(&None)
        {
            // Nothing depends on the result.
            let _ = member.window.device().shutdown(wait);
        }
        scheduler.members.remove(number);
        *last = Refusal::Unfit(unfit);
        ledger.refuse(target, last);
        for (number, error) in stuck.into_iter().enumerate() {
            let Some(error) = error else { continue };
            let Some(target) = scheduler.members.get(number).map(|member| member.target) else { continue };
            scheduler.members.remove(number);
            *last = Refusal::Takeover(error);
            ledger.refuse(target, last);
        }
    }
}

/// Checks that a member's partition is the right one and, as far as the settings demand it now, that the
/// blocks to be written are free.
#[inline(never)]
fn check(
    context: &Context<'_>,
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    number: usize,
    shared: &Shared<'_>,
) -> Result<(), Unfit> {
    let wait = &context.wait;
    let gone = Unfit::Device { block: 0, error: DeviceError::NotReady };
    let member = scheduler.members.get_mut(number).ok_or(gone)?;
    let (uuid, recipient) = (member.state.uuid, member.keys.map(|keys| keys.recipient));
    label::check_size(&mut member.window)?;
    let label = label::check_label(&mut member.window, Some(&uuid), wait)?;
    label::check_recipient(label.recipient.as_ref(), recipient)?;
    let mut place = find::find(scheduler, number, wait)?;
    // Each turn starts at a later block; the last one reaches the end of the partition.
    loop {
        let member = scheduler.members.get_mut(number).ok_or(gone)?;
        let blocks = member.window.blocks();
        member.state.place = place;
        member.state.next = place.block.saturating_add(1);
        member.state.checker.begin(place.free_to.max(place.block), blocks);
        match check_pattern(context, scheduler, number, shared) {
            // The block belongs to a dump that was not closed: the next dump goes after it.
            Err(Unfit::Foreign { block }) if place.behind_unfinished && block >= place.block => {
                if let Some(Some(error)) = scheduler.settle(wait).get(number) {
                    return Err(Unfit::Device { block, error: *error });
                }
                place = find::find_from(scheduler, number, Place { block, ..place }, wait)?;
            }
            checked => return checked,
        }
    }
}

/// Checks the free blocks from the member's place on, or as many of them as are to be checked now.
#[inline(never)]
fn check_pattern(
    context: &Context<'_>,
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    number: usize,
    shared: &Shared<'_>,
) -> Result<(), Unfit> {
    let (settings, wait) = (shared.settings, &context.wait);
    let gone = Unfit::Device { block: 0, error: DeviceError::NotReady };
    let member = scheduler.members.get_mut(number).ok_or(gone)?;
    let (uuid, place, blocks) = (member.state.uuid, member.state.place, member.window.blocks());
    match settings.verify() {
        Verify::All => {
            // A slow disk must not leave us with a checked partition and no time to write.
            let half = context.begin.saturating_add(settings.budget / 2);
            let until_half = Wait::new(context.platform, shared.queues, half);
            let mut progress = Progress::new(context.platform, "checked");
            let tell = &mut |done, all| progress.tell(done, all);
            match scheduler.check_all(number, &until_half, tell) {
                Ok(()) => return Ok(()),
                Err(Ended::Budget) => (),
                Err(ended) => return Err(unfit(ended, scheduler, number)),
            }
            say(context.platform, |line| {
                line.text("checking takes half the time budget: from here on, just ahead of each write");
            });
            if let Some(Some(error)) = scheduler.settle(wait).get(number) {
                return Err(Unfit::Device { block: place.block, error: *error });
            }
        }
        Verify::Sample { every } => {
            let range = BlockRange { from: member.state.checker.frontier(), to: blocks };
            let checked = sample(&mut member.window, &uuid, range, every, wait)?;
            member.state.checker.trust();
            scheduler.checked = scheduler.checked.saturating_add(checked);
            return Ok(());
        }
        Verify::Ahead => (),
    }
    // Check the front header's block and the one after it, so that a dump can begin and be closed. Then drain
    // the reads ahead, because headers are written with nothing in flight.
    scheduler
        .check_up_to(number, place.block.saturating_add(2), wait)
        .and_then(|()| scheduler.drain(wait))
        .map_err(|ended| unfit(ended, scheduler, number))
}

/// Why a check that ended early makes a member's partition unfit. The check got as far as the member's
/// frontier.
fn unfit(ended: Ended, scheduler: &IoScheduler<'_, '_, '_, '_>, member: usize) -> Unfit {
    match ended {
        Ended::Full => Unfit::NoRoom { free: 0 },
        Ended::Budget => Unfit::Budget,
        Ended::Pattern { block, .. } => Unfit::Foreign { block },
        Ended::Device { error, .. } => {
            let block = scheduler.members.get(member).map_or(0, |member| member.state.checker.frontier());
            Unfit::Device { block, error }
        }
    }
}

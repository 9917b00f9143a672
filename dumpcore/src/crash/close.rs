//! Closing a dump: settle what is in flight, write the back headers, rewrite the front headers.

use super::context::{Attempt, Context, Shared};
use super::header::{self, Closing};
use super::ledger::Ledger;
use super::report;
use crate::armed::{common, same};
use crate::console::say;
use crate::device::DeviceError;
use crate::format::Block;
use crate::format::frame::Kind;
use crate::integrity::Harm;
use crate::limits::MAX_TARGETS;
use crate::outcome::{Ended, Outcome};
use crate::partition::member::Members;
use crate::partition::range::BlockRange;
use crate::partition::scheduler::IoScheduler;
use crate::stream::writer::Writer;
use crate::text::Describe;
use crate::wait::Wait;

/// A target whose headers could not be written, and why.
struct Unclosed {
    target: usize,
    error: DeviceError,
}

/// Closes the dump on all its devices. `ended` is why its stream ended early, if it did.
#[inline(never)]
pub(super) fn close(
    context: &Context<'_>,
    writer: &mut Writer<'_, '_, '_, '_>,
    shared: &Shared<'_>,
    ended: Option<Ended>,
    ledger: &mut Ledger<'_>,
) -> Attempt {
    let (platform, wait) = (context.platform, &context.wait);
    let (scheduler, written) = writer.parts();
    if let Err(harm) = still_whole(scheduler, shared) {
        // Let requests in flight finish; write no headers.
        let _ = scheduler.settle(wait);
        return Attempt { outcome: unclosed(context, DeviceError::Harmed(harm)), go_on: false };
    }
    scheduler.coordinator.forget_pages(wait);
    let failing = ended.as_ref().and_then(Ended::member);
    let failed_target = failing.and_then(|member| scheduler.members.get(member)).map(|member| member.target);
    let outstanding = scheduler.pool.in_flight() > 0 || scheduler.coordinator.checks_outstanding() > 0;
    let mut open = None;
    if failing.is_some() || outstanding {
        open = bring_home(scheduler, ended, failed_target, ledger, wait);
    }
    let (checked, tally) = (scheduler.checked, scheduler.coordinator.tally);
    let (depth, buffers) = (scheduler.pool.deepest(), scheduler.pool.buffers());
    let closing = Closing { ended, written, refusals: ledger.refusals(), checked, tally, depth, buffers };
    for (_, member) in scheduler.members.iter_mut() {
        header::close(context, member, shared.vitals, &closing);
    }
    if let Err(Unclosed { target, error }) = write_headers(scheduler.members, wait) {
        open = Some(error);
        ledger.fail(target, &error);
    }
    if let (Some(target), Some(ended)) = (failed_target, &ended) {
        ledger.fail(target, ended);
    }
    // Past the time for closing, another target would not have time for a dump.
    let in_time = platform.now() < context.stop_at(shared.settings);
    if let Some(error) = open {
        return Attempt { outcome: unclosed(context, error), go_on: in_time };
    }
    let took = context.elapsed();
    let blocks = scheduler.members.iter().next().map_or(BlockRange::EMPTY, |(_, member)| BlockRange {
        from: member.state.place.block,
        to: member.state.header.end_block.get(),
    });
    report::summary(platform, written, blocks, took);
    report::helpers(platform, &tally);
    report::phases(platform, shared.vitals, context.begin, took);
    report::ended(platform, ended.as_ref());
    let outcome = ended.map_or(Outcome::Complete, |ended| Outcome::Incomplete(ended.reason()));
    Attempt { outcome, go_on: failing.is_some() && in_time }
}

/// Gets all requests out of the devices, by reset if necessary. Members whose device cannot be stopped are
/// removed; returns the last error of those.
///
/// In a device that failed as a whole, requests may hang: only a reset gets them out and lets the headers be
/// written. A device that failed a single request continues with the next one.
#[inline(never)]
fn bring_home(
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    ended: Option<Ended>,
    failed_target: Option<usize>,
    ledger: &mut Ledger<'_>,
    wait: &Wait<'_>,
) -> Option<DeviceError> {
    let mut stuck = [None; MAX_TARGETS];
    if let Some(Ended::Device { member, error }) = ended
        && !(matches!(error, DeviceError::Status { .. }) && scheduler.pool.in_flight_in(member) > 0)
        && let Some(slot) = stuck.get_mut(member)
    {
        *slot = scheduler.pool.reset(scheduler.members, member, wait).err();
    }
    for (first, then) in stuck.iter_mut().zip(scheduler.settle(wait)) {
        *first = first.or(then);
    }
    let mut last = None;
    for (number, error) in stuck.into_iter().enumerate() {
        let (Some(error), Some(member)) = (error, scheduler.members.get(number)) else { continue };
        if Some(member.target) == failed_target {
            // The caller records how the stream ended.
            ledger.put_out(member.target);
        } else {
            ledger.fail(member.target, &error);
        }
        last = Some(error);
        scheduler.members.remove(number);
    }
    last
}

/// Checks that the state which must not change during an attempt is unchanged.
#[inline(never)]
fn still_whole(scheduler: &IoScheduler<'_, '_, '_, '_>, shared: &Shared<'_>) -> Result<(), Harm> {
    if !shared.zones.are_whole() {
        return Err(Harm::Stack);
    }
    same(shared.lasting.common, common(shared.settings, shared.ram, scheduler.pool, shared.zones))?;
    scheduler.members.iter().try_for_each(|(_, member)| member.check_integrity())
}

/// Writes the back headers. Once those are on all media, rewrites the front headers.
///
/// # Errors
/// The first target that could not be closed, and why.
fn write_headers(members: &mut Members<'_>, wait: &Wait<'_>) -> Result<(), Unclosed> {
    let mut first = Ok(());
    for number in 0..MAX_TARGETS {
        let Some(member) = members.get_mut(number) else { continue };
        let target = member.target;
        let header = &member.state.header;
        let back = header.end_block.get().saturating_sub(1);
        let put = |block: &mut Block| header.to_block(Kind::Back, block);
        let written = member.window.write(back, put, wait);
        if let Err(error) = written.and_then(|()| member.window.device().flush(wait)) {
            first = first.and(Err(Unclosed { target, error }));
            if member.window.quiesce(wait).is_ok() {
                let _ = member.window.device().shutdown(wait);
            }
            members.remove(number);
        }
    }
    for (_, member) in members.iter_mut() {
        let target = member.target;
        let header = &member.state.header;
        // If another stripe could not be closed, the dump is incomplete, and no front header may claim
        // otherwise.
        let closed = if first.is_ok() {
            let put = |block: &mut Block| header.to_block(Kind::Front, block);
            member.window.write(header.first_block.get(), put, wait)
        } else {
            Ok(())
        };
        let closed = closed.and_then(|()| member.window.device().shutdown(wait));
        first = first.and(closed.map_err(|error| Unclosed { target, error }));
    }
    first
}

/// The dump remains marked as in progress.
#[inline(never)]
pub(super) fn unclosed(context: &Context<'_>, error: DeviceError) -> Outcome {
    if matches!(error, DeviceError::Harmed(_)) {
        context.harmed.set(true);
    }
    say(context.platform, |line| {
        error.describe(line.text("incomplete, and its headers could not be closed: "));
    });
    Outcome::Unclosed(error)
}

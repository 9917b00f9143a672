//! Writes a dump: front headers, notes, memory. At any moment, the data on the medium is a valid dump.

use super::close::{close, unclosed};
use super::context::{Attempt, Context, Shared};
use super::header::{self, Opening};
use super::ledger::Ledger;
use crate::console::{Progress, say};
use crate::device::DeviceError;
use crate::format::Block;
use crate::format::checksum::Sum64;
use crate::format::frame::Kind;
use crate::helpers::job::PackBuffers;
use crate::limits::MAX_TARGETS;
use crate::outcome::Ended;
use crate::partition::member::Member;
use crate::partition::scheduler::IoScheduler;
use crate::platform::Lacks;
use crate::stream::pages::Plan;
use crate::stream::writer::{Identity, Writer, Written};
use crate::stream::{notes, pages};
use crate::vitals::Step;
use crate::wait::Wait;

/// The pass in which notes are written.
const NOTES: usize = 0;

/// What a dump is written with.
pub(super) struct Work<'w, 'k> {
    pub(super) pack_buffers: &'w mut PackBuffers<'k>,
    pub(super) written: &'w mut Written,
    /// Number of this attempt since the keys were made.
    pub(super) attempt: u32,
}

/// Writes the dump to all members and closes it.
#[inline(never)]
pub(super) fn write(
    context: &Context<'_>,
    mut scheduler: IoScheduler<'_, '_, '_, '_>,
    shared: &Shared<'_>,
    work: Work<'_, '_>,
    ledger: &mut Ledger<'_>,
) -> Attempt {
    let (platform, wait) = (context.platform, &context.wait);
    let (settings, vitals) = (shared.settings, shared.vitals);
    let Work { pack_buffers, written, attempt } = work;
    vitals.enter(Step::Begin, platform.now());
    let identity = match begin(context, &mut scheduler, shared, attempt, ledger) {
        Ok(identity) => identity,
        Err(error) => return Attempt { outcome: unclosed(context, error), go_on: true },
    };

    let mut writer = Writer::new(scheduler, identity, written);
    // No chunk is begun after this deadline, so a hanging stream cannot use up the time reserved for closing.
    let stream_wait = Wait::new(platform, shared.queues, context.stop_at(settings));
    let mut ended = stream(context, &mut writer, shared, pack_buffers, &stream_wait).err();

    vitals.enter(Step::Close, platform.now());
    // An open chunk is still good as far as it goes, unless a device or a partition failed.
    if matches!(ended, Some(Ended::Full | Ended::Budget)) {
        ended = writer.close_chunk(wait).err().or(ended);
    }
    writer.abandon();
    if !matches!(ended, Some(Ended::Device { .. } | Ended::Pattern { .. })) {
        ended = writer.drain(wait).err().or(ended);
    }
    close(context, &mut writer, shared, ended, ledger)
}

/// Writes the front headers, marked as in progress.
///
/// # Errors
/// Why one could not be written. The devices are then shut down, as far as possible.
#[inline(never)]
fn begin(
    context: &Context<'_>,
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    shared: &Shared<'_>,
    attempt: u32,
    ledger: &mut Ledger<'_>,
) -> Result<Identity, DeviceError> {
    let span = scheduler.pool.span();
    let nonce = scheduler.members.iter().next().map_or(0, |(_, member)| nonce(context, member));
    let identity = Identity { nonce, attempt };
    let stripes = scheduler.members.len() as u32;
    for number in 0..MAX_TARGETS {
        let stripe = scheduler.members.iter().take_while(|(before, _)| *before < number).count() as u32;
        let Some(member) = scheduler.members.get_mut(number) else { continue };
        header::open(context, member, shared, &Opening { identity, stripe, stripes, span });
        let (header, place) = (&member.state.header, member.state.place);
        let put = |block: &mut Block| header.to_block(Kind::Front, block);
        if let Err(error) = member.window.write(place.block, put, &context.wait) {
            // The block may or may not have been written, or may still be in flight: the device is stopped.
            ledger.fail(member.target, &error);
            put_to_rest(scheduler, &context.wait);
            return Err(error);
        }
        member.state.header.metrics.first_write = context.elapsed().into();
        say(context.platform, |line| {
            line.text("dump ").decimal(place.sequence.into()).text(" begins at block ");
            line.decimal(place.block);
            line.text(", ").decimal(shared.settings.pages / 256).text(" MiB of memory");
        });
    }
    Ok(identity)
}

/// Resets all devices, and shuts down those that could be reset.
fn put_to_rest(scheduler: &mut IoScheduler<'_, '_, '_, '_>, wait: &Wait<'_>) {
    for number in 0..MAX_TARGETS {
        if scheduler.members.get(number).is_some()
            && scheduler.pool.reset(scheduler.members, number, wait).is_ok()
            && let Some(member) = scheduler.members.get_mut(number)
        {
            let _ = member.window.device().shutdown(wait);
        }
    }
}

/// A number unique among the dumps of the partition: it includes the sequence number and several times.
fn nonce(context: &Context<'_>, member: &Member<'_>) -> u64 {
    let platform = context.platform;
    let mut mix = Sum64::new();
    let identity = u64::from_le_bytes(member.state.uuid.first_chunk().copied().unwrap_or_default());
    mix.stripe([context.begin, platform.now(), member.state.place.block, identity]);
    mix.stripe([platform.wall_clock().unwrap_or(0), 0, 0, 0]);
    (mix.finish(64) << 16) | u64::from(member.state.place.sequence & 0xffff)
}

/// Writes the notes, then memory.
#[inline(never)]
fn stream(
    context: &Context<'_>,
    writer: &mut Writer<'_, '_, '_, '_>,
    shared: &Shared<'_>,
    pack_buffers: &mut PackBuffers<'_>,
    wait: &Wait<'_>,
) -> Result<(), Ended> {
    let settings = shared.settings;
    let facts = notes::Facts {
        crash: context.crash,
        crashing_cpu: context.cpu,
        ram: shared.ram,
        arena: settings.arena(),
        lacks: context.lacks,
        log_tail: settings.log_tail,
    };
    // The front header must reach the medium before any chunk, or the next dump would not see this one.
    flush(writer.scheduler(), wait)?;
    let begin = wait.now();
    notes::write(writer, &facts, wait)?;
    // From here on, the notes survive a power cut.
    writer.drain(wait)?;
    flush(writer.scheduler(), wait)?;
    writer.pass_took(NOTES, wait.now().saturating_sub(begin));

    shared.vitals.enter(Step::Memory, wait.now());
    let mut progress = Progress::new(context.platform, "dumped");
    let plan = Plan {
        ram: shared.ram,
        arena: settings.arena(),
        level: settings.level(),
        encoding: settings.encoding(),
        may_be_still: !context.lacks.intersects(Lacks::STACK | Lacks::OTHER_CPUS),
    };
    let tell = &mut |done| progress.tell(done, settings.pages);
    pages::write(writer, &plan, pack_buffers, wait, tell)?;
    writer.drain(wait)
}

/// Flushes all devices.
fn flush(scheduler: &mut IoScheduler<'_, '_, '_, '_>, wait: &Wait<'_>) -> Result<(), Ended> {
    // Reads ahead may be in flight, and a flush requires an idle device.
    scheduler.drain(wait)?;
    for (number, member) in scheduler.members.iter_mut() {
        member.window.device().flush(wait).map_err(|error| Ended::device(number, error, wait))?;
    }
    Ok(())
}

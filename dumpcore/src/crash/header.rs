//! The contents of a dump's headers: when the dump begins, and when it is closed.

use super::context::{Context, Shared};
use crate::armed::Refusals;
use crate::format::chunk::RunKind;
use crate::format::cipher::Cipher;
use crate::format::header::{Arch, Incomplete, Status, put_text};
use crate::helpers::coordinator::Tally;
use crate::outcome::Ended;
use crate::partition::member::Member;
use crate::stream::writer::{Identity, Written};
use crate::vitals::{Step, Vitals};

/// Identifies the dump, and the stripe of it, that a header belongs to.
pub(super) struct Opening {
    pub(super) identity: Identity,
    pub(super) stripe: u32,
    pub(super) stripes: u32,
    /// The most blocks in flight together.
    pub(super) span: usize,
}

/// What the headers say about a finished dump.
pub(super) struct Closing<'n> {
    pub(super) ended: Option<Ended>,
    pub(super) written: &'n Written,
    pub(super) refusals: &'n Refusals,
    /// Blocks that were checked.
    pub(super) checked: u64,
    pub(super) tally: Tally,
    /// The most requests in flight.
    pub(super) depth: usize,
    pub(super) buffers: usize,
}

/// Fills in the header of a member when the dump begins.
#[inline(never)]
pub(super) fn open(context: &Context<'_>, member: &mut Member<'_>, shared: &Shared<'_>, opening: &Opening) {
    let platform = context.platform;
    let settings = shared.settings;
    let header = &mut member.state.header;
    // The header was in memory since arming and is not covered by the checksum.
    header.clear();
    header.status = (Status::InProgress as u32).into();
    header.uuid = member.state.uuid;
    header.nonce = opening.identity.nonce.into();
    header.sequence = member.state.place.sequence.into();
    header.first_block = member.state.place.block.into();
    header.total_pages = settings.pages.into();
    header.wall_clock = platform.wall_clock().unwrap_or(0).into();
    header.uptime = platform.uptime(context.begin).into();
    header.elapsed = context.elapsed().into();
    header.arch = (Arch::current() as u32).into();
    header.cpus = platform.cpus().max(1).into();
    header.crashing_cpu = context.cpu.into();
    header.trigger = (context.crash.trigger as u32).into();
    header.window_blocks = (opening.span as u32).into();
    header.stripe = opening.stripe.into();
    header.stripes = opening.stripes.into();
    header.level = (settings.level as u32).into();
    header.encoding = (settings.encoding as u32).into();
    header.attempt = opening.identity.attempt.into();
    let id = platform.build_id();
    let id = id.get(..id.len().min(header.build_id.len())).unwrap_or_default();
    header.build_id_len = (id.len() as u32).into();
    for (slot, byte) in header.build_id.iter_mut().zip(id) {
        *slot = *byte;
    }
    put_text(&mut header.system, platform.system());
    if let Some(keys) = member.keys {
        // The kernel's last message may be secret too.
        header.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
        header.ephemeral = *keys.ephemeral;
    } else {
        put_text(&mut header.message, context.crash.message);
    }
    member.sign_header();
}

/// Completes the header of a member when the dump is closed.
#[inline(never)]
pub(super) fn close(context: &Context<'_>, member: &mut Member<'_>, vitals: &Vitals, closing: &Closing<'_>) {
    let (next, chunks, target) = (member.state.next, member.state.chunks, member.target);
    let header = &mut member.state.header;
    let Closing { ended, written, refusals, checked, tally, depth, buffers } = closing;
    let counts = &written.counts;
    let status = if ended.is_none() { Status::Complete } else { Status::Incomplete };
    header.status = (status as u32).into();
    header.incomplete = (ended.map_or(Incomplete::No, |ended| ended.reason()) as u32).into();
    header.end_block = next.saturating_add(1).into();
    header.chunks = chunks.into();
    header.data_pages = counts.of(RunKind::Data).into();
    header.zero_pages = counts.of(RunKind::Zero).into();
    header.excluded_pages = counts.left_out().into();
    header.unreadable_pages = counts.unreadable().into();
    header.elapsed = context.elapsed().into();

    let metrics = &mut header.metrics;
    // Times are those of this attempt; freeze and code check happened once, before the first attempt.
    let entered = |step| vitals.entered(step);
    let phases = [
        (entered(Step::Freeze), entered(Step::Code)),
        (entered(Step::Code), context.code_checked),
        (entered(Step::Takeover), entered(Step::Verify)),
        (entered(Step::Verify), entered(Step::Begin)),
        (entered(Step::Begin), entered(Step::Memory)),
        (entered(Step::Memory), entered(Step::Close)),
    ];
    for (phase, (from, to)) in metrics.phases.iter_mut().zip(phases) {
        // A step that was not reached took no time.
        *phase = if from == 0 || to == 0 { 0 } else { to.saturating_sub(from) }.into();
    }
    for (pass, wrote) in metrics.passes.iter_mut().zip(&written.passes) {
        pass.pages = wrote.pages.into();
        pass.bytes = wrote.bytes.into();
        pass.time = wrote.time.into();
    }
    for (slot, count) in metrics.pages.iter_mut().zip(counts.all()) {
        *slot = (*count).into();
    }
    metrics.checked = (*checked).into();
    metrics.packed_from = written.packed_from.into();
    metrics.packed_to = written.packed_to.into();
    metrics.units = tally.units.into();
    metrics.units_by_helpers = tally.by_helpers.into();
    metrics.units_redone = tally.redone.into();
    metrics.units_stored = written.units_stored.into();
    metrics.helpers = (tally.helpers as u32).into();
    metrics.helpers_lost = (tally.lost as u32).into();
    metrics.depth = (*depth as u32).into();
    metrics.buffers = (*buffers as u32).into();
    metrics.target = (target as u32).into();
    metrics.refusals = refusals.count.into();
    metrics.refused = refusals.first;
    member.sign_header();
}

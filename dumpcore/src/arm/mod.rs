//! `arm()`: while the kernel is healthy, take over all that a dump will need, check it, and seal it.

mod config;
mod error;
mod layout;
mod probe;

use core::mem::size_of;

use self::layout::{afford, crew, divide, unit, workshop};
use self::probe::{Means, derive_keys, look, look_at_memory};
use crate::arena::{Arena, OutOfArena};
use crate::armed::{Armed, ArmedTarget, Lasting, Refusals, Sealed, SealedTarget};
use crate::code;
use crate::device::Geometry;
use crate::format::label::MIN_BLOCKS;
use crate::format::{BLOCK_SIZE, PAGE_BYTES};
use crate::helpers::coordinator::{Coordinator, Kept};
use crate::helpers::crew::Crew;
use crate::limits::{MAX_HELPERS, MAX_TARGETS};
use crate::memory::class::Level;
use crate::memory::map::PfnRange;
use crate::outcome::Outcome;
use crate::partition::label::{self, Labelled};
use crate::partition::lane::Books;
use crate::partition::pool::Pool;
use crate::partition::unfit::Unfit;
use crate::partition::window::Scratch;
use crate::platform::Platform;
use crate::stack::{RedZones, paint, wipe_below};
use crate::stream::writer::Written;
use crate::vitals::Vitals;
use crate::wait::Wait;

pub use self::config::{ArmReport, Config, Ownership, Target};
pub use self::error::ArmError;

/// Takes over everything that a dump to one of `targets` will need, checks it, and seals it.
pub(crate) fn prepare<'a>(
    platform: &dyn Platform,
    targets: &mut dyn Iterator<Item = Target<'a>>,
    mut arena: Arena<'a>,
    config: Config<'a>,
) -> Result<(&'a mut Armed<'a>, ArmReport), ArmError> {
    if config.budget == 0 || config.request_timeout == 0 {
        return Err(ArmError::NoTime);
    }
    let physical = arena.physical();
    if !physical.is_multiple_of(PAGE_BYTES) || !(arena.length() as u64).is_multiple_of(PAGE_BYTES) {
        return Err(ArmError::ArenaMisaligned { physical });
    }
    let arena_pages = PfnRange {
        start: physical / PAGE_BYTES,
        end: physical.saturating_add(arena.length() as u64) / PAGE_BYTES,
    };
    let mut armed_targets = [const { None }; MAX_TARGETS];
    let (mut depth, mut max_transfer, mut count_of_targets) = (0_usize, usize::MAX, 0_usize);
    let mut ownerships = [Ownership::Shared; MAX_TARGETS];
    let mut known = [(None, None); MAX_TARGETS];
    for (number, target) in targets.enumerate() {
        let slot = armed_targets.get_mut(number).ok_or(ArmError::TooManyTargets)?;
        depth = depth.saturating_add(target.device.depth());
        max_transfer = max_transfer.min(target.device.max_transfer());
        if let (Some(ownership), Some(known)) = (ownerships.get_mut(number), known.get_mut(number)) {
            *ownership = target.ownership;
            *known = (target.uuid, target.recipient);
        }
        *slot = Some(take_target(number, target, &mut arena)?);
        count_of_targets = number.saturating_add(1);
    }
    if count_of_targets == 0 {
        return Err(ArmError::NoTargets);
    }
    let controllers = || armed_targets.iter().map(|target| target.as_ref()?.device.controller());
    for (target, controller) in controllers().enumerate() {
        let same = |other: Option<u64>| other.is_some() && other == controller;
        if config.stripe && controllers().take(target).any(same) {
            return Err(ArmError::OneController { target });
        }
    }

    let memory = look_at_memory(platform, &mut arena)?;
    if config.level.contains(Level::KERNEL_ONLY) && !memory.kernel {
        return Err(ArmError::NoClasses);
    }
    let vitals = arena.place(Vitals::new(config.reset))?;
    let refusals = arena.place(Refusals::NONE)?;
    let kept = arena.place(Kept::new())?;
    let written = arena.place(Written::default())?;
    let (zone, stack) = arena.own_stack()?;
    paint(stack);
    let zones = arena.place(RedZones::new(zone))?;

    // What is left, but for the armed state itself, is for helpers, and becomes buffers.
    let state_bytes = size_of::<Armed<'a>>()
        .saturating_add(align_of::<Armed<'a>>())
        .saturating_add(size_of::<Crew<'a>>())
        .saturating_add(align_of::<Crew<'a>>());
    let left = |arena: &Arena<'_>| {
        let unused = arena.length().saturating_sub(arena.used());
        unused.saturating_sub(state_bytes).saturating_sub(BLOCK_SIZE)
    };
    let others = (platform.cpus() as usize).saturating_sub(1);
    let wanted = config.helpers.min(others).min(MAX_HELPERS);
    let (encoding, helpers) = afford(left(&arena), config.encoding, wanted);
    let own_workshop = workshop(&mut arena, encoding)?;
    let mut own = unit(&mut arena, encoding)?;
    let crew = crew(&mut arena, encoding, helpers, zones)?;
    let zones: &RedZones = zones;

    let too_small = OutOfArena { bytes: 4 * BLOCK_SIZE };
    let (payload, count) = divide(left(&arena), max_transfer, depth, encoding).ok_or(too_small)?;
    let mut pool = Pool::new(config.request_timeout);
    for _ in 0..count {
        pool.add(arena.dma(payload.saturating_add(1).saturating_mul(BLOCK_SIZE), BLOCK_SIZE)?);
    }

    let mut demanded = [false; MAX_TARGETS];
    let slots = armed_targets.iter_mut().flatten().zip(ownerships).zip(known);
    for (number, ((target, ownership), (uuid, recipient))) in slots.enumerate() {
        let found = match ownership {
            Ownership::Shared => {
                Labelled { uuid: uuid.ok_or(ArmError::UuidMissing { target: number })?, recipient }
            }
            Ownership::Exclusive => {
                let wait = Wait::new(platform, None, platform.now().saturating_add(config.budget));
                let mut coordinator = Coordinator::new(None, &mut own, kept, 0);
                let means = Means { pool: &mut pool, coordinator: &mut coordinator, zones };
                let found = look(number, target, uuid.as_ref(), means, &wait)?;
                if recipient.is_some() {
                    label::check_recipient(found.recipient.as_ref(), recipient.as_ref())
                        .map_err(|unfit| ArmError::Unfit { target: number, unfit })?;
                }
                found
            }
        };
        target.sealed.uuid = found.uuid;
        if let Some(recipient) = found.recipient {
            target.sealed.recipient = recipient;
            if let Some(demanded) = demanded.get_mut(number) {
                *demanded = true;
            }
        } else if demanded.contains(&true) && !config.clear_after_encrypted {
            return Err(ArmError::InTheClear { target: number });
        }
    }

    let (code_crc, code_bytes) = code::checksum(platform);
    let (verify, every) = Sealed::verify_numbers(config.verify);
    let arena_used = arena.used().saturating_add(size_of::<Armed<'a>>()).min(arena.length());
    let sealed = Sealed {
        verify,
        every,
        budget: config.budget,
        log_tail: config.log_tail,
        arena_start: arena_pages.start,
        arena_end: arena_pages.end,
        pages: memory.pages,
        code_crc: code_crc.into(),
        arena_used: arena_used as u64,
        arena_length: arena.length() as u64,
        level: config.level.bits().into(),
        encoding: u64::from(encoding as u32),
        // A disk must not be blamed for a helper, nor the end of the budget be spent on one.
        patience: config.helper_patience.min(config.request_timeout / 4).min(config.budget / 16),
        allow_risky: config.allow_risky.into(),
        stripe: config.stripe.into(),
        classes: memory.classes.into(),
    };
    let report = ArmReport {
        arena_used,
        arena_length: arena.length(),
        buffers: count,
        payload: payload.saturating_mul(BLOCK_SIZE),
        pages: memory.pages,
        code_bytes,
        targets: count_of_targets,
        helpers,
        encoding,
    };
    let armed = arena.place(Armed {
        sealed,
        numbers_crc: 0,
        targets_crc: 0,
        lasting: Lasting::NONE,
        ram: memory.ram,
        queues: config.queues,
        targets: armed_targets,
        pool,
        crew,
        own,
        workshop: own_workshop,
        kept,
        written,
        stack,
        zones,
        vitals,
        refusals,
        attempts: 0,
        outcome: Outcome::NotArmed,
    })?;
    let derived = derive_keys(platform, &mut armed.targets, &demanded);
    wipe_below();
    if let Err(error) = derived {
        // Dropping a key wipes it.
        armed.targets.iter_mut().flatten().for_each(|target| target.key = None);
        return Err(error);
    }
    armed.seal();
    Ok((armed, report))
}

/// Takes a target's part of the arena.
fn take_target<'a>(
    number: usize,
    target: Target<'a>,
    arena: &mut Arena<'a>,
) -> Result<ArmedTarget<'a>, ArmError> {
    let Target { device, first_block, blocks, .. } = target;
    if blocks < MIN_BLOCKS {
        return Err(ArmError::TooSmall { target: number, blocks });
    }
    let end = first_block.saturating_add(blocks);
    if let Some(Geometry { blocks }) = device.geometry()
        && end > blocks
    {
        return Err(ArmError::Unfit { target: number, unfit: Unfit::BeyondDevice { end, blocks } });
    }
    Ok(ArmedTarget {
        sealed: SealedTarget { first_block, blocks, uuid: [0; 16], recipient: [0; 32], ephemeral: [0; 32] },
        device,
        scratch: Scratch::new(arena.dma(BLOCK_SIZE, BLOCK_SIZE)?),
        books: arena.place(Books::new())?,
        key: None,
    })
}

//! `arm()`: while the kernel is healthy, acquires all that a dump will need, checks it, and protects it with
//! a checksum.

mod config;
mod error;
mod layout;
mod probe;
mod targets;

use core::mem::size_of;

use self::layout::{afford, divide, helper_pool, pack_buffers, unit};
use self::probe::{Means, derive_keys, look_at_memory};
use self::targets::Targets;
use crate::arena::{Arena, OutOfArena};
use crate::armed::{Armed, Lasting, Refusals, Settings};
use crate::code;
use crate::format::{BLOCK_SIZE, PAGE_BYTES};
use crate::helpers::coordinator::{Coordinator, PostedWork};
use crate::helpers::pool::HelperPool;
use crate::limits::MAX_HELPERS;
use crate::memory::class::Level;
use crate::memory::map::PfnRange;
use crate::outcome::Outcome;
use crate::partition::pool::Pool;
use crate::platform::Platform;
use crate::stack::{RedZones, paint, wipe_below};
use crate::stream::writer::Written;
use crate::vitals::Vitals;

pub use self::config::{ArmReport, Config, Ownership, Target};
pub use self::error::ArmError;

/// Acquires all that a dump to one of `targets` will need, checks it, and protects it with a checksum.
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
    let mut targets = Targets::take(targets, &mut arena)?;
    if config.stripe {
        targets.check_controllers()?;
    }

    let memory = look_at_memory(platform, &mut arena)?;
    if config.level.contains(Level::KERNEL_ONLY) && !memory.kernel {
        return Err(ArmError::NoClasses);
    }
    let vitals = arena.place(Vitals::new(config.reset))?;
    let refusals = arena.place(Refusals::NONE)?;
    let posted = arena.place(PostedWork::new())?;
    let written = arena.place(Written::default())?;
    let (zone, stack) = arena.own_stack()?;
    paint(stack);
    let zones = arena.place(RedZones::new(zone))?;

    // The rest, except for the armed state itself, goes to helpers and buffers.
    let state_bytes = size_of::<Armed<'a>>()
        .saturating_add(align_of::<Armed<'a>>())
        .saturating_add(size_of::<HelperPool<'a>>())
        .saturating_add(align_of::<HelperPool<'a>>());
    let left = |arena: &Arena<'_>| {
        let unused = arena.length().saturating_sub(arena.used());
        unused.saturating_sub(state_bytes).saturating_sub(BLOCK_SIZE)
    };
    let others = (platform.cpus() as usize).saturating_sub(1);
    let wanted = config.helpers.min(others).min(MAX_HELPERS);
    let (encoding, helpers) = afford(left(&arena), config.encoding, wanted);
    let own_buffers = pack_buffers(&mut arena, encoding)?;
    let mut own = unit(&mut arena, encoding)?;
    let helper_pool = helper_pool(&mut arena, encoding, helpers, zones)?;
    let zones: &RedZones = zones;

    let too_small = OutOfArena { bytes: 4 * BLOCK_SIZE };
    let (payload, count) =
        divide(left(&arena), targets.max_transfer, targets.depth, encoding).ok_or(too_small)?;
    let mut pool = Pool::new(config.request_timeout);
    for _ in 0..count {
        pool.add(arena.dma(payload.saturating_add(1).saturating_mul(BLOCK_SIZE), BLOCK_SIZE)?);
    }

    let demanded = {
        let mut coordinator = Coordinator::new(None, &mut own, posted, 0);
        let mut means = Means { platform, pool: &mut pool, coordinator: &mut coordinator, zones };
        targets.identify(&mut means, &config)?
    };

    let (code_crc, code_bytes) = code::checksum(platform);
    let (verify, every) = Settings::verify_numbers(config.verify);
    let arena_used = arena.used().saturating_add(size_of::<Armed<'a>>()).min(arena.length());
    let settings = Settings {
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
        // A slow helper must not look like a disk timeout, nor use up the end of the budget.
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
        targets: targets.count,
        helpers,
        encoding,
    };
    let armed = arena.place(Armed {
        settings,
        numbers_crc: 0,
        targets_crc: 0,
        lasting: Lasting::NONE,
        ram: memory.ram,
        queues: config.queues,
        targets: targets.armed,
        pool,
        helper_pool,
        own,
        pack_buffers: own_buffers,
        posted,
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
    armed.set_integrity();
    Ok((armed, report))
}

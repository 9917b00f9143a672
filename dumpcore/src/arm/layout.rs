//! How the arena is divided: packing buffers for this CPU first, then the helpers. The rest becomes transfer
//! buffers.

use crate::arena::{Arena, OutOfArena};
use crate::format::chunk::{Encoding, MAX_PAYLOAD_BLOCKS};
use crate::format::{BLOCK_SIZE, PAGE_SIZE};
use crate::helpers::job::{OUT_BYTES, PackBuffers, UNIT_PAGES, Unit};
use crate::helpers::pool::{Helper, HelperPool};
use crate::limits::{MAX_BUFFERS, MAX_HELPERS};
use crate::memory::lz4;
use crate::stack::{HELPER_RED_ZONE, HELPER_STACK, RedZones};

/// A dump needs at least this many buffers: one is filled while another is written.
const MIN_BUFFERS: usize = 2;

/// From this many buffers on, larger buffers are worth more than another buffer.
const GOOD_BUFFERS: usize = 6;

/// Bytes that must be left for buffers before helpers get any.
const GOOD_FOR_BUFFERS: usize = 256 << 10;

/// Bytes that must be left for buffers if memory is compressed: two buffers that hold a whole unit each.
const LEAST_FOR_PACKED_BUFFERS: usize = 2 * (OUT_BYTES + 3 * BLOCK_SIZE);

/// Payload blocks of a chunk, and number of buffers: the largest chunks of which enough fit into `bytes`.
///
/// A unit that does not shrink is as long as its pages and a few bytes more. The chunk size is chosen so that
/// units fit without a gap at the end.
pub(super) fn divide(
    bytes: usize,
    max_transfer: usize,
    depth: usize,
    encoding: Encoding,
) -> Option<(usize, usize)> {
    let most = (max_transfer / BLOCK_SIZE).checked_sub(1)?.min(MAX_PAYLOAD_BLOCKS);
    let buffers = |payload: usize| {
        let each = payload.saturating_add(1).saturating_mul(BLOCK_SIZE);
        bytes.checked_div(each).unwrap_or(0).min(depth.saturating_add(1)).min(MAX_BUFFERS)
    };
    let good =
        |payload: &usize| encoding == Encoding::Plain || *payload < UNIT_PAGES || payload % UNIT_PAGES == 1;
    let fits = |enough: usize| (1..=most).rev().filter(good).find(|payload| buffers(*payload) >= enough);
    let payload = fits(GOOD_BUFFERS).or_else(|| fits(MIN_BUFFERS))?;
    Some((payload, buffers(payload)))
}

/// Takes the packing buffers of one CPU; empty ones if memory is not compressed.
pub(super) fn pack_buffers<'a>(
    arena: &mut Arena<'a>,
    encoding: Encoding,
) -> Result<PackBuffers<'a>, OutOfArena> {
    if encoding == Encoding::Plain {
        return Ok(PackBuffers::new(&mut [], None));
    }
    let staging = arena.bytes(OUT_BYTES, PAGE_SIZE)?;
    let table = arena.place(lz4::Table::new())?;
    Ok(PackBuffers::new(staging.as_chunks_mut().0, Some(table)))
}

/// Takes a unit of work.
pub(super) fn unit<'a>(arena: &mut Arena<'a>, encoding: Encoding) -> Result<&'a mut Unit<'a>, OutOfArena> {
    let out = if encoding == Encoding::Plain { &mut [] } else { arena.bytes(OUT_BYTES, 64)? };
    arena.place(Unit::new(out))
}

/// Bytes of the arena for one CPU's packing buffers and for one unit, including possible alignment loss.
const fn costs(encoding: Encoding) -> (usize, usize) {
    let unit = size_of::<Unit<'_>>().saturating_add(256);
    match encoding {
        Encoding::Plain => (0, unit),
        Encoding::Units => (
            OUT_BYTES.saturating_add(size_of::<lz4::Table>()).saturating_add(PAGE_SIZE),
            unit.saturating_add(OUT_BYTES),
        ),
    }
}

/// How memory can be stored, and how many CPUs can help, with `room` bytes of arena left.
pub(super) fn afford(room: usize, encoding: Encoding, helpers: usize) -> (Encoding, usize) {
    let for_all = |encoding: Encoding, helpers: usize| {
        let (packs, unit) = costs(encoding);
        let each = HELPER_RED_ZONE
            .saturating_add(HELPER_STACK)
            .saturating_add(packs)
            .saturating_add(unit.saturating_mul(2));
        packs.saturating_add(unit).saturating_add(each.saturating_mul(helpers))
    };
    let fits = |encoding: Encoding, helpers: usize, rest: usize| {
        room >= for_all(encoding, helpers).saturating_add(rest)
    };
    let encoding = if fits(encoding, 0, LEAST_FOR_PACKED_BUFFERS) { encoding } else { Encoding::Plain };
    let helpers = (0..=helpers).rev().find(|helpers| fits(encoding, *helpers, GOOD_FOR_BUFFERS));
    (encoding, helpers.unwrap_or(0))
}

/// Creates the helper pool with its slots and units.
pub(super) fn helper_pool<'a>(
    arena: &mut Arena<'a>,
    encoding: Encoding,
    helpers: usize,
    zones: &mut RedZones,
) -> Result<Option<&'a HelperPool<'a>>, OutOfArena> {
    if helpers == 0 {
        return Ok(None);
    }
    let mut places = [const { None }; MAX_HELPERS];
    let mut units = [const { None }; 2 * MAX_HELPERS];
    for place in places.iter_mut().take(helpers) {
        let (zone, stack) = arena.stack(HELPER_RED_ZONE, HELPER_STACK)?;
        zones.add(zone);
        *place = Some(Helper::new(stack, pack_buffers(arena, encoding)?));
    }
    for slot in units.iter_mut().take(helpers.saturating_mul(2)) {
        *slot = Some(unit(arena, encoding)?);
    }
    let helper_pool = HelperPool::new(places, units.into_iter().flatten());
    Ok(Some(arena.place(helper_pool)?))
}

//! Finds the block where a dump may begin, after all dumps that have not been saved yet.

use crate::device::DeviceError;
use crate::format::chain::{Extent, chunk_at, front_at};
use crate::format::chunk::MAX_PAYLOAD_BLOCKS;
use crate::format::frame::Kind;
use crate::format::{Block, Uuid, pattern};
use crate::limits::MAX_BUFFERS;
use crate::partition::member::{Member, Place};
use crate::partition::range::BlockRange;
use crate::partition::scheduler::IoScheduler;
use crate::partition::unfit::Unfit;
use crate::wait::Wait;

/// Blocks of the smallest dump: front header, a chunk of two, back header.
pub const SMALLEST_DUMP: u64 = 4;

/// Skips the dumps of a member and finds the first free block. Nothing may be in flight.
///
/// # Errors
/// If there is something other than dumps before the pattern, or too little space is free.
pub fn find(
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    member: usize,
    wait: &Wait<'_>,
) -> Result<Place, Unfit> {
    find_from(scheduler, member, Place { block: 1, sequence: 1, free_to: 1, behind_unfinished: false }, wait)
}

/// Like [`find`], starting at a block that is the first of a dump, part of the pattern, or, after a dump that
/// was not closed, more of that dump.
///
/// # Errors
/// As [`find`].
pub fn find_from(
    scheduler: &mut IoScheduler<'_, '_, '_, '_>,
    member: usize,
    from: Place,
    wait: &Wait<'_>,
) -> Result<Place, Unfit> {
    let mut place = from;
    let gone = Unfit::Device { block: place.block, error: DeviceError::NotReady };
    let (blocks, uuid) = {
        let Member { window, state, .. } = scheduler.members.get_mut(member).ok_or(gone)?;
        (window.blocks(), state.uuid)
    };
    // Each turn skips at least one block.
    while place.block < blocks {
        if wait.expired() {
            return Err(Unfit::Budget);
        }
        let at = place.block;
        let block = read(scheduler, member, at, wait)?;
        if pattern::matches(block, &uuid, at) {
            break;
        }
        let claims = Kind::of(block) == Some(Kind::Front);
        let mut unfinished = Unfinished { uuid, nonce: None, window: WINDOW };
        match front_at(block, &uuid, at) {
            // A torn front header: its dump is there and must be kept.
            None if claims || place.behind_unfinished => (),
            None => return Err(Unfit::Foreign { block: at }),
            Some(header) => {
                place.sequence = header.sequence.get().saturating_add(1);
                match Extent::of(header, blocks) {
                    Extent::Open => (),
                    Extent::Impossible => return Err(Unfit::Foreign { block: at }),
                    Extent::Closed { end } => {
                        place.block = end;
                        continue;
                    }
                }
                unfinished.nonce = Some(header.nonce.get());
                unfinished.window = WINDOW.max(u64::from(header.window_blocks.get()));
            }
        }
        place.behind_unfinished = true;
        match unfinished.end(scheduler, member, at.saturating_add(1), wait)? {
            End::Free { block, free_to } => {
                (place.block, place.free_to) = (block, free_to);
                break;
            }
            End::Front { block } => place.block = block,
        }
    }
    let free = blocks.saturating_sub(place.block);
    if free < SMALLEST_DUMP {
        return Err(Unfit::NoRoom { free });
    }
    place.free_to = place.free_to.max(place.block);
    Ok(place)
}

/// Reads a block and waits for it.
fn read<'t>(
    scheduler: &'t mut IoScheduler<'_, '_, '_, '_>,
    member: usize,
    block: u64,
    wait: &Wait<'_>,
) -> Result<&'t Block, Unfit> {
    let failed = |error| Unfit::Device { block, error };
    let member = scheduler.members.get_mut(member).ok_or(failed(DeviceError::NotReady))?;
    member.window.read(block, wait).map_err(failed)
}

/// The most blocks that a dump can have in flight together, whatever its header says.
const WINDOW: u64 = MAX_BUFFERS as u64 * CHUNK;

/// Blocks of the largest chunk.
const CHUNK: u64 = MAX_PAYLOAD_BLOCKS as u64 + 1;

/// A dump that was not closed.
struct Unfinished {
    uuid: Uuid,
    /// `None` until a chunk provides it, if the front header does not.
    nonce: Option<u64>,
    /// The most blocks that it had in flight together.
    window: u64,
}

/// What follows an unfinished dump.
enum End {
    /// The pattern, checked up to `free_to`.
    Free { block: u64, free_to: u64 },
    /// Another dump's front header.
    Front { block: u64 },
}

/// Traces of an unfinished dump in a range of blocks.
#[derive(Default)]
struct Seen {
    /// The first front header.
    front: Option<u64>,
    /// The last block that is not the pattern.
    last: Option<u64>,
    /// The last header of one of its chunks.
    chunk: Option<u64>,
}

impl Unfinished {
    /// The number of payload blocks according to the header in block `at`, if that is one of this dump's
    /// chunks.
    fn payload(&mut self, block: &Block, at: u64) -> Option<u64> {
        let header = chunk_at(block, at)?;
        let nonce = header.nonce.get();
        (*self.nonce.get_or_insert(nonce) == nonce).then(|| header.payload_blocks.get().into())
    }

    /// Finds what follows the dump, given a block of it. Its chunks lead from one to the next. After the last
    /// one, the dump cannot reach further than the blocks that were in flight together. A disk that lost its
    /// cache may have lost any block, though, so each block is still checked before it is written, as always.
    fn end(
        &mut self,
        scheduler: &mut IoScheduler<'_, '_, '_, '_>,
        member: usize,
        first: u64,
        wait: &Wait<'_>,
    ) -> Result<End, Unfit> {
        let blocks = scheduler.members.get(member).map_or(0, |member| member.window.blocks());
        let mut from = first;
        // Each turn advances by at least one block.
        while from < blocks {
            let mut next = from;
            // Each turn skips a chunk.
            while next < blocks {
                if wait.expired() {
                    return Err(Unfit::Budget);
                }
                let Some(payload) = self.payload(read(scheduler, member, next, wait)?, next) else { break };
                from = next.saturating_add(1);
                next = from.saturating_add(payload);
                wait.breathe();
            }
            // The last chunk may be incomplete, so its length is not trusted.
            let to = from.saturating_add(self.window).saturating_add(CHUNK).min(blocks);
            let mut seen = Seen::default();
            let uuid = self.uuid;
            scheduler.scan(member, BlockRange { from, to }, wait, &mut |number, block| {
                if pattern::matches(block, &uuid, number) {
                    return;
                }
                seen.last = seen.last.max(Some(number));
                if front_at(block, &uuid, number).is_some() {
                    seen.front = Some(seen.front.map_or(number, |front| front.min(number)));
                }
                if self.payload(block, number).is_some() {
                    seen.chunk = seen.chunk.max(Some(number));
                }
            })?;
            match seen {
                Seen { front: Some(block), .. } => return Ok(End::Front { block }),
                Seen { last: None, .. } => return Ok(End::Free { block: from, free_to: to }),
                // The chunks continue there.
                Seen { chunk: Some(block), .. } => from = block,
                Seen { last: Some(last), .. } => from = last.saturating_add(1),
            }
        }
        Ok(End::Free { block: blocks, free_to: blocks })
    }
}

//! Walks over the blocks of a dump, chunk by chunk, around whatever is damaged.

use dumpcore::format::chunk::MAX_PAYLOAD_BLOCKS;
use dumpcore::format::frame::Kind;
use dumpcore::format::{BLOCK_SIZE, Block, pattern};

use super::chunk::{Chunk, Condition, Lock};
use super::stripes::Part;
use crate::partition::{Ending, chunk_at, other_version};
use crate::source::{Reader, read_around};

/// A step of the walk.
pub(super) enum Step<'a> {
    /// A chunk.
    Chunk(&'a mut Chunk<&'a mut [Block]>),
    /// A block where a chunk's or the dump's header should stand, and does not.
    Gap {
        /// Which.
        block: u64,
        /// What it is.
        condition: Condition,
    },
    /// Blocks that are done; for showing progress.
    Done {
        /// How many.
        blocks: u64,
    },
}

/// Walks over a dump and tells `visit` what it meets, in the order of the blocks.
///
/// # Errors
/// The first error of `visit`. What cannot be read is a step, not an error.
pub(super) fn walk<E>(
    part: &Part<'_>,
    lock: &Lock,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (found, uuid) = (&part.found, &part.uuid);
    let mut reader = Reader::new(part.source);
    let mut room = vec![[0; BLOCK_SIZE]; MAX_PAYLOAD_BLOCKS];
    let nonce = found.header.nonce.get();
    let mut at = found.first;
    if found.ending != Ending::BothLost {
        // The front header, or where it should be; that it is lost is known from `found.ending`.
        visit(Step::Done { blocks: 1 })?;
        at += 1;
    }
    while at < found.end {
        let from = at;
        let read = reader.block(at);
        let chunk = read.as_ref().ok().and_then(|block| chunk_at(block, nonce, at));
        // The reader's window moves on while the header is still needed.
        let chunk = chunk.map(|chunk| Box::new(chunk.clone()));
        match (chunk, read) {
            (Some(header), _) => {
                let payload = room.get_mut(..header.sums().len()).unwrap_or_default();
                let there = (found.end - at - 1).min(payload.len() as u64) as usize;
                let unreadable = read_around(part.source, at + 1, &mut payload[..there]);
                let mut chunk = Chunk::check(part, at, header, payload, &unreadable, lock);
                at = found.end.min(at + 1 + u64::from(chunk.header.payload_blocks.get()));
                visit(Step::Chunk(&mut chunk))?;
            }
            (None, Ok(block)) => {
                let is_end = at + 1 == found.end && Kind::of(block) == Some(Kind::Back);
                if !is_end {
                    let condition = if pattern::matches(block, uuid, at) {
                        Condition::NotWritten
                    } else {
                        other_version(block).map_or(Condition::Damaged, Condition::OtherVersion)
                    };
                    visit(Step::Gap { block: at, condition })?;
                }
                at += 1;
            }
            (None, Err(_)) => {
                visit(Step::Gap { block: at, condition: Condition::Unreadable })?;
                at += 1;
            }
        }
        visit(Step::Done { blocks: at - from })?;
    }
    Ok(())
}

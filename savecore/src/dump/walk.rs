//! Walks over the blocks of a dump, chunk by chunk, around whatever is damaged.

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, RunKind};
use dumpcore::format::frame::Kind;
use dumpcore::format::{Block, Uuid, pattern};

use crate::partition::{Ending, Found, chunk_at};
use crate::source::{Reader, Source};

/// What a block of a dump turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Its checksum is right.
    Good,
    /// It still holds the pattern: the machine stopped before it was written.
    NotWritten,
    /// It holds something else than what was written.
    Damaged,
    /// The medium does not give it.
    Unreadable,
}

/// A step of the walk.
pub enum Step<'a> {
    /// A chunk begins.
    Chunk {
        /// The block of its header.
        block: u64,
        /// Its header.
        header: &'a ChunkHeader,
    },
    /// A page of a memory chunk.
    Page {
        /// Its page frame number.
        pfn: u64,
        /// The block of the partition that it stands in.
        block: u64,
        /// What that block is.
        condition: Condition,
        /// Its bytes, if they are good.
        bytes: Option<&'a Block>,
    },
    /// A block of a notes chunk.
    Notes {
        /// The block of the partition.
        block: u64,
        /// How many of its bytes are in use.
        used: usize,
        /// What it is.
        condition: Condition,
        /// Its bytes, if they are good.
        bytes: Option<&'a Block>,
    },
    /// A notes chunk is over.
    NotesEnd,
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

/// What block `number` of a dump that ends at `end` holds, whose checksum should be `sum`.
fn judge<'b>(
    reader: &'b mut Reader<'_>,
    uuid: &Uuid,
    end: u64,
    number: u64,
    sum: u64,
) -> (Condition, Option<&'b Block>) {
    if number >= end {
        return (Condition::NotWritten, None);
    }
    match reader.block(number) {
        Err(_) => (Condition::Unreadable, None),
        Ok(block) if block_sum(block, number) == sum => (Condition::Good, Some(block)),
        Ok(block) if pattern::matches(block, uuid, number) => (Condition::NotWritten, None),
        Ok(_) => (Condition::Damaged, None),
    }
}

/// Walks over a dump and tells `visit` what it meets, in the order of the blocks.
///
/// # Errors
/// The first error of `visit`. What cannot be read is a step, not an error.
pub fn walk<E>(
    source: &dyn Source,
    uuid: &Uuid,
    found: &Found,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::new(source);
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
            (Some(chunk), _) => {
                visit(Step::Chunk { block: at, header: &chunk })?;
                let payload = u64::from(chunk.payload_blocks.get());
                match chunk.kind() {
                    ChunkKind::Memory => memory(&mut reader, uuid, found.end, at, &chunk, visit)?,
                    ChunkKind::Notes => notes(&mut reader, uuid, found.end, at, &chunk, visit)?,
                }
                at = found.end.min(at + 1 + payload);
            }
            (None, Ok(block)) => {
                let is_end = at + 1 == found.end && Kind::of(block) == Some(Kind::Back);
                if !is_end {
                    let condition = if pattern::matches(block, uuid, at) {
                        Condition::NotWritten
                    } else {
                        Condition::Damaged
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

fn memory<E>(
    reader: &mut Reader<'_>,
    uuid: &Uuid,
    end: u64,
    at: u64,
    chunk: &ChunkHeader,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = at;
    let mut sums = chunk.sums().iter();
    for run in chunk.runs().iter().filter(|run| run.kind() == RunKind::Data) {
        for (pfn, sum) in (run.pfn.get()..).take(run.count.get() as usize).zip(&mut sums) {
            block += 1;
            let (condition, bytes) = judge(reader, uuid, end, block, sum.get());
            visit(Step::Page { pfn, block, condition, bytes })?;
        }
    }
    Ok(())
}

fn notes<E>(
    reader: &mut Reader<'_>,
    uuid: &Uuid,
    end: u64,
    at: u64,
    chunk: &ChunkHeader,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = chunk.payload_bytes.get() as usize;
    for (block, sum) in (at + 1..).zip(chunk.sums()) {
        let used = left.min(dumpcore::format::BLOCK_SIZE);
        left -= used;
        let (condition, bytes) = judge(reader, uuid, end, block, sum.get());
        visit(Step::Notes { block, used, condition, bytes })?;
    }
    visit(Step::NotesEnd)
}

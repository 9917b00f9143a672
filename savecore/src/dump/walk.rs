//! Walks over the blocks of a dump, chunk by chunk, around any damage.
//!
//! Each chunk tells where the next one starts, so the walk itself goes from front to back, a stretch of
//! blocks at a time. Several threads check the contents of the stretches.

use dumpcore::format::chunk::{ChunkHeader, ChunkKind, MAX_PAYLOAD_BLOCKS, RunKind};
use dumpcore::format::frame::Kind;
use dumpcore::format::{BLOCK_SIZE, Block, pattern};

use super::chunk::{Chunk, Condition, Decryption, Room, State};
use super::index::{Fate, PageRun};
use super::stripes::Part;
use crate::parallel::Line;
use crate::partition::{Ending, chunk_at, other_version};
use crate::processors;
use crate::source::{Unreadable, read_around};

/// Blocks per read: four full chunks, 2 MiB.
const STRETCH: usize = 4 * (1 + MAX_PAYLOAD_BLOCKS);

/// Maximum number of threads: each takes 2.5 MiB.
const MAX_THREADS: u64 = 16;

/// The results for a stretch of blocks.
pub(super) struct Seen {
    /// In block order.
    pub(super) steps: Vec<Step>,
    /// Number of blocks.
    pub(super) blocks: u64,
}

/// A step of the walk.
pub(super) enum Step {
    /// A chunk.
    Chunk(Box<Checked>),
    /// A block without the expected header of a chunk or of the dump.
    Gap {
        /// Its number.
        block: u64,
        /// Its condition.
        condition: Condition,
    },
}

/// A chunk that was checked, decrypted and decompressed, without the pages' bytes.
pub(super) struct Checked {
    /// The block of its header.
    pub(super) block: u64,
    /// The checksum of its header.
    pub(super) crc: u32,
    /// Its index in the dump.
    pub(super) index: u64,
    /// Its kind.
    pub(super) kind: ChunkKind,
    /// Whether it is encrypted.
    pub(super) encrypted: bool,
    /// Its usability.
    pub(super) state: State,
    /// The conditions of its payload blocks.
    pub(super) conditions: Vec<Condition>,
    /// Number of pages whose bytes should be in the payload.
    pub(super) pages: u64,
    /// Runs of other pages; their place is 0.
    pub(super) others: Vec<PageRun>,
    /// The fates of the pages whose bytes should be in the payload; places are relative to the chunk's first.
    pub(super) data: Vec<PageRun>,
    /// For each payload block of notes, its used bytes if known.
    pub(super) notes: Vec<Option<Vec<u8>>>,
}

/// Walks over a part of a dump and passes the results to `visit`, in block order.
///
/// # Errors
/// The first error of `visit`. An unreadable block is a step, not an error.
pub(super) fn walk<E>(
    part: &Part<'_>,
    decryption: &Decryption,
    visit: &mut dyn FnMut(Seen) -> Result<(), E>,
) -> Result<(), E> {
    let found = &part.found;
    let mut at = found.first;
    if found.ending != Ending::BothLost {
        // The front header, or its place; `found.ending` tells if it is lost.
        visit(Seen { steps: Vec::new(), blocks: 1 })?;
        at += 1;
    }
    let stretches = found.blocks() / STRETCH as u64;
    let threads = (processors() as u64).min(stretches).min(MAX_THREADS) as usize;
    let line = Line {
        state: &Eyes::new,
        next: &mut |eyes: &mut Eyes| {
            let stretch = stretch(part, at, &mut eyes.blocks)?;
            at = stretch.end;
            Some(stretch)
        },
        work: &|eyes: &mut Eyes, stretch| eyes.look(part, decryption, &stretch),
    };
    line.run(threads, visit)
}

/// Blocks read together; the next ones start with a chunk's header, like these, or where one is missing.
struct Stretch {
    first: u64,
    /// The first block after them.
    end: u64,
    /// The blocks of the chunks' headers.
    chunks: Vec<u64>,
    unreadable: Unreadable,
}

/// Reads the next stretch.
fn stretch(part: &Part<'_>, first: u64, blocks: &mut [Block]) -> Option<Stretch> {
    let length = part.found.end.checked_sub(first).filter(|left| *left > 0)?.min(STRETCH as u64);
    let blocks = blocks.get_mut(..length as usize)?;
    let unreadable = read_around(part.source, first, blocks);
    let nonce = part.found.header.nonce.get();
    let mut chunks = Vec::new();
    let mut at = first;
    while let Some(block) = blocks.get((at - first) as usize) {
        let chunk = chunk_at(block, nonce, at).filter(|_| !unreadable.holds(at));
        let Some(chunk) = chunk else {
            at += 1;
            continue;
        };
        // A chunk that extends beyond the dump's end is cut there.
        let end = part.found.end.min(at + 1 + u64::from(chunk.payload_blocks.get()));
        if end > first + length {
            break;
        }
        chunks.push(at);
        at = end;
    }
    Some(Stretch { first, end: at, chunks, unreadable })
}

/// A thread's buffers for checking blocks.
struct Eyes {
    /// The stretch, and room for the part of its last chunk after the dump's end.
    blocks: Vec<Block>,
    room: Room,
}

impl Eyes {
    fn new() -> Eyes {
        Eyes { blocks: vec![[0; BLOCK_SIZE]; STRETCH + MAX_PAYLOAD_BLOCKS], room: Room::new() }
    }

    fn look(&mut self, part: &Part<'_>, decryption: &Decryption, stretch: &Stretch) -> Seen {
        let mut steps = Vec::new();
        let mut at = stretch.first;
        let mut chunks = stretch.chunks.iter();
        loop {
            let chunk = chunks.next();
            for number in at..chunk.copied().unwrap_or(stretch.end) {
                let block = self.blocks.get((number - stretch.first) as usize);
                let condition = block.and_then(|block| gap(part, number, block, &stretch.unreadable));
                steps.extend(condition.map(|condition| Step::Gap { block: number, condition }));
            }
            let Some(block) = chunk.copied() else { break };
            let checked = self.chunk(part, decryption, stretch, block);
            let payload = checked.as_ref().map_or(0, |checked| checked.conditions.len() as u64);
            steps.extend(checked.map(|checked| Step::Chunk(Box::new(checked))));
            at = block + 1 + payload;
        }
        Seen { steps, blocks: stretch.end - stretch.first }
    }

    fn chunk(
        &mut self,
        part: &Part<'_>,
        decryption: &Decryption,
        stretch: &Stretch,
        block: u64,
    ) -> Option<Checked> {
        let behind = self.blocks.get_mut((block - stretch.first) as usize..)?;
        let (header, payload) = behind.split_first_mut()?;
        let header = Box::new(ChunkHeader::of(header)?.clone());
        let payload = payload.get_mut(..header.sums().len())?;
        let mut chunk = Chunk::check(part, block, header, payload, &stretch.unreadable, decryption);
        let is_memory = chunk.header.kind() == ChunkKind::Memory;
        let mut checked = Checked {
            block,
            crc: chunk.header.crc.get(),
            index: chunk.header.index.get(),
            kind: chunk.header.kind(),
            encrypted: chunk.header.is_encrypted(),
            state: chunk.state,
            conditions: Vec::new(),
            pages: chunk.data_pages(),
            others: Vec::new(),
            data: Vec::new(),
            notes: Vec::new(),
        };
        if is_memory {
            for run in chunk.header.runs().iter().filter(|run| run.kind() != RunKind::Data) {
                let fate = chunk.lost().unwrap_or(Fate::of(run.kind()));
                let (pfn, count) = (run.pfn.get(), run.count.get().into());
                push(&mut checked.others, PageRun { pfn, count, fate, class: run.class(), place: 0 });
            }
            let data = &mut checked.data;
            let done: Result<(), std::convert::Infallible> = chunk.pieces(&mut self.room, &mut |piece| {
                let fate = piece.bytes.map_or_else(|fate| fate, |_| Fate::Data);
                let (pfn, count, class) = (piece.pfn, piece.count, piece.class);
                push(data, PageRun { pfn, count, fate, class, place: piece.first });
                Ok(())
            });
            let Ok(()) = done;
        } else {
            let known = (0..chunk.conditions.len()).map(|index| chunk.bytes(index).map(<[u8]>::to_vec));
            checked.notes = known.collect();
        }
        checked.conditions = chunk.conditions;
        Some(checked)
    }
}

/// Appends a run, or extends the last one.
fn push(runs: &mut Vec<PageRun>, run: PageRun) {
    if !runs.last_mut().is_some_and(|last| last.join(&run)) {
        runs.push(run);
    }
}

/// The condition of a block that is not part of a chunk; `None` for the back header.
fn gap(part: &Part<'_>, number: u64, block: &Block, unreadable: &Unreadable) -> Option<Condition> {
    if unreadable.holds(number) {
        return Some(Condition::Unreadable);
    }
    if number + 1 == part.found.end && Kind::of(block) == Some(Kind::Back) {
        return None;
    }
    Some(if pattern::matches(block, &part.uuid, number) {
        Condition::NotWritten
    } else {
        other_version(block).map_or(Condition::Damaged, Condition::OtherVersion)
    })
}

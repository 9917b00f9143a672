//! Single pages, out of order: the page tables of a crashed kernel lie anywhere.

use std::collections::VecDeque;
use std::io;

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, Encoding};
use dumpcore::format::{BLOCK_SIZE, Block};

use super::chunk::{Chunk, Lock, Room, Segment};
use super::index::{ChunkPlace, Index};
use super::stripes::Part;
use crate::partition::chunk_at;
use crate::source::{Reader, Source};

/// Chunks that are kept open, at most: half a MiB each.
const MAX_CHUNKS: usize = 16;

/// The chunks that were read from last.
#[derive(Default)]
pub(super) struct Cache<'s> {
    readers: Vec<Reader<'s>>,
    chunks: VecDeque<Entry>,
}

struct Entry {
    place: ChunkPlace,
    content: Content,
}

enum Content {
    /// Each page has a block of its own, in the clear: only those asked for are read.
    Plain(Box<ChunkHeader>),
    /// The whole chunk was read.
    Whole { chunk: Chunk, segments: Vec<Segment>, room: Room },
}

impl<'s> Cache<'s> {
    /// The page in a place that the index calls data.
    ///
    /// # Errors
    /// If it cannot be read any more as it was when the index was made.
    pub(super) fn page(
        &mut self,
        parts: &[Part<'s>],
        lock: &Lock,
        index: &Index,
        place: u64,
    ) -> io::Result<Box<Block>> {
        let gone = || io::Error::other("a page's place is in no chunk");
        let chunk = index.chunk_of(place).ok_or_else(gone)?;
        let part = parts.get(chunk.part as usize).ok_or_else(gone)?;
        let entry = match self.chunks.iter().position(|entry| entry.place == chunk) {
            Some(known) => self.chunks.remove(known).ok_or_else(gone)?,
            None => Entry { place: chunk, content: self.load(parts, part, lock, chunk)? },
        };
        self.chunks.push_front(entry);
        self.chunks.truncate(MAX_CHUNKS);
        let number = place - chunk.first;
        match self.chunks.front_mut().map(|entry| &mut entry.content) {
            Some(Content::Plain(header)) => plain(part.source, header, chunk.block, number),
            Some(Content::Whole { chunk, segments, room }) => {
                let behind = segments.partition_point(|segment| segment.first <= number);
                let segment = behind.checked_sub(1).and_then(|at| segments.get(at));
                let segment = segment.ok_or_else(|| unsteady(chunk.block))?;
                let pages = chunk.unpack(segment, room).map_err(|_| unsteady(chunk.block))?;
                let page = pages.get((number - segment.first) as usize);
                page.map(|page| Box::new(*page)).ok_or_else(|| unsteady(chunk.block))
            }
            None => Err(gone()),
        }
    }

    fn load(
        &mut self,
        parts: &[Part<'s>],
        part: &Part<'s>,
        lock: &Lock,
        place: ChunkPlace,
    ) -> io::Result<Content> {
        let header = read_block(part.source, place.block)?;
        let nonce = part.found.header.nonce.get();
        let header = chunk_at(&header, nonce, place.block).ok_or_else(|| unsteady(place.block))?;
        let header = Box::new(header.clone());
        if header.encoding() == Encoding::Plain && !header.is_sealed() && matches!(lock, Lock::Open) {
            return Ok(Content::Plain(header));
        }
        if self.readers.is_empty() {
            self.readers.extend(parts.iter().map(|part| Reader::new(part.source)));
        }
        let reader = self.readers.get_mut(place.part as usize).ok_or_else(|| unsteady(place.block))?;
        let mut chunk = Chunk::read(reader, &part.uuid, part.found.end, place.block, header, lock);
        let segments = chunk.segments();
        Ok(Content::Whole { chunk, segments, room: Room::new() })
    }
}

/// Page `number` of the data pages of a chunk with one page a block.
fn plain(source: &dyn Source, header: &ChunkHeader, block: u64, number: u64) -> io::Result<Box<Block>> {
    let sum = header.sums().get(number as usize).ok_or_else(|| unsteady(block))?;
    let block = block + 1 + number;
    let page = read_block(source, block)?;
    if block_sum(&page, block) == sum.get() { Ok(page) } else { Err(unsteady(block)) }
}

fn read_block(source: &dyn Source, number: u64) -> io::Result<Box<Block>> {
    let mut block: Box<[Block; 1]> = Box::new([[0; BLOCK_SIZE]]);
    source.read(number, &mut block[..])?;
    Ok(Box::new(block[0]))
}

fn unsteady(block: u64) -> io::Error {
    io::Error::other(crate::Error::Unsteady { block }.to_string())
}

//! Single pages in any order: the page tables of a crashed kernel are scattered.

use std::collections::VecDeque;
use std::io;

use dumpcore::format::chunk::{ChunkHeader, Encoding};
use dumpcore::format::{BLOCK_SIZE, Block};

use super::chunk::{Chunk, Decryption, Room, Segment};
use super::index::{ChunkPlace, Index};
use super::stripes::Part;
use crate::partition::chunk_at;
use crate::source::{Source, read_around};

/// Maximum number of chunks to keep: half a MiB each.
const MAX_CHUNKS: usize = 16;

/// The chunks used most recently.
#[derive(Default)]
pub(super) struct Cache {
    chunks: VecDeque<Entry>,
}

struct Entry {
    place: ChunkPlace,
    content: Content,
}

enum Content {
    /// Each page has its own block, unencrypted: only the requested ones are read.
    Plain(Box<ChunkHeader>),
    /// The whole chunk was read.
    Whole { chunk: Chunk<Vec<Block>>, segments: Vec<Segment>, room: Room },
}

impl Cache {
    /// The page at a place that the index marks as data.
    ///
    /// # Errors
    /// If it can no longer be read unchanged since indexing.
    pub(super) fn page(
        &mut self,
        parts: &[Part<'_>],
        decryption: &Decryption,
        index: &Index,
        place: u64,
    ) -> io::Result<Box<Block>> {
        let gone = || io::Error::other("a page's place is not in any chunk");
        let (chunk, _) = index.chunk_of(place).ok_or_else(gone)?;
        let part = parts.get(chunk.part as usize).ok_or_else(gone)?;
        let entry = match self.chunks.iter().position(|entry| entry.place == chunk) {
            Some(known) => self.chunks.remove(known).ok_or_else(gone)?,
            None => Entry { place: chunk, content: load(part, decryption, chunk)? },
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
}

fn load(part: &Part<'_>, decryption: &Decryption, place: ChunkPlace) -> io::Result<Content> {
    let header = header(part, place)?;
    if header.encoding() == Encoding::Plain
        && !header.is_encrypted()
        && matches!(decryption, Decryption::NotNeeded)
    {
        return Ok(Content::Plain(header));
    }
    let left = part.found.end.saturating_sub(place.block + 1);
    let mut payload = vec![[0; BLOCK_SIZE]; header.sums().len()];
    let there = left.min(payload.len() as u64) as usize;
    let unreadable = read_around(part.source, place.block + 1, &mut payload[..there]);
    let mut chunk = Chunk::check(part, place.block, header, payload, &unreadable, decryption);
    let segments = chunk.segments();
    Ok(Content::Whole { chunk, segments, room: Room::new() })
}

/// The header of a chunk, unchanged since the dump was opened.
pub(super) fn header(part: &Part<'_>, place: ChunkPlace) -> io::Result<Box<ChunkHeader>> {
    let block = read_block(part.source, place.block)?;
    let header = chunk_at(&block, part.found.header.nonce.get(), place.block);
    let header = header.filter(|header| header.crc.get() == place.crc);
    Ok(Box::new(header.ok_or_else(|| unsteady(place.block))?.clone()))
}

/// Page `number` of the data pages of a chunk with one page per block.
fn plain(source: &dyn Source, header: &ChunkHeader, block: u64, number: u64) -> io::Result<Box<Block>> {
    let sum = header.sums().get(number as usize).ok_or_else(|| unsteady(block))?;
    let block = block + 1 + number;
    let page = read_block(source, block)?;
    if header.block_sum(&page, block) == sum.get() { Ok(page) } else { Err(unsteady(block)) }
}

fn read_block(source: &dyn Source, number: u64) -> io::Result<Box<Block>> {
    let mut block: Box<[Block; 1]> = Box::new([[0; BLOCK_SIZE]]);
    source.read(number, &mut block[..])?;
    Ok(Box::new(block[0]))
}

fn unsteady(block: u64) -> io::Error {
    io::Error::other(crate::Error::Unsteady { block }.to_string())
}

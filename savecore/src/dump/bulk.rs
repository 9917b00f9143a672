//! Many pages at once: each of their chunks is read once.

use dumpcore::format::chunk::{ChunkHeader, Encoding, MAX_PAYLOAD_BLOCKS};
use dumpcore::format::{BLOCK_SIZE, Block};

use super::Dump;
use super::cache::header;
use super::chunk::{Chunk, Decryption, Room};
use super::index::ChunkPlace;
use super::stripes::Part;
use crate::Error;
use crate::source::read_around;

/// If more pieces than this are wanted of a chunk, the gaps between them are read too.
const FEW: usize = 4;

/// Pages in consecutive places of one chunk, and their destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// Place of the first.
    pub(crate) place: u64,
    /// How many.
    pub(crate) count: usize,
    /// Destination of the first.
    pub(crate) at: usize,
}

/// The buffers of one reader: about 600 KiB.
pub(crate) struct Bulk {
    window: Vec<Block>,
    room: Room,
}

impl Bulk {
    /// Buffers for a reader.
    pub(crate) fn new() -> Bulk {
        Bulk { window: vec![[0; BLOCK_SIZE]; MAX_PAYLOAD_BLOCKS], room: Room::new() }
    }

    /// Reads all wanted pages, in any order.
    ///
    /// # Errors
    /// [`Error::Unsteady`] if a page has changed since the dump was opened.
    pub(crate) fn read(
        &mut self,
        dump: &Dump<'_>,
        wants: &mut [Want],
        into: &mut [Block],
    ) -> Result<(), Error> {
        wants.sort_unstable_by_key(|want| want.place);
        let mut rest = &*wants;
        while let Some(first) = rest.first() {
            let nowhere = Error::Unsteady { block: dump.found().first };
            let Some((chunk, end)) = dump.index.chunk_of(first.place) else { return Err(nowhere) };
            let Some(part) = dump.parts.get(chunk.part as usize) else { return Err(nowhere) };
            let (here, behind) = rest.split_at(rest.partition_point(|want| want.place < end));
            let unsteady = || Error::Unsteady { block: chunk.block };
            self.chunk(part, &dump.decryption, chunk, here, into).ok_or_else(unsteady)?;
            rest = behind;
        }
        Ok(())
    }

    /// Reads the wanted pages of one chunk; `None` if it has changed.
    fn chunk(
        &mut self,
        part: &Part<'_>,
        decryption: &Decryption,
        place: ChunkPlace,
        wants: &[Want],
        into: &mut [Block],
    ) -> Option<()> {
        let header = header(part, place).ok()?;
        let plain = header.encoding() == Encoding::Plain && !header.is_encrypted();
        if plain && matches!(decryption, Decryption::NotNeeded) {
            return self.plain(part, &header, place, wants, into);
        }
        let payload = self.window.get_mut(..header.sums().len())?;
        let there = part.found.end.saturating_sub(place.block + 1).min(payload.len() as u64) as usize;
        let unreadable = read_around(part.source, place.block + 1, payload.get_mut(..there)?);
        let mut chunk = Chunk::check(part, place.block, header, payload, &unreadable, decryption);
        let segments = chunk.segments();
        let mut wants = wants.iter().copied();
        let mut want = wants.next();
        for segment in segments {
            let (first, end) = (place.first + segment.first, place.first + segment.first + segment.pages);
            let begins = |want: &Want| want.place < end;
            if !want.as_ref().is_some_and(begins) {
                continue;
            }
            let pages = chunk.unpack(&segment, &mut self.room).ok()?;
            while let Some(open) = want.as_mut().filter(|want| begins(want)) {
                let from = open.place.checked_sub(first)? as usize;
                let count = open.count.min(pages.len().checked_sub(from)?);
                into.get_mut(open.at..open.at + count)?.copy_from_slice(pages.get(from..from + count)?);
                // The next segment may have the rest.
                *open =
                    Want { place: open.place + count as u64, count: open.count - count, at: open.at + count };
                if open.count > 0 {
                    break;
                }
                want = wants.next();
            }
        }
        want.is_none().then_some(())
    }

    /// Reads the wanted pages of an unencrypted chunk with one page per block.
    fn plain(
        &mut self,
        part: &Part<'_>,
        header: &ChunkHeader,
        place: ChunkPlace,
        wants: &[Want],
        into: &mut [Block],
    ) -> Option<()> {
        let number = |want: &Want| (want.place - place.first) as usize;
        let (first, last) = (wants.first()?, wants.last()?);
        let (from, to) = (number(first), number(last) + last.count);
        let together = wants.len() > FEW;
        if together {
            // The wanted blocks were readable; the gaps need not be.
            read_around(
                part.source,
                place.block + 1 + from as u64,
                self.window.get_mut(..to.checked_sub(from)?)?,
            );
        }
        for want in wants {
            let pages = into.get_mut(want.at..want.at + want.count)?;
            let block = place.block + 1 + number(want) as u64;
            if together {
                let here = number(want) - from;
                pages.copy_from_slice(self.window.get(here..here + want.count)?);
            } else if read_around(part.source, block, pages).first().is_some() {
                return None;
            }
            let sums = header.sums().get(number(want)..number(want) + want.count)?;
            let good = |((block, page), sum): ((u64, &Block), &dumpcore::format::integer::U64)| {
                header.block_sum(page, block) == sum.get()
            };
            if !(block..).zip(pages.iter()).zip(sums).all(good) {
                return None;
            }
        }
        Some(())
    }
}

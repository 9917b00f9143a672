//! A raw copy of a dump: encrypted or not, it can be read, and become a core, elsewhere and later.
//!
//! A raw copy is an image of the partition from its label to the dump's end, without compaction: every block
//! is at its own place, since checksums and pattern depend on that. Everything that reads partitions can read
//! it.

use std::iter::Peekable;
use std::ops::Range;

use dumpcore::format::chain::{back_at, front_at};
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};

use super::Sink;
use crate::Error;
use crate::dump::{Dump, Part};
use crate::partition::{Ending, Payload, chunk_at};
use crate::source::{BATCH, Progress, Reader};

/// Copies a part of a dump, and checks that the copy holds everything that `original` does, which is only
/// this part, opened without an identity: the checksums of the copied blocks must match those at the time of
/// opening. Returns the copy's length in bytes.
///
/// # Errors
/// [`Error::Unsteady`] if a block has changed, or if the copy cannot be written.
pub fn write(
    part: &Part<'_>,
    original: &Dump<'_>,
    out: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    let found = &part.found;
    let length = found.end * BLOCK_SIZE as u64;
    out.begin(0, Some(length)).map_err(Error::Core)?;
    let mut reader = Reader::new(part.source);
    let mut batch: Vec<Block> = Vec::with_capacity(BATCH);
    let mut damage: Vec<Range<u64>> = original
        .damage()
        .iter()
        .map(|blocks| blocks.block..blocks.block.saturating_add(blocks.count))
        .collect();
    damage.sort_unstable_by_key(|blocks| blocks.start);
    let headers: Box<dyn Iterator<Item = (u64, u32)>> = Box::new(original.chunk_headers());
    let headers = headers.peekable();
    let mut seen = Seen { part, headers, damage, chunks: 0, lost: 0, payload: Payload::default() };
    progress.begin("copying the dump", found.blocks());
    for number in [0].into_iter().chain(found.range()) {
        // Unreadable blocks stay holes.
        let read = reader.block(number).ok().copied();
        // A dump that does not start in block 1 is found only by the label.
        if number == 0 && found.first != 1 && !read.as_ref().is_some_and(|block| is_label(block, &part.uuid))
        {
            return Err(Error::Unsteady { block: 0 });
        }
        if number >= found.first {
            let is_good = read.as_ref().is_some_and(|block| seen.is_good(number, block));
            seen.lost += u64::from(!is_good && !seen.was_damaged(number));
        }
        batch.extend(read);
        // End of the blocks to write at once.
        let ends = read.is_none() || number == 0 || batch.len() == BATCH || number + 1 == found.end;
        if ends && !batch.is_empty() {
            let behind = number + u64::from(read.is_some());
            let first = behind - batch.len() as u64;
            out.write_at(first * BLOCK_SIZE as u64, batch.as_flattened()).map_err(Error::Core)?;
            batch.clear();
        }
        progress.advance(u64::from(number != 0));
    }
    // Even if the last block is a hole.
    out.set_len(length).map_err(Error::Core)?;
    progress.end();
    if !seen.holds(original) {
        return Err(Error::Unsteady { block: found.first });
    }
    Ok(length)
}

fn is_label(block: &Block, uuid: &Uuid) -> bool {
    Label::parse(block).is_ok_and(|label| label.uuid == *uuid)
}

/// The checksum results for the copied blocks.
struct Seen<'p> {
    part: &'p Part<'p>,
    /// The blocks of chunk headers when the dump was opened, and their checksums.
    headers: Peekable<Box<dyn Iterator<Item = (u64, u32)> + 'p>>,
    /// The damage at that time.
    damage: Vec<Range<u64>>,
    chunks: u64,
    /// Bad blocks that were not reported as damaged at that time.
    lost: u64,
    payload: Payload,
}

impl Seen<'_> {
    /// Whether a block is unchanged: a valid header, or payload with its checksum.
    fn is_good(&mut self, number: u64, block: &Block) -> bool {
        let nonce = self.part.found.header.nonce.get();
        if let Some(is_good) = self.payload.is_good(number, block) {
            return is_good;
        }
        if let Some(chunk) = chunk_at(block, nonce, number) {
            self.payload = Payload::of(chunk);
            self.chunks += 1;
            while self.headers.next_if(|(block, _)| *block < number).is_some() {}
            let before = self.headers.next_if(|(block, _)| *block == number);
            return before.is_none_or(|(_, crc)| block.ends_with(&crc.to_le_bytes()));
        }
        let uuid = &self.part.uuid;
        let header = front_at(block, uuid, number).or_else(|| back_at(block, uuid, number));
        header.is_some_and(|header| header.nonce.get() == nonce)
    }

    fn was_damaged(&self, number: u64) -> bool {
        let behind = self.damage.partition_point(|blocks| blocks.start <= number);
        behind.checked_sub(1).is_some_and(|at| self.damage[at].contains(&number))
    }

    /// Whether everything good in a dump was copied.
    fn holds(&self, original: &Dump<'_>) -> bool {
        // A known lost header is not reported as damage.
        let header = u64::from(matches!(self.part.found.ending, Ending::FrontLost | Ending::BackLost));
        self.chunks == original.chunks().0 && self.lost <= original.damage_untold().saturating_add(header)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use crate::partition::{self, Plan, Search};
    use dumpcore::format::Uuid;
    use dumpcore::format::checksum::block_sum;
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run, RunKind};
    use dumpcore::format::frame::{self, Kind};
    use dumpcore::format::header::{Header, Status};

    use super::*;
    use crate::source::Source;

    const UUID: Uuid = [7; 16];
    const PAGES: u64 = 5;
    /// Blocks of the disk, and the first block of the dump: far enough that there is room for another one
    /// before it.
    const BLOCKS: u64 = 3 * BATCH as u64;
    const FIRST: u64 = 2 * BATCH as u64 - 3;

    /// A disk that returns wrong bytes for one block, or an error.
    struct Flaky {
        disk: Vec<u8>,
        block: u64,
        /// The change to the block; `None` for an error.
        change: Option<u8>,
    }

    impl Source for Flaky {
        fn blocks(&self) -> u64 {
            self.disk.blocks()
        }

        fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
            self.disk.read(first, into)?;
            let Some(at) = self.block.checked_sub(first) else { return Ok(()) };
            let Some(block) = into.get_mut(at as usize) else { return Ok(()) };
            match self.change {
                None => return Err(io::ErrorKind::Other.into()),
                Some(change) => block[99] ^= change,
            }
            Ok(())
        }

        fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
            panic!("nothing is written on a dump's own medium")
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A disk with a dump of one chunk in the middle.
    fn disk() -> Vec<u8> {
        let mut disk = vec![0; BLOCKS as usize * BLOCK_SIZE];
        let plan = Plan { uuid: UUID, name: String::new(), created: 0, recipient: None, machine: None };
        partition::format(&mut disk, &plan, &mut ()).unwrap();
        let mut chunk = ChunkHeader::new();
        chunk.kind = (ChunkKind::Memory as u32).into();
        (chunk.nonce, chunk.block) = (5.into(), (FIRST + 1).into());
        chunk.payload_blocks = (PAGES as u32).into();
        chunk.payload_bytes = (PAGES * BLOCK_SIZE as u64).into();
        chunk.run_count = 1.into();
        chunk.runs[0] = Run {
            pfn: 1.into(),
            count: (PAGES as u32).into(),
            kind: (RunKind::Data as u16).into(),
            class: 0.into(),
        };
        let mut header = Header::new();
        header.status = (Status::Complete as u32).into();
        (header.uuid, header.nonce) = (UUID, 5.into());
        (header.arch, header.trigger) = (62.into(), 1.into());
        (header.window_blocks, header.chunks) = (1.into(), 1.into());
        header.first_block = FIRST.into();
        header.end_block = (FIRST + PAGES + 3).into();
        header.total_pages = PAGES.into();
        let mut block = [0; BLOCK_SIZE];
        for page in 0..PAGES {
            block.fill(page as u8 + 1);
            let number = FIRST + 2 + page;
            chunk.sums[page as usize] = block_sum(&block, number).into();
            disk.write(number, &[block]).unwrap();
        }
        block.copy_from_slice(zerocopy::IntoBytes::as_bytes(&chunk));
        frame::set_checksum(&mut block);
        disk.write(FIRST + 1, &[block]).unwrap();
        header.to_block(Kind::Front, &mut block);
        disk.write(FIRST, &[block]).unwrap();
        header.to_block(Kind::Back, &mut block);
        disk.write(FIRST + PAGES + 2, &[block]).unwrap();
        disk
    }

    /// Makes a raw copy of the dump of a disk; returns its contents.
    fn carried(source: &dyn Source, opened: &dyn Source) -> Result<Vec<u8>, Error> {
        let found = partition::scan_with(opened, Search::Whole, &mut ()).unwrap().dumps.remove(0);
        let part = Part { source, uuid: UUID, found };
        let original = Dump::open_with(opened, UUID, &part.found, None, &mut ());
        let mut bytes = Vec::new();
        let length = write(&part, &original, &mut bytes, &mut ())?;
        assert_eq!(bytes.len() as u64, length);
        Ok(bytes)
    }

    #[test]
    fn a_copy_holds_label_and_dump_at_their_places_and_nothing_else() {
        let disk = disk();
        let copy = carried(&disk, &disk).unwrap();
        let behind = FIRST as usize * BLOCK_SIZE;
        assert!(copy[..BLOCK_SIZE] == disk[..BLOCK_SIZE]);
        assert!(copy[BLOCK_SIZE..behind].iter().all(|byte| *byte == 0));
        assert!(copy[behind..] == disk[behind..copy.len()]);
    }

    #[test]
    fn a_disk_that_gives_other_bytes_while_it_is_copied_is_found_out() {
        let opened = disk();
        for block in FIRST..FIRST + PAGES + 3 {
            let flaky = Flaky { disk: disk(), block, change: Some(1) };
            let result = carried(&flaky, &opened);
            assert!(matches!(result, Err(Error::Unsteady { .. })), "block {block}");
        }
    }

    #[test]
    fn a_block_that_can_be_read_now_makes_up_for_no_other_that_cannot_be() {
        let block = FIRST + 3;
        let opened = Flaky { disk: disk(), block, change: Some(1) };
        let copy = carried(&disk(), &opened).unwrap();
        assert!(copy[block as usize * BLOCK_SIZE..][..BLOCK_SIZE] == [2; BLOCK_SIZE], "more than was known");
        for change in [Some(1), None] {
            let other = Flaky { disk: disk(), block: block + 1, change };
            assert!(matches!(carried(&other, &opened), Err(Error::Unsteady { .. })), "{change:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_hole_and_the_rest_is_carried_away() {
        for block in FIRST + 2..FIRST + 2 + PAGES {
            let flaky = Flaky { disk: disk(), block, change: None };
            let copy = carried(&flaky, &flaky).unwrap();
            let mut expected = disk()[..copy.len()].to_vec();
            expected[BLOCK_SIZE..FIRST as usize * BLOCK_SIZE].fill(0);
            expected[block as usize * BLOCK_SIZE..][..BLOCK_SIZE].fill(0);
            assert!(copy == expected, "block {block}");
        }
    }
}

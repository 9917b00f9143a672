//! Encrypted dumps without the key to them: carried away as they are, to be opened elsewhere.
//!
//! A sealed copy is an image of the partition from its label to the dump's end, with nothing in between: every block stands
//! at its own place, since checksums and pattern say where that is. Whatever reads partitions reads it too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use dumpcore::format::{BLOCK_SIZE, Block};
use savecore::Error;
use savecore::dump::{Dump, Pages, Part};
use savecore::partition::{self, Ending, Search};
use savecore::source::{BATCH, Progress, Reader, Source};

/// What the name of a sealed copy ends in.
pub(super) const EXTENSION: &str = "sealed";

/// A file seen as the partition of which it is a copy.
struct Image<'f> {
    file: &'f File,
    blocks: u64,
}

impl Source for Image<'_> {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.file.read_exact_at(into.as_flattened_mut(), first.saturating_mul(BLOCK_SIZE as u64))
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies a part of a dump into an empty file, and makes sure that the copy holds all that the `original`, which is this
/// part alone, does: it is found again, and its checksums say the same. Gives the file's length.
pub(super) fn carry_away(
    part: &Part<'_>,
    original: &Dump<'_>,
    file: &File,
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    copy(part, file, progress)?;
    let found = &part.found;
    let image = Image { file, blocks: found.end };
    // As whoever opens the copy will look for it.
    let scanned = partition::salvage(&image, Search::Quick, &mut ())?;
    let is_there = scanned.dumps.iter().any(|copied| {
        // Without headers, what is in front of a dump decides where it is said to begin.
        let agrees = found.ending == Ending::BothLost || copied.header.agrees_with(&found.header);
        agrees
            && copied.header.nonce == found.header.nonce
            && (copied.end, copied.ending) == (found.end, found.ending)
    });
    let copied = Dump::open_with(&image, part.uuid, found, None, progress);
    if !is_there || content(original) != content(&copied) {
        return Err(Error::Unsteady { block: found.first });
    }
    Ok(found.end * BLOCK_SIZE as u64)
}

/// What the checksums say of a dump: chunks, pages by fate, damaged blocks. That a block can be read badly or not at all
/// is the same here: a copy has nothing at its place.
fn content(dump: &Dump<'_>) -> (u64, Pages, u64) {
    let listed: u64 = dump.damage().iter().map(|damage| damage.count).sum();
    (dump.chunks().0, dump.pages(), listed.saturating_add(dump.damage_untold()))
}

fn copy(part: &Part<'_>, file: &File, progress: &mut dyn Progress) -> Result<(), Error> {
    let found = &part.found;
    let mut reader = Reader::new(part.source);
    let mut batch: Vec<Block> = Vec::with_capacity(BATCH);
    progress.begin("copying the dump", found.blocks());
    for number in [0].into_iter().chain(found.range()) {
        // What cannot be read stays a hole.
        let read = reader.block(number).ok().copied();
        batch.extend(read);
        // Where the row of blocks ends that are written together.
        let ends = read.is_none() || number == 0 || batch.len() == BATCH || number + 1 == found.end;
        if ends && !batch.is_empty() {
            let behind = number + u64::from(read.is_some());
            let first = behind - batch.len() as u64;
            file.write_all_at(batch.as_flattened(), first * BLOCK_SIZE as u64).map_err(Error::Core)?;
            batch.clear();
        }
        progress.advance(u64::from(number != 0));
    }
    // Also if the last block is a hole.
    file.set_len(found.end * BLOCK_SIZE as u64).map_err(Error::Core)?;
    progress.end();
    Ok(())
}

#[cfg(test)]
mod tests {
    use dumpcore::format::Uuid;
    use dumpcore::format::checksum::block_sum;
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run, RunKind};
    use dumpcore::format::frame::{self, Kind};
    use dumpcore::format::header::{Header, Status};
    use savecore::partition::Plan;

    use super::*;

    const UUID: Uuid = [7; 16];
    const PAGES: u64 = 5;
    /// Blocks of the disk, and the first of the dump: so far behind that there is room for another.
    const BLOCKS: u64 = 3 * BATCH as u64;
    const FIRST: u64 = 2 * BATCH as u64 - 3;

    /// A disk that gives other bytes for one block than were written, or an error.
    struct Flaky {
        disk: Vec<u8>,
        block: u64,
        /// What is changed in the block; `None` for an error.
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
        let plan = Plan { uuid: UUID, name: String::new(), created: 0, recipient: None };
        partition::format(&mut disk, &plan, &mut ()).unwrap();
        let mut chunk = ChunkHeader::new();
        chunk.kind = (ChunkKind::Memory as u32).into();
        (chunk.nonce, chunk.block) = (5.into(), (FIRST + 1).into());
        chunk.payload_blocks = (PAGES as u32).into();
        chunk.payload_bytes = (PAGES * BLOCK_SIZE as u64).into();
        chunk.run_count = 1.into();
        chunk.runs[0] =
            Run { pfn: 1.into(), count: (PAGES as u32).into(), kind: (RunKind::Data as u32).into() };
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
        frame::seal(&mut block);
        disk.write(FIRST + 1, &[block]).unwrap();
        header.to_block(Kind::Front, &mut block);
        disk.write(FIRST, &[block]).unwrap();
        header.to_block(Kind::Back, &mut block);
        disk.write(FIRST + PAGES + 2, &[block]).unwrap();
        disk
    }

    /// Carries the dump of a disk away; what the file then holds.
    fn carried(source: &dyn Source, opened: &dyn Source) -> Result<Vec<u8>, Error> {
        let found = partition::scan_with(opened, Search::Whole, &mut ()).unwrap().dumps.remove(0);
        let part = Part { source, uuid: UUID, found };
        let original = Dump::open_with(opened, UUID, &part.found, None, &mut ());
        let file = tempfile::tempfile().unwrap();
        let length = carry_away(&part, &original, &file, &mut ())?;
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
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

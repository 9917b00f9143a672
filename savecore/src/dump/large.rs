//! Dumps of very large machines, whose index is large: generated while being read.

use std::io;

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run, RunKind};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Arch, Header, Status, Trigger};
use dumpcore::format::note::NoteKind;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};

use super::index::Limits;
use super::{Dump, Fate, PageState, Part};
use crate::Error;
use crate::corefile::{Compression, CoreOptions, elf, kdump, raw};
use crate::partition::{Ending, Found};
use crate::source::Source;

const UUID: Uuid = [9; 16];
const NONCE: u64 = 21;

/// Bytes of the only note.
const NOTE: u64 = 16;

/// Distance between the first page frames of consecutive chunks.
const APART: u64 = 400;

/// A partition with a dump of this many chunks with pages. Each has, in alternation, a page with data and a
/// zero page.
struct Large {
    chunks: u64,
    /// Runs per chunk.
    runs: u64,
}

impl Large {
    fn end(&self) -> u64 {
        5 + 2 * self.chunks
    }

    fn pages(&self) -> u64 {
        self.chunks * self.runs
    }

    fn header(&self) -> Header {
        let mut header = Header::new();
        header.status = (Status::Complete as u32).into();
        (header.uuid, header.nonce) = (UUID, NONCE.into());
        (header.arch, header.trigger) = ((Arch::X86_64 as u32).into(), (Trigger::Panic as u32).into());
        (header.window_blocks, header.chunks) = (1.into(), (1 + self.chunks).into());
        (header.first_block, header.end_block) = (1.into(), self.end().into());
        header.total_pages = self.pages().into();
        header
    }

    fn page(chunk: u64) -> Block {
        let mut block = [0; BLOCK_SIZE];
        block[..8].copy_from_slice(&(chunk + 1).to_le_bytes());
        block
    }

    /// The payload of the chunk with this index: notes first, then pages.
    fn payload(index: u64) -> Block {
        let Some(chunk) = index.checked_sub(1) else {
            let mut block = [0; BLOCK_SIZE];
            let words = [NoteKind::Machine as u32, 4, Arch::X86_64 as u32];
            block[..12].copy_from_slice(&words.map(u32::to_le_bytes).concat());
            return block;
        };
        Large::page(chunk)
    }

    fn make(&self, number: u64, block: &mut Block) {
        let header = |kind: Kind, block: &mut Block| self.header().to_block(kind, block);
        match number {
            1 => header(Kind::Front, block),
            _ if number + 1 == self.end() => header(Kind::Back, block),
            _ if number % 2 == 1 => *block = Large::payload((number - 3) / 2),
            _ => {
                let index = (number - 2) / 2;
                block.fill(0);
                let Some(header) = ChunkHeader::of_mut(block) else { return };
                header.clear();
                (header.nonce, header.index, header.block) = (NONCE.into(), index.into(), number.into());
                header.payload_blocks = 1.into();
                header.sums[0] = block_sum(&Large::payload(index), number + 1).into();
                let Some(chunk) = index.checked_sub(1) else {
                    header.kind = (ChunkKind::Notes as u32).into();
                    header.payload_bytes = NOTE.into();
                    return frame::set_checksum(block);
                };
                header.kind = (ChunkKind::Memory as u32).into();
                header.payload_bytes = (BLOCK_SIZE as u64).into();
                header.run_count = (self.runs as u32).into();
                for (place, run) in (0..self.runs).zip(&mut header.runs) {
                    let kind = if place == 0 { RunKind::Data } else { RunKind::Zero };
                    let pfn = chunk * APART + 2 * place;
                    *run =
                        Run { pfn: pfn.into(), count: 1.into(), kind: (kind as u16).into(), class: 0.into() };
                }
                frame::set_checksum(block);
            }
        }
    }

    fn part(&self) -> Part<'_> {
        let (first, end) = (1, self.end());
        let found = Found { header: Box::new(self.header()), first, end, ending: Ending::Closed };
        Part { source: self, uuid: UUID, found }
    }

    fn open(&self, limits: Limits) -> Dump<'_> {
        Dump::open_within(limits, vec![self.part()], None, &mut ())
    }
}

impl Source for Large {
    fn blocks(&self) -> u64 {
        self.end()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        for (number, block) in (first..).zip(into) {
            if number > 0 {
                self.make(number, block);
            }
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[Block]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks that a dump is complete, including its last chunk.
fn assert_whole(large: &Large, dump: &Dump<'_>) {
    let pages = dump.pages();
    assert_eq!((pages.data, pages.data + pages.zero, pages.missing()), (large.chunks, large.pages(), 0));
    assert!(dump.is_whole() && !dump.is_damaged());
    let last = large.chunks - 1;
    assert_eq!(dump.read_page(last * APART).unwrap(), PageState::Data(Box::new(Large::page(last))));
    assert_eq!(dump.index().runs().filter(|run| run.fate == Fate::Zero).count() as u64, pages.zero);
}

#[test]
fn what_there_is_no_memory_for_is_no_damage_and_is_saved_as_it_is_but_not_as_a_core() {
    let large = Large { chunks: 40, runs: 7 };
    assert_whole(&large, &large.open(Limits { runs: 40 * 7, chunks: 40 }));
    let cores = |dump: &Dump<'_>| {
        let options = CoreOptions::default();
        let elf = elf::write(dump, &options, &mut Vec::new(), &mut ()).map(|_| ());
        let kdump = kdump::write(dump, Compression::Zlib, &options, &mut Vec::new(), &mut ()).map(|_| ());
        [elf, kdump]
    };
    assert!(cores(&large.open(Limits { runs: 40 * 7, chunks: 40 })).iter().all(Result::is_ok));
    for (limits, dropped) in [
        (Limits { runs: 40 * 7 - 1, chunks: 40 }, 1),
        (Limits { runs: 100, chunks: 40 }, 180),
        (Limits { runs: 40 * 7, chunks: 39 }, 1),
        (Limits { runs: 40 * 7, chunks: 10 }, 30),
    ] {
        let dump = large.open(limits);
        let pages = dump.pages();
        assert_eq!((pages.untold, pages.missing(), pages.absent), (dropped, dropped, 0), "{limits:?}");
        assert!(!dump.is_whole() && !dump.is_damaged() && dump.damage().is_empty());
        for core in cores(&dump) {
            assert!(matches!(core, Err(Error::NoMemory { pages }) if pages == dropped), "{limits:?}");
        }
        let mut copy = Vec::new();
        raw::write(&large.part(), &dump, &mut copy, &mut ()).unwrap();
        let mut block = [[0; BLOCK_SIZE]];
        for (number, copied) in (0..large.end()).zip(copy.as_chunks::<BLOCK_SIZE>().0) {
            large.read(number, &mut block).unwrap();
            assert!(number == 0 || *copied == block[0], "block {number}");
        }
        let words = crate::dump::Report::new(&dump).missing_by_reason();
        assert_eq!(words, [(dropped, "for which this machine has too little memory")]);
    }
}

/// savecore's former fixed limits, with which it lost pages of complete dumps: 8 Mi chunks and 32 Mi runs.
#[test]
#[ignore = "takes minutes and 2 GiB"]
fn a_dump_of_more_chunks_and_runs_than_are_kept_anyway_is_read_whole() {
    for large in [Large { chunks: (8 << 20) + 1000, runs: 1 }, Large { chunks: 184_000, runs: 183 }] {
        assert_whole(&large, &large.open(Limits::here()));
    }
}

//! Saving takes the same memory whatever the size of the dump. This is a program of its own, because it
//! checks its peak.

use std::io;
use std::time::Instant;

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run, RunKind};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Header, Status};
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};
use savecore::corefile::{Compression, CoreOptions, Sink, elf, kdump};
use savecore::dump::Dump;
use savecore::partition::{Ending, Found};
use savecore::source::Source;
use zerocopy::IntoBytes;

const UUID: Uuid = [3; 16];
const NONCE: u64 = 77;

/// Pages of the machine: 64 GiB.
const PAGES: u64 = 16 << 20;
/// Pages that a chunk describes, in groups: one with bytes, then zeros, and the rest left out as free. That
/// makes three runs for every 32 pages.
const CHUNK_PAGES: u64 = 1024;
const GROUP: u64 = 32;
const ZEROS: u64 = 15;
const DATA: u64 = CHUNK_PAGES / GROUP;
const CHUNKS: u64 = PAGES / CHUNK_PAGES;
const END: u64 = 2 + CHUNKS * (1 + DATA) + 1;

/// Limit of the process's peak memory, in bytes.
const LIMIT: u64 = 256 << 20;

/// A partition with a dump of 64 GiB of memory, 2 GiB of which must be read; each block is made on demand.
struct Made;

/// Data page `number` of a chunk.
fn page(chunk: u64, number: u64) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let word = (chunk * DATA + number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    block[..8].copy_from_slice(&word.to_le_bytes());
    block[4000..4008].copy_from_slice(&word.to_le_bytes());
    block
}

fn chunk_header(chunk: u64, at: u64) -> Block {
    let mut header = ChunkHeader::new();
    header.kind = (ChunkKind::Memory as u32).into();
    header.nonce = NONCE.into();
    header.index = chunk.into();
    header.block = at.into();
    header.payload_blocks = (DATA as u32).into();
    header.payload_bytes = (DATA * BLOCK_SIZE as u64).into();
    header.run_count = (3 * DATA as u32).into();
    for (number, runs) in (0..DATA).zip(header.runs.as_chunks_mut::<3>().0) {
        let pfn = chunk * CHUNK_PAGES + number * GROUP;
        let parts = [
            (pfn, 1, RunKind::Data),
            (pfn + 1, ZEROS, RunKind::Zero),
            (pfn + 1 + ZEROS, GROUP - 1 - ZEROS, RunKind::Free),
        ];
        for (run, (pfn, count, kind)) in runs.iter_mut().zip(parts) {
            let (count, kind) = ((count as u32).into(), (kind as u16).into());
            *run = Run { pfn: pfn.into(), count, kind, class: 0.into() };
        }
        header.sums[number as usize] = block_sum(&page(chunk, number), at + 1 + number).into();
    }
    let mut block = [0; BLOCK_SIZE];
    block.copy_from_slice(header.as_bytes());
    frame::set_checksum(&mut block);
    block
}

fn header() -> Header {
    let mut header = Header::new();
    header.status = (Status::Complete as u32).into();
    (header.uuid, header.nonce) = (UUID, NONCE.into());
    (header.arch, header.trigger) = (62.into(), 1.into());
    (header.window_blocks, header.chunks) = (1.into(), CHUNKS.into());
    header.first_block = 1.into();
    header.end_block = END.into();
    header.total_pages = PAGES.into();
    header
}

impl Source for Made {
    fn blocks(&self) -> u64 {
        END
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        for (number, block) in (first..).zip(into) {
            if number + 1 == END {
                header().to_block(Kind::Back, block);
                continue;
            }
            let place = number.checked_sub(2);
            *block = match place.map(|place| (place / (1 + DATA), place % (1 + DATA))) {
                None => [0; BLOCK_SIZE],
                Some((chunk, 0)) => chunk_header(chunk, number),
                Some((chunk, inside)) => page(chunk, inside - 1),
            };
        }
        Ok(())
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that only counts.
#[derive(Default)]
struct Counted {
    written: u64,
    length: u64,
}

impl Sink for Counted {
    fn begin(&mut self, _head: u64, _length: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&mut self, _offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.length = length;
        Ok(())
    }
}

/// The process's peak memory in bytes (proc_pid_status(5), VmHWM).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg_attr(sanitized, ignore = "measures memory")]
fn a_dump_of_64_gib_of_memory_is_saved_in_256_mib() {
    let begin = Instant::now();
    let found = Found { header: Box::new(header()), first: 1, end: END, ending: Ending::Closed };
    let dump = Dump::open_with(&Made, UUID, &found, None, &mut ());
    let pages = dump.pages();
    assert_eq!((pages.total, pages.data, pages.zero), (PAGES, PAGES / GROUP, PAGES / GROUP * ZEROS));
    assert_eq!((pages.missing(), dump.damage()), (0, &[][..]));
    println!("opened: {:?}, peak {} MiB", begin.elapsed(), peak() >> 20);

    // As on a machine with many processors.
    let options = CoreOptions { level: None, threads: 16 };
    let mut core = Counted::default();
    elf::write(&dump, &options, &mut core, &mut ()).unwrap();
    assert!(core.length > 32 << 30, "{}", core.length);
    assert!(core.written > pages.data * BLOCK_SIZE as u64);
    println!("ELF: {:?}, peak {} MiB", begin.elapsed(), peak() >> 20);

    let mut core = Counted::default();
    kdump::write(&dump, Compression::Zlib, &options, &mut core, &mut ()).unwrap();
    println!("kdump: {:?}, peak {} MiB", begin.elapsed(), peak() >> 20);
    assert!(peak() <= LIMIT, "{} MiB", peak() >> 20);
}

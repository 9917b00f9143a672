//! A partition with a dump, built from the format's definition: a machine with typical kernel memory.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, MAX_PAYLOAD_BLOCKS, MAX_RUNS, Run, RunKind};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Arch, Header, Status, Trigger, put_text};
use dumpcore::format::label::Label;
use dumpcore::format::note::{CpuCondition, CpuState, MemoryRange, NoteKind, RangeKind};
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of the machine's memory.
pub(super) const MEMORY: u64 = 512 << 20;
/// Consecutive pages of the same sort.
const GROUP: u64 = 16;
/// Blocks of pattern after the dump.
const REST: u64 = 1024;

const UUID: Uuid = *b"savecore's bench";
const NONCE: u64 = 0x5eed;

/// Contents of a group of pages, in percent: zeros, text, structures, and noise.
const ZEROS: u64 = 30;
const TEXT: u64 = 40;
const STRUCTURES: u64 = 15;

const WORDS: [&str; 16] = [
    "the", "device", "is", "not", "ready", "error", "eth0:", "link", "becomes", "usr", "lib", "systemd",
    "0x0000", "warning", "of", "session",
];

/// A generator of numbers (Marsaglia, Xorshift RNGs, 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Fills a page of a group; `false` for zeros.
fn fill(page: &mut Block, sort: u64, numbers: &mut Numbers) -> bool {
    if sort < ZEROS {
        return false;
    }
    if sort < ZEROS + TEXT {
        let mut at = 0;
        while at < page.len() {
            let word = WORDS.get(numbers.next() as usize % WORDS.len()).unwrap_or(&"");
            for byte in word.bytes().chain([b' ']) {
                if let Some(slot) = page.get_mut(at) {
                    *slot = byte;
                }
                at += 1;
            }
        }
    } else if sort < ZEROS + TEXT + STRUCTURES {
        // Pointers near one another, small numbers, zeros.
        let base = 0xffff_8880_0000_0000 | (numbers.next() & 0xfff_f000);
        for slot in page.as_chunks_mut::<8>().0 {
            let number = numbers.next();
            let word = match number % 4 {
                0 => base | (number >> 32 & 0xff8),
                1 => number >> 60,
                _ => 0,
            };
            *slot = word.to_le_bytes();
        }
    } else {
        for slot in page.as_chunks_mut::<8>().0 {
            *slot = numbers.next().to_le_bytes();
        }
    }
    true
}

struct Writer {
    file: BufWriter<File>,
    at: u64,
    runs: Vec<Run>,
    payload: Vec<Block>,
    chunks: u64,
}

impl Writer {
    fn block(&mut self, block: &Block) -> Result<()> {
        self.at += 1;
        self.file.write_all(block).context("cannot write the dump")
    }

    /// Writes the current chunk.
    fn chunk(&mut self, kind: ChunkKind, bytes: usize) -> Result<()> {
        let mut header = ChunkHeader::new();
        header.kind = (kind as u32).into();
        header.nonce = NONCE.into();
        header.index = self.chunks.into();
        header.block = self.at.into();
        header.pass = u32::from(kind == ChunkKind::Memory).into();
        header.payload_blocks = (self.payload.len() as u32).into();
        header.payload_bytes = (bytes as u64).into();
        header.run_count = (self.runs.len() as u32).into();
        for (slot, run) in header.runs.iter_mut().zip(self.runs.drain(..)) {
            *slot = run;
        }
        for (number, (slot, block)) in (self.at + 1..).zip(header.sums.iter_mut().zip(&self.payload)) {
            *slot = block_sum(block, number).into();
        }
        let mut block = [0; BLOCK_SIZE];
        block.copy_from_slice(header.as_bytes());
        frame::set_checksum(&mut block);
        self.block(&block)?;
        for block in std::mem::take(&mut self.payload) {
            self.block(&block)?;
        }
        self.chunks += 1;
        Ok(())
    }

    /// Adds a page.
    fn page(&mut self, pfn: u64, kind: RunKind, page: &Block) -> Result<()> {
        let joins = |run: &Run| run.kind() == kind && run.pfn.get() + u64::from(run.count.get()) == pfn;
        if self.payload.len() == MAX_PAYLOAD_BLOCKS || self.runs.len() == MAX_RUNS {
            self.chunk(ChunkKind::Memory, self.payload.len() * BLOCK_SIZE)?;
        }
        match self.runs.last_mut().filter(|run| joins(run)) {
            Some(run) => run.count = (run.count.get() + 1).into(),
            None => {
                let kind = (kind as u16).into();
                self.runs.push(Run { pfn: pfn.into(), count: 1.into(), kind, class: 0.into() });
            }
        }
        if kind == RunKind::Data {
            self.payload.push(*page);
        }
        Ok(())
    }
}

fn note(notes: &mut Vec<u8>, kind: NoteKind, bytes: &[u8]) {
    notes.extend((kind as u32).to_le_bytes());
    notes.extend((bytes.len() as u32).to_le_bytes());
    notes.extend(bytes);
    notes.resize(notes.len().next_multiple_of(8), 0);
}

fn notes() -> Vec<u8> {
    let mut notes = Vec::new();
    let range = MemoryRange {
        start: 0.into(),
        end: MEMORY.into(),
        kind: (RangeKind::Ram as u32).into(),
        reserved: 0.into(),
    };
    note(&mut notes, NoteKind::MemoryRange, range.as_bytes());
    let mut cpu = CpuState::new_zeroed();
    cpu.condition = (CpuCondition::Crashing as u32).into();
    note(&mut notes, NoteKind::Cpu, cpu.as_bytes());
    notes
}

/// Creates an image of a partition with a complete dump; returns the bytes in its nonzero pages.
pub(super) fn write(path: &Path) -> Result<u64> {
    let shown = path.display();
    let file = File::create(path).with_context(|| format!("cannot create {shown}"))?;
    let file = BufWriter::with_capacity(1 << 20, file);
    let mut writer = Writer { file, at: 0, runs: Vec::new(), payload: Vec::new(), chunks: 0 };
    let mut block = [0; BLOCK_SIZE];
    // The label and the front header are written last, when everything is known.
    writer.block(&block)?;
    writer.block(&block)?;
    let notes = notes();
    for piece in notes.chunks(BLOCK_SIZE) {
        let mut block = [0; BLOCK_SIZE];
        block.iter_mut().zip(piece).for_each(|(slot, byte)| *slot = *byte);
        writer.payload.push(block);
    }
    writer.chunk(ChunkKind::Notes, notes.len())?;

    let mut numbers = Numbers(NONCE);
    let (pages, mut data, mut sort) = (MEMORY / BLOCK_SIZE as u64, 0, 0);
    for pfn in 0..pages {
        if pfn % GROUP == 0 {
            sort = numbers.next() % 100;
        }
        let kind = if fill(&mut block, sort, &mut numbers) { RunKind::Data } else { RunKind::Zero };
        data += u64::from(kind == RunKind::Data);
        writer.page(pfn, kind, &block)?;
    }
    writer.chunk(ChunkKind::Memory, writer.payload.len() * BLOCK_SIZE)?;

    let mut header = Header::new();
    header.status = (Status::Complete as u32).into();
    header.uuid = UUID;
    header.nonce = NONCE.into();
    header.sequence = 1.into();
    header.first_block = 1.into();
    header.end_block = (writer.at + 1).into();
    header.chunks = writer.chunks.into();
    header.data_pages = data.into();
    header.zero_pages = (pages - data).into();
    header.total_pages = pages.into();
    header.arch = (Arch::X86_64 as u32).into();
    header.cpus = 1.into();
    header.trigger = (Trigger::Panic as u32).into();
    header.window_blocks = 1.into();
    put_text(&mut header.system, "bench");
    put_text(&mut header.message, "a bench");
    header.to_block(Kind::Back, &mut block);
    writer.block(&block)?;
    let blocks = writer.at + REST;
    while writer.at < blocks {
        pattern::fill(&mut block, &UUID, writer.at);
        writer.block(&block)?;
    }
    writer.file.seek(SeekFrom::Start(0)).context("cannot write the dump")?;
    Label::new(UUID, blocks, 0, "bench").to_block(&mut block);
    writer.block(&block)?;
    header.to_block(Kind::Front, &mut block);
    writer.block(&block)?;
    let file = writer.file.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all()).with_context(|| format!("cannot write {shown}"))?;
    Ok(data * BLOCK_SIZE as u64)
}

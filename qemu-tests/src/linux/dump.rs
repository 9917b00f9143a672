//! Builds a dump of a crashed Linux on a partition from QEMU's data, as the kernel side would have written
//! it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use dumpcore::PageClass;
use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{
    ChunkHeader, ChunkKind, Encoding, MAX_CHUNK_PAGES, MAX_PAYLOAD_BLOCKS, MAX_RUNS, Packing, Run, RunKind,
    UnitHeader,
};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Arch, Header, Status, Trigger, put_text};
use dumpcore::format::label::Label;
use dumpcore::format::note::{CpuCondition, MemoryRange, NoteKind, RangeKind};
use dumpcore::format::{BLOCK_SIZE, Block, PAGE_BYTES, Uuid, pattern};
use dumpcore::memory::lz4::{self, Table};
use zerocopy::IntoBytes;

use super::crash::Crashed;
use super::levels;

const UUID: Uuid = *b"a Linux's dumps.";
const NONCE: u64 = 0x4c69_6e75_7820_6475;

/// Number of pages packed together, as on the kernel side.
const UNIT_PAGES: usize = 8;

/// Bytes of text in a note, well below the size of a chunk's payload.
const PIECE: usize = 4000;

/// Number of pattern blocks after the dump.
const REST: u64 = 64;

/// Writes a file that is a dump partition with a complete dump of `crashed`.
///
/// # Errors
/// If QEMU's core cannot be read, or the file cannot be written.
pub fn partition(crashed: &Crashed, path: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let classes = levels::classes(crashed)?;
    let mut core = BufReader::new(File::open(&crashed.core).context("cannot open QEMU's core")?);
    let mut writer = Writer::new(File::create(path).with_context(cannot)?).with_context(cannot)?;
    for notes in notes(crashed) {
        writer.notes(&notes).with_context(cannot)?;
    }
    let mut page = [0; BLOCK_SIZE];
    for segment in &crashed.ram {
        core.seek(SeekFrom::Start(segment.offset)).context("cannot read QEMU's core")?;
        for pfn in segment.physical / PAGE_BYTES..segment.range().end / PAGE_BYTES {
            core.read_exact(&mut page).context("cannot read QEMU's core")?;
            let class = classes.get(&pfn).copied().unwrap_or(PageClass::Unknown);
            writer.page(pfn, class, &page).with_context(cannot)?;
        }
    }
    writer.finish(crashed).with_context(cannot)
}

/// The contents of the notes chunks.
fn notes(crashed: &Crashed) -> Vec<Vec<u8>> {
    let mut chunks = vec![Vec::new()];
    let mut note = |kind: NoteKind, parts: &[&[u8]]| {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if chunks.last().is_none_or(|chunk| chunk.len() + length + 16 > MAX_PAYLOAD_BLOCKS * BLOCK_SIZE) {
            chunks.push(Vec::new());
        }
        let Some(chunk) = chunks.last_mut() else { return };
        chunk.extend((kind as u32).to_le_bytes());
        chunk.extend((length as u32).to_le_bytes());
        chunk.extend(parts.concat());
        chunk.resize(chunk.len().next_multiple_of(8), 0);
    };
    for segment in &crashed.ram {
        let range = MemoryRange {
            start: segment.range().start.into(),
            end: segment.range().end.into(),
            kind: (RangeKind::Ram as u32).into(),
            reserved: 0.into(),
        };
        note(NoteKind::MemoryRange, &[range.as_bytes()]);
    }
    for cpu in &crashed.cpus {
        note(NoteKind::Cpu, &[cpu.as_bytes()]);
    }
    let texts = [
        (NoteKind::Message, message(crashed).as_bytes()),
        (NoteKind::Log, crashed.log.as_bytes()),
        (NoteKind::Vmcoreinfo, &crashed.vmcoreinfo),
    ];
    for (kind, text) in texts {
        for (number, piece) in (0..).zip(text.chunks(PIECE)) {
            note(kind, &[&(number * PIECE as u64).to_le_bytes(), piece]);
        }
    }
    note(NoteKind::System, &[system(crashed).as_bytes()]);
    note(NoteKind::Machine, &[&(Arch::X86_64 as u32).to_le_bytes()]);
    note(NoteKind::Lacks, &[&0_u32.to_le_bytes()]);
    chunks
}

fn system(crashed: &Crashed) -> String {
    format!("Linux {}", crashed.release)
}

/// The reason of the panic.
fn message(crashed: &Crashed) -> &str {
    let marker = "Kernel panic - not syncing: ";
    let said = crashed.log.lines().find_map(|line| line.split_once(marker));
    said.map_or("unknown", |(_, why)| why)
}

struct Writer {
    file: BufWriter<File>,
    /// The next block.
    at: u64,
    chunks: u64,
    data_pages: u64,
    zero_pages: u64,
    runs: Vec<Run>,
    /// Number of pages in the current chunk.
    pages: u64,
    payload: Vec<u8>,
    unit: Vec<Block>,
    table: Table,
}

impl Writer {
    fn new(file: File) -> Result<Writer> {
        let mut writer = Writer {
            file: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            chunks: 0,
            data_pages: 0,
            zero_pages: 0,
            runs: Vec::new(),
            pages: 0,
            payload: Vec::new(),
            unit: Vec::new(),
            table: Table::new(),
        };
        // Label and front header are written last.
        writer.block(&[0; BLOCK_SIZE])?;
        writer.block(&[0; BLOCK_SIZE])?;
        Ok(writer)
    }

    fn block(&mut self, block: &Block) -> Result<()> {
        self.file.write_all(block)?;
        self.at += 1;
        Ok(())
    }

    fn notes(&mut self, notes: &[u8]) -> Result<()> {
        self.payload.extend_from_slice(notes);
        self.chunk(ChunkKind::Notes)
    }

    fn page(&mut self, pfn: u64, class: PageClass, page: &Block) -> Result<()> {
        let kind = if page.iter().all(|byte| *byte == 0) { RunKind::Zero } else { RunKind::Data };
        let joins = self.runs.last().is_some_and(|run| {
            let next = run.pfn.get() + u64::from(run.count.get());
            run.kind() == kind && run.class.get() == class as u16 && next == pfn
        });
        let room = MAX_PAYLOAD_BLOCKS * BLOCK_SIZE - (UNIT_PAGES * BLOCK_SIZE + size_of::<UnitHeader>());
        let full = (self.runs.len() == MAX_RUNS && !joins)
            || self.pages == MAX_CHUNK_PAGES
            || (kind == RunKind::Data && self.payload.len() > room);
        if full {
            self.pack();
            self.chunk(ChunkKind::Memory)?;
        }
        match self.runs.last_mut().filter(|_| joins && !full) {
            Some(run) => run.count = (run.count.get() + 1).into(),
            None => self.runs.push(Run {
                pfn: pfn.into(),
                count: 1.into(),
                kind: (kind as u16).into(),
                class: (class as u16).into(),
            }),
        }
        if kind == RunKind::Zero {
            self.zero_pages += 1;
            return Ok(());
        }
        self.data_pages += 1;
        self.pages += 1;
        self.unit.push(*page);
        if self.unit.len() == UNIT_PAGES {
            self.pack();
        }
        Ok(())
    }

    /// Appends the current unit to the payload.
    fn pack(&mut self) {
        if self.unit.is_empty() {
            return;
        }
        let bytes = self.unit.as_flattened();
        // A unit that does not shrink is stored uncompressed; random bytes may come out exactly as long as
        // they were.
        let mut packed = vec![0; bytes.len() - 1];
        let length = lz4::compress(bytes, &mut packed, &mut self.table);
        let packed = length.and_then(|length| packed.get(..length));
        let packing = if packed.is_some() { Packing::Lz4 } else { Packing::Stored };
        let stored = packed.unwrap_or(bytes);
        let header = UnitHeader {
            stored: (stored.len() as u32).into(),
            pages: (self.unit.len() as u16).into(),
            packing: (packing as u16).into(),
        };
        self.payload.extend(header.as_bytes());
        self.payload.extend(stored);
        self.payload.resize(self.payload.len().next_multiple_of(8), 0);
        self.unit.clear();
    }

    /// Writes the current chunk.
    fn chunk(&mut self, kind: ChunkKind) -> Result<()> {
        let encoding = if kind == ChunkKind::Notes { Encoding::Plain } else { Encoding::Units };
        let used = self.payload.len();
        self.payload.resize(used.next_multiple_of(BLOCK_SIZE), 0);
        let payload = std::mem::take(&mut self.payload);
        let blocks = payload.as_chunks::<BLOCK_SIZE>().0;
        let mut header = ChunkHeader::new();
        header.kind = (kind as u32).into();
        header.encoding = (encoding as u32).into();
        header.nonce = NONCE.into();
        header.index = self.chunks.into();
        header.block = self.at.into();
        header.pass = u32::from(kind == ChunkKind::Memory).into();
        header.payload_blocks = (blocks.len() as u32).into();
        header.payload_bytes = (used as u64).into();
        header.run_count = (self.runs.len() as u32).into();
        for (slot, run) in header.runs.iter_mut().zip(self.runs.drain(..)) {
            *slot = run;
        }
        for (number, (slot, block)) in (self.at + 1..).zip(header.sums.iter_mut().zip(blocks)) {
            *slot = block_sum(block, number).into();
        }
        let mut bytes = [0; BLOCK_SIZE];
        bytes.copy_from_slice(header.as_bytes());
        frame::set_checksum(&mut bytes);
        self.block(&bytes)?;
        self.file.write_all(&payload)?;
        self.at += blocks.len() as u64;
        self.chunks += 1;
        self.pages = 0;
        Ok(())
    }

    /// Writes the rest, the headers, some pattern, and the label.
    fn finish(mut self, crashed: &Crashed) -> Result<()> {
        self.pack();
        if !self.runs.is_empty() {
            self.chunk(ChunkKind::Memory)?;
        }
        let crashing =
            |cpu: &&dumpcore::format::note::CpuState| cpu.condition.get() == CpuCondition::Crashing as u32;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut header = Header::new();
        header.status = (Status::Complete as u32).into();
        header.uuid = UUID;
        header.nonce = NONCE.into();
        header.sequence = 1.into();
        header.first_block = 1.into();
        header.end_block = (self.at + 1).into();
        header.chunks = self.chunks.into();
        header.data_pages = self.data_pages.into();
        header.zero_pages = self.zero_pages.into();
        header.total_pages = (self.data_pages + self.zero_pages).into();
        header.wall_clock = now.into();
        header.arch = (Arch::X86_64 as u32).into();
        header.cpus = (crashed.cpus.len() as u32).into();
        header.crashing_cpu = crashed.cpus.iter().find(crashing).map_or(0, |cpu| cpu.cpu.get()).into();
        header.trigger = (Trigger::Panic as u32).into();
        header.window_blocks = 1.into();
        header.level = 1.into();
        header.encoding = (Encoding::Units as u32).into();
        put_text(&mut header.system, &system(crashed));
        put_text(&mut header.message, message(crashed));
        let mut block = [0; BLOCK_SIZE];
        header.to_block(Kind::Back, &mut block);
        self.block(&block)?;
        let blocks = self.at + REST;
        while self.at < blocks {
            let at = self.at;
            pattern::fill(&mut block, &UUID, at);
            self.block(&block)?;
        }
        self.file.seek(SeekFrom::Start(0))?;
        Label::new(UUID, blocks, now, "linux").to_block(&mut block);
        self.file.write_all(&block)?;
        header.to_block(Kind::Front, &mut block);
        self.file.write_all(&block)?;
        self.file.flush()?;
        Ok(())
    }
}

//! A machine with memory and a writer of dumps, both made from the format's definition alone, to test
//! savecore against.
//!
//! One file: a machine, and a writer that must agree with it.

use std::collections::BTreeMap;

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{
    ChunkHeader, ChunkKind, Encoding, MAX_PAYLOAD_BLOCKS, MAX_RUNS, Packing, Run, RunKind, UnitHeader,
};
use dumpcore::format::class::PageClass;
use dumpcore::format::crypt::{Cipher, Key, SecretKey, public_key};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Arch, Header, Incomplete, Status, put_text};
use dumpcore::format::note::{CpuCondition, CpuState, MemoryRange, NoteKind, RangeKind};
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};
use savecore::Identity;
use savecore::dump::Dump;
use savecore::partition::{self, Found, Partition, Plan};
use savecore::source::Source;
use zerocopy::{FromZeros, IntoBytes};

pub(crate) const UUID: Uuid = *b"0123456789abcdef";

/// What a page of the machine is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Data(Box<Block>),
    Zero,
    Arena,
    Unreadable,
    Faulted,
    /// Left out, and why.
    LeftOut(RunKind),
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Page::Data(bytes) => write!(f, "Data({:02x?}…)", &bytes[..4]),
            page => write!(f, "{:?}", page.kind()),
        }
    }
}

impl Page {
    /// A page of recognisable bytes.
    pub(crate) fn of(seed: u64) -> Page {
        let mut block = Box::new([0; BLOCK_SIZE]);
        let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for slot in block.as_chunks_mut::<8>().0 {
            *slot = word.to_le_bytes();
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        Page::Data(block)
    }

    /// A page that can be compressed.
    pub(crate) fn dull(seed: u64) -> Page {
        let mut block = Box::new([0; BLOCK_SIZE]);
        for (number, slot) in block.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *slot = if number % 100 == 7 { seed } else { 0x2020_2020 }.to_le_bytes();
        }
        Page::Data(block)
    }

    pub(crate) fn kind(&self) -> RunKind {
        match self {
            Page::Data(_) => RunKind::Data,
            Page::Zero => RunKind::Zero,
            Page::Arena => RunKind::Arena,
            Page::Unreadable => RunKind::Unreadable,
            Page::Faulted => RunKind::Faulted,
            Page::LeftOut(reason) => *reason,
        }
    }
}

/// How a dump is encrypted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Encrypt {
    /// The secret key that opens it.
    pub(crate) secret: SecretKey,
    /// The secret half of the ephemeral key, which a kernel forgets.
    pub(crate) ephemeral: SecretKey,
    pub(crate) attempt: u32,
}

impl Encrypt {
    pub(crate) fn new() -> Encrypt {
        Encrypt { secret: [7; 32], ephemeral: [9; 32], attempt: 3 }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity(self.secret)
    }

    pub(crate) fn key(&self) -> Key {
        let recipient = public_key(&self.secret);
        Key::agree(&self.ephemeral, &recipient, &public_key(&self.ephemeral), &recipient).unwrap()
    }
}

/// Whether these are the tests of a published package, which lacks the rest of the repository.
pub(crate) fn is_packed() -> bool {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml.orig")).exists()
}

/// Classes that change often, for [`Machine::class_of`].
pub(crate) fn motley(pfn: u64) -> PageClass {
    PageClass::ALL[(pfn / 2) as usize % PageClass::ALL.len()]
}

/// A machine and how its dump is written.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    pub(crate) pages: BTreeMap<u64, Page>,
    /// What each page is used for.
    pub(crate) class_of: fn(u64) -> PageClass,
    pub(crate) cpus: Vec<CpuState>,
    /// Name and release of its kernel.
    pub(crate) system: String,
    pub(crate) message: String,
    pub(crate) log: String,
    pub(crate) vmcoreinfo: String,
    pub(crate) nonce: u64,
    pub(crate) sequence: u32,
    pub(crate) window: u32,
    pub(crate) wall_clock: u64,
    pub(crate) incomplete: Incomplete,
    /// Pages with data in a chunk, at most
    /// [`MAX_PAYLOAD_BLOCKS`](dumpcore::format::chunk::MAX_PAYLOAD_BLOCKS).
    pub(crate) chunk_pages: usize,
    /// Memory chunks are rotated by this many, since they may come in any order.
    pub(crate) rotate: usize,
    /// Passes over memory; each writes other pages.
    pub(crate) passes: u64,
    /// Pages in a unit; `None` for one page per block.
    pub(crate) unit_pages: Option<usize>,
    pub(crate) encrypt: Option<Encrypt>,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        Machine {
            arch: Arch::X86_64,
            pages: BTreeMap::new(),
            class_of: |_| PageClass::Unknown,
            cpus: (0..2).map(cpu).collect(),
            message: "attempt to kill the idle task\nin line two".to_owned(),
            log: "[0.000] hello\n[1.234] panic: attempt to kill the idle task\n".to_owned(),
            vmcoreinfo: String::new(),
            system: "testkernel 0.1".to_owned(),
            nonce: 0x1122_3344_5566_7788,
            sequence: 1,
            window: 8,
            wall_clock: 1_795_329_162,
            incomplete: Incomplete::No,
            chunk_pages: 5,
            rotate: 0,
            passes: 1,
            unit_pages: None,
            encrypt: None,
        }
    }

    /// The identity that opens the dump, if it is encrypted.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.encrypt.as_ref().map(Encrypt::identity)
    }

    /// Opens a dump of this machine.
    pub(crate) fn open<'s>(&self, disk: &'s dyn Source, partition: &Partition, found: &Found) -> Dump<'s> {
        Dump::open_with(disk, partition.uuid(), found, self.identity().as_ref(), &mut ())
    }

    /// A machine with some of everything.
    pub(crate) fn small() -> Machine {
        let mut machine = Machine::new();
        for pfn in 1..40 {
            machine.pages.insert(pfn, Page::of(pfn));
        }
        for pfn in (10..14).chain([20, 22]) {
            machine.pages.insert(pfn, Page::Zero);
        }
        machine.pages.insert(30, Page::Unreadable);
        machine.pages.insert(31, Page::Arena);
        for pfn in 0x10_0000..0x10_0010 {
            machine.pages.insert(pfn, Page::of(pfn));
        }
        machine
    }
}

/// A CPU that was stopped; number 0 crashed.
pub(crate) fn cpu(number: u32) -> CpuState {
    let mut state = CpuState::new_zeroed();
    state.cpu = number.into();
    let condition = if number == 0 { CpuCondition::Crashing } else { CpuCondition::Stopped };
    state.condition = (condition as u32).into();
    for (index, register) in state.general.iter_mut().take(27).enumerate() {
        *register = (0x1000 * u64::from(number + 1) + index as u64).into();
    }
    // cs, eflags, ss as in a kernel.
    (state.general[17], state.general[18], state.general[20]) = (0x08.into(), 0x46.into(), 0x10.into());
    state
}

/// A formatted partition in memory.
pub(crate) fn partition(blocks: u64) -> Vec<u8> {
    let mut disk = vec![0; blocks as usize * BLOCK_SIZE];
    let plan =
        Plan { uuid: UUID, name: "test".to_owned(), created: 1_795_000_000, recipient: None, machine: None };
    partition::format(&mut disk, &plan, &mut ()).unwrap();
    disk
}

pub(crate) fn block(disk: &[u8], number: u64) -> &Block {
    disk[number as usize * BLOCK_SIZE..][..BLOCK_SIZE].try_into().unwrap()
}

pub(crate) fn block_mut(disk: &mut [u8], number: u64) -> &mut Block {
    (&mut disk[number as usize * BLOCK_SIZE..][..BLOCK_SIZE]).try_into().unwrap()
}

/// Writes the pattern again, as if the block had never been written.
pub(crate) fn unwrite(disk: &mut [u8], number: u64) {
    pattern::fill(block_mut(disk, number), &UUID, number);
}

/// A dump as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// Blocks of the chunk headers.
    pub(crate) chunks: Vec<u64>,
    /// For each page with data: its chunk header's block, and the first block with its bytes.
    pub(crate) places: BTreeMap<u64, (u64, u64)>,
    /// For each page with data: all blocks that are needed to read it.
    pub(crate) needs: BTreeMap<u64, Vec<u64>>,
    pub(crate) encrypt: Option<Encrypt>,
}

fn note(notes: &mut Vec<u8>, kind: NoteKind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    notes.extend((kind as u32).to_le_bytes());
    notes.extend((length as u32).to_le_bytes());
    notes.extend(parts.concat());
    notes.resize(notes.len().next_multiple_of(8), 0);
}

/// Ranges of consecutive pages of the same kind.
fn ranges(machine: &Machine) -> Vec<(u64, u64, RangeKind)> {
    let mut ranges: Vec<(u64, u64, RangeKind)> = Vec::new();
    for (pfn, page) in &machine.pages {
        let kind = if *page == Page::Arena { RangeKind::Arena } else { RangeKind::Ram };
        match ranges.last_mut() {
            Some(last) if last.1 == *pfn && last.2 == kind => last.1 += 1,
            _ => ranges.push((*pfn, pfn + 1, kind)),
        }
    }
    ranges
}

fn notes_of(machine: &Machine) -> Vec<u8> {
    let mut notes = Vec::new();
    for (start, end, kind) in ranges(machine) {
        let range = MemoryRange {
            start: (start * 4096).into(),
            end: (end * 4096).into(),
            kind: (kind as u32).into(),
            reserved: 0.into(),
        };
        note(&mut notes, NoteKind::MemoryRange, &[range.as_bytes()]);
    }
    for cpu in &machine.cpus {
        note(&mut notes, NoteKind::Cpu, &[cpu.as_bytes()]);
    }
    let texts = [
        (NoteKind::Message, &machine.message),
        (NoteKind::Log, &machine.log),
        (NoteKind::Vmcoreinfo, &machine.vmcoreinfo),
    ];
    for (kind, text) in texts {
        for (index, piece) in text.as_bytes().chunks(37).enumerate() {
            note(&mut notes, kind, &[&(index as u64 * 37).to_le_bytes(), piece]);
        }
    }
    note(&mut notes, NoteKind::System, &[machine.system.as_bytes()]);
    note(&mut notes, NoteKind::BuildId, &[&[0xab; 20]]);
    note(&mut notes, NoteKind::Machine, &[&(machine.arch as u32).to_le_bytes()]);
    note(&mut notes, NoteKind::Lacks, &[&4_u32.to_le_bytes()]);
    notes
}

/// Splits notes into pieces that fit in a chunk, only between records.
fn chunks_of(mut notes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while !notes.is_empty() {
        let mut end = 0;
        while end < notes.len() {
            let length = u32::from_le_bytes(notes[end + 4..end + 8].try_into().unwrap());
            let next = end + 8 + (length as usize).next_multiple_of(8);
            if next > 64 * BLOCK_SIZE {
                break;
            }
            end = next;
        }
        let (chunk, rest) = notes.split_at(end);
        chunks.push(chunk);
        notes = rest;
    }
    chunks
}

/// Where a stripe is written.
pub(crate) struct Stripe<'d> {
    pub(crate) disk: &'d mut Vec<u8>,
    pub(crate) first: u64,
}

struct Writer<'w, 'd> {
    machine: &'w Machine,
    stripes: &'w mut [Stripe<'d>],
    at: Vec<u64>,
    written: Vec<Written>,
    chunks: u64,
}

impl Writer<'_, '_> {
    /// Writes a chunk to the stripe whose turn it is; returns the stripe and the block of the chunk's header.
    fn chunk(
        &mut self,
        kind: ChunkKind,
        encoding: Encoding,
        runs: &[Run],
        mut payload: Vec<Block>,
        bytes: usize,
    ) -> (usize, u64) {
        let stripe = self.chunks as usize % self.stripes.len();
        let at = self.at[stripe];
        let mut header = ChunkHeader::new();
        header.kind = (kind as u32).into();
        header.encoding = (encoding as u32).into();
        header.nonce = self.machine.nonce.into();
        header.index = self.chunks.into();
        header.block = at.into();
        header.pass = 1.into();
        header.payload_blocks = (payload.len() as u32).into();
        header.payload_bytes = (bytes as u64).into();
        header.run_count = (runs.len() as u32).into();
        header.runs[..runs.len()].copy_from_slice(runs);
        let disk = &mut *self.stripes[stripe].disk;
        if let Some(encrypt) = &self.machine.encrypt {
            header.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
            header.attempt = encrypt.attempt.into();
            header.ephemeral = public_key(&encrypt.ephemeral);
            let mut block = [0; BLOCK_SIZE];
            block.copy_from_slice(header.as_bytes());
            assert!(encrypt.key().encrypt_chunk(&mut block, payload.as_flattened_mut()));
            header = ChunkHeader::of(&block).unwrap().clone();
        }
        for (index, bytes) in payload.iter().enumerate() {
            let number = at + 1 + index as u64;
            header.sums[index] = block_sum(bytes, number).into();
            *block_mut(disk, number) = *bytes;
        }
        let slot = block_mut(disk, at);
        slot.copy_from_slice(header.as_bytes());
        frame::set_checksum(slot);
        self.written[stripe].chunks.push(at);
        self.chunks += 1;
        self.at[stripe] += 1 + payload.len() as u64;
        (stripe, at)
    }

    /// Writes pages into a chunk, and records where they are.
    fn memory(&mut self, runs: &[Run], pfns: &[u64]) {
        let pages: Vec<Block> = pfns
            .iter()
            .map(|pfn| match &self.machine.pages[pfn] {
                Page::Data(bytes) => **bytes,
                page => panic!("{page:?} has no bytes"),
            })
            .collect();
        // For each page: its bytes within the payload, and the offsets of the unit headers up to it.
        let mut places: Vec<(std::ops::Range<usize>, Vec<usize>)> = Vec::new();
        let (encoding, bytes) = match self.machine.unit_pages {
            None => {
                places.extend(
                    (0..pages.len()).map(|page| (page * BLOCK_SIZE..(page + 1) * BLOCK_SIZE, Vec::new())),
                );
                (Encoding::Plain, pages.as_flattened().to_vec())
            }
            Some(unit_pages) => {
                let mut bytes = Vec::new();
                let mut headers = Vec::new();
                for unit in pages.chunks(unit_pages) {
                    headers.push(bytes.len());
                    let place = put_unit(&mut bytes, unit);
                    places.extend(unit.iter().map(|_| (place.clone(), headers.clone())));
                }
                (Encoding::Units, bytes)
            }
        };
        let mut payload = vec![[0; BLOCK_SIZE]; bytes.len().div_ceil(BLOCK_SIZE)];
        assert!(payload.len() <= MAX_PAYLOAD_BLOCKS);
        payload.as_flattened_mut()[..bytes.len()].copy_from_slice(&bytes);
        let blocks = payload.len();
        let (stripe, at) = self.chunk(ChunkKind::Memory, encoding, runs, payload, bytes.len());
        let written = &mut self.written[stripe];
        let block_of = |byte: usize| at + 1 + (byte / BLOCK_SIZE) as u64;
        for (pfn, (bytes, headers)) in pfns.iter().zip(places) {
            written.places.insert(*pfn, (at, block_of(bytes.start)));
            let mut needs = vec![at];
            if self.machine.encrypt.is_some() {
                needs.extend((at + 1..).take(blocks));
            } else {
                needs.extend(headers.into_iter().map(block_of));
                needs.extend(block_of(bytes.start)..=block_of(bytes.end - 1));
            }
            written.needs.insert(*pfn, needs);
        }
    }
}

/// Appends a unit with these pages; returns where its bytes are.
pub(crate) fn put_unit(bytes: &mut Vec<u8>, pages: &[Block]) -> std::ops::Range<usize> {
    let raw = pages.as_flattened();
    let packed = lz4_flex::block::compress(raw);
    let (packing, stored) =
        if packed.len() < raw.len() { (Packing::Lz4, &packed[..]) } else { (Packing::Stored, raw) };
    put_packed(bytes, pages.len() as u16, packing, stored)
}

/// Appends a unit that claims to hold `pages` pages.
pub(crate) fn put_packed(
    bytes: &mut Vec<u8>,
    pages: u16,
    packing: Packing,
    stored: &[u8],
) -> std::ops::Range<usize> {
    let header = UnitHeader {
        stored: (stored.len() as u32).into(),
        pages: pages.into(),
        packing: (packing as u16).into(),
    };
    bytes.extend(header.as_bytes());
    let start = bytes.len();
    bytes.extend(stored);
    let place = start..bytes.len();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    place
}

/// The memory chunks' content in a pass: runs, and the pages with data.
fn memory_chunks(machine: &Machine, pass: u64) -> Vec<(Vec<Run>, Vec<u64>)> {
    let mut chunks = vec![(Vec::<Run>::new(), Vec::new())];
    let is_its = |pfn: u64| pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9) % machine.passes == pass;
    for (pfn, page) in machine.pages.iter().filter(|(pfn, _)| is_its(**pfn)) {
        let (runs, data) = chunks.last_mut().unwrap();
        let is_data = page.kind() == RunKind::Data;
        let class = (machine.class_of)(*pfn);
        let full = (is_data && data.len() == machine.chunk_pages) || runs.len() == MAX_RUNS;
        if full {
            chunks.push(Default::default());
        }
        let (runs, data) = chunks.last_mut().unwrap();
        if is_data {
            data.push(*pfn);
        }
        match runs.last_mut() {
            Some(last)
                if (last.kind(), last.class()) == (page.kind(), class)
                    && last.pfn.get() + u64::from(last.count.get()) == *pfn =>
            {
                last.count = (last.count.get() + 1).into();
            }
            _ => runs.push(Run {
                pfn: (*pfn).into(),
                count: 1.into(),
                kind: (page.kind() as u16).into(),
                class: (class as u16).into(),
            }),
        }
    }
    chunks.retain(|(runs, _)| !runs.is_empty());
    chunks
}

/// Writes a whole dump of `machine` from block `first` on.
pub(crate) fn write_dump(disk: &mut Vec<u8>, first: u64, machine: &Machine) -> Written {
    write_striped(&mut [Stripe { disk, first }], machine).remove(0)
}

/// Writes a whole dump of `machine`, striped over several partitions.
pub(crate) fn write_striped(stripes: &mut [Stripe<'_>], machine: &Machine) -> Vec<Written> {
    let at = stripes.iter().map(|stripe| stripe.first + 1).collect();
    let empty = |stripe: &Stripe<'_>| Written {
        first: stripe.first,
        end: 0,
        chunks: Vec::new(),
        places: BTreeMap::new(),
        needs: BTreeMap::new(),
        encrypt: machine.encrypt.clone(),
    };
    let written = stripes.iter().map(empty).collect();
    let mut writer = Writer { machine, stripes, at, written, chunks: 0 };
    let notes = notes_of(machine);
    for notes in chunks_of(&notes) {
        let mut payload = vec![[0; BLOCK_SIZE]; notes.len().div_ceil(BLOCK_SIZE)];
        payload.as_flattened_mut()[..notes.len()].copy_from_slice(notes);
        writer.chunk(ChunkKind::Notes, Encoding::Plain, &[], payload, notes.len());
    }

    let mut chunks: Vec<_> = (0..machine.passes).flat_map(|pass| memory_chunks(machine, pass)).collect();
    let turn = machine.rotate % chunks.len().max(1);
    chunks.rotate_left(turn);
    for (runs, pfns) in &chunks {
        writer.memory(runs, pfns);
    }
    let Writer { at, mut written, .. } = writer;
    for (number, (stripe, written)) in (0..).zip(stripes.iter_mut().zip(&mut written)) {
        written.end = at[number as usize] + 1;
        let mut header = header(machine, written.first, written.end, written.chunks.len() as u64);
        header.stripe = number.into();
        header.stripes = (at.len() as u32).into();
        close(stripe.disk, machine.encrypt.as_ref(), &header);
    }
    written
}

/// Writes both headers of a dump as they are when it is closed.
pub(crate) fn close(disk: &mut [u8], encrypt: Option<&Encrypt>, header: &Header) {
    let mut header = header.clone();
    if let Some(encrypt) = encrypt {
        let closed = header.status() != Status::InProgress;
        header.tag = encrypt.key().header_tag(&header, closed).unwrap();
    }
    if header.end_block.get() > 0 {
        header.to_block(Kind::Back, block_mut(disk, header.end_block.get() - 1));
    }
    header.to_block(Kind::Front, block_mut(disk, header.first_block.get()));
}

fn header(machine: &Machine, first: u64, end: u64, chunks: u64) -> Header {
    let count = |kind: RunKind| machine.pages.values().filter(|page| page.kind() == kind).count() as u64;
    let mut header = Header::new();
    let status = if machine.incomplete == Incomplete::No { Status::Complete } else { Status::Incomplete };
    header.status = (status as u32).into();
    header.uuid = UUID;
    header.nonce = machine.nonce.into();
    header.sequence = machine.sequence.into();
    header.incomplete = (machine.incomplete as u32).into();
    header.first_block = first.into();
    header.end_block = end.into();
    header.chunks = chunks.into();
    header.data_pages = count(RunKind::Data).into();
    header.zero_pages = count(RunKind::Zero).into();
    header.excluded_pages =
        RunKind::ALL.into_iter().filter(|kind| kind.is_left_out()).map(count).sum::<u64>().into();
    header.unreadable_pages = (count(RunKind::Unreadable) + count(RunKind::Faulted)).into();
    header.total_pages = (machine.pages.len() as u64).into();
    header.wall_clock = machine.wall_clock.into();
    header.uptime = 12_345_678_900.into();
    header.elapsed = 840_000_000.into();
    header.arch = (machine.arch as u32).into();
    header.cpus = (machine.cpus.len() as u32).into();
    header.crashing_cpu = 0.into();
    header.trigger = 1.into();
    header.window_blocks = machine.window.into();
    header.build_id_len = 20.into();
    header.build_id[..20].fill(0xab);
    put_text(&mut header.system, &machine.system);
    let encoding = if machine.unit_pages.is_some() { Encoding::Units } else { Encoding::Plain };
    header.encoding = (encoding as u32).into();
    match &machine.encrypt {
        None => put_text(&mut header.message, &machine.message),
        Some(encrypt) => {
            header.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
            header.attempt = encrypt.attempt.into();
            header.ephemeral = public_key(&encrypt.ephemeral);
        }
    }
    header
}

/// Turns a closed dump into what is left when the machine stops in the middle: the front header as it was at
/// the beginning, and those of the other blocks that `kept` selects.
pub(crate) fn stop_in_the_middle(disk: &mut [u8], written: &Written, kept: impl Fn(u64) -> bool) {
    let mut front = Header::parse(block(disk, written.first), Kind::Front).unwrap().clone();
    front.status = (Status::InProgress as u32).into();
    front.incomplete = 0.into();
    front.end_block = 0.into();
    front.chunks = 0.into();
    front.data_pages = 0.into();
    front.zero_pages = 0.into();
    front.excluded_pages = 0.into();
    front.unreadable_pages = 0.into();
    front.elapsed = 0.into();
    close(disk, written.encrypt.as_ref(), &front);
    for number in written.first + 1..written.end {
        if !kept(number) {
            unwrite(disk, number);
        }
    }
}

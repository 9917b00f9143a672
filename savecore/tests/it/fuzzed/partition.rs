//! Partitions with any content: whole dumps in which bytes were changed. Their checksums may match all the
//! same, because anyone who can write there can compute them. The partitions are read, turned into cores and
//! cleared.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::{BLOCK_SIZE, Block};
use object::LittleEndian as LE;
use object::elf::FileHeader64;
use object::read::elf::FileHeader;
use savecore::corefile::{Compression, CoreOptions, Selection, Sink, elf, kdump, raw};
use savecore::dump::{Dump, DumpRef, Part, Report, gather};
use savecore::partition::{self, Partition, Search};
use savecore::source::{Source, recognise};

use super::Input;
use crate::common::{
    Encrypt, Machine, Page, Stripe, block, block_mut, partition as formatted, stop_in_the_middle, unwrite,
    write_dump, write_striped,
};

const BLOCKS: u64 = 96;
/// Changes to a partition, at most.
const CHANGES: usize = 24;
/// Bytes that a file takes before its file system is full.
const ROOM: u64 = 64 << 20;

/// What to modify: the partitions of several machines.
fn bases() -> &'static [Vec<Vec<u8>>] {
    static BASES: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    BASES.get_or_init(|| {
        let one = |machine: &Machine| {
            let mut disk = formatted(BLOCKS);
            write_dump(&mut disk, 1, machine);
            vec![disk]
        };
        let small = Machine::small();
        let mut units = Machine { unit_pages: Some(4), chunk_pages: 16, ..Machine::small() };
        units.pages.extend((40..60).map(|pfn| (pfn, Page::dull(pfn))));
        let encrypted = Machine { encrypt: Some(Encrypt::new()), ..Machine::small() };
        let encrypted_units = Machine { encrypt: Some(Encrypt::new()), ..units.clone() };
        let mut paging = Machine::small();
        for (register, value) in [(0, 0x8000_0011), (2, 0x2000), (3, 0x20), (4, 0x500)] {
            paging.cpus[0].control[register] = value.into();
        }
        let mut unfinished = formatted(BLOCKS);
        let written = write_dump(&mut unfinished, 1, &small);
        stop_in_the_middle(&mut unfinished, &written, |number| number < 30);
        let mut striped = [formatted(BLOCKS), formatted(BLOCKS)];
        let mut stripes: Vec<_> = striped.iter_mut().map(|disk| Stripe { disk, first: 1 }).collect();
        write_striped(&mut stripes, &small);
        let mut two = formatted(BLOCKS);
        let few = |nonce| {
            let pages = (1..9).map(|pfn| (pfn, Page::of(pfn))).collect();
            Machine { nonce, sequence: nonce as u32, pages, ..Machine::new() }
        };
        let end = write_dump(&mut two, 1, &few(1)).end;
        write_dump(&mut two, end, &few(2));
        vec![
            one(&small),
            one(&units),
            one(&encrypted),
            one(&encrypted_units),
            one(&paging),
            vec![unfinished],
            striped.to_vec(),
            vec![two],
            vec![formatted(BLOCKS)],
        ]
    })
}

/// All of their disks.
pub(crate) fn waiting_disks() -> Vec<Vec<u8>> {
    bases().iter().flatten().cloned().collect()
}

/// A partition with bad sectors; only some of them are writable.
struct Disk {
    bytes: Vec<u8>,
    unreadable: BTreeSet<u64>,
    writable: Range<u64>,
}

impl Source for Disk {
    fn blocks(&self) -> u64 {
        self.bytes.blocks()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        let end = first.saturating_add(into.len() as u64);
        if self.unreadable.range(first..end).next().is_some() {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.read(first, into)
    }

    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()> {
        let end = first + from.len() as u64;
        assert!(self.writable.start <= first && end <= self.writable.end, "{first} to {end} is not the dump");
        self.bytes.write(first, from)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that checks that its writer keeps its promises, and stores only the head.
struct Checked {
    head: Vec<u8>,
    begun: bool,
    length: Option<u64>,
    next: u64,
    in_head: bool,
    end: u64,
    taken: u64,
}

impl Checked {
    fn new() -> Checked {
        Checked { head: Vec::new(), begun: false, length: None, next: 0, in_head: false, end: 0, taken: 0 }
    }
}

impl Sink for Checked {
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()> {
        assert!(!self.begun && length.is_none_or(|length| head <= length));
        self.begun = true;
        (self.length, self.next) = (length, head);
        if head > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.head = vec![0; head as usize];
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(self.begun);
        let end = offset.checked_add(bytes.len() as u64).unwrap();
        self.taken += bytes.len() as u64;
        if self.taken > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let head = self.head.len() as u64;
        if offset < head {
            assert!(end <= head, "over the head's end");
            if !self.in_head {
                (self.in_head, self.next) = (true, 0);
            }
            self.head[offset as usize..end as usize].copy_from_slice(bytes);
        } else {
            assert!(!self.in_head, "behind the head");
        }
        assert!(offset >= self.next, "{offset} behind {}", self.next);
        self.next = end;
        self.end = self.end.max(end);
        assert!(self.length.is_none_or(|length| end <= length));
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        assert!(length >= self.end && self.length.is_none_or(|known| length == known));
        self.length = Some(length);
        Ok(())
    }
}

/// All segments of an ELF core lie in it.
fn check_elf(core: &Checked) {
    let header = FileHeader64::<LE>::parse(&*core.head).expect("an ELF header");
    let segments = header.program_headers(LE, &*core.head).expect("program headers");
    let length = core.length.expect("a length");
    for segment in segments {
        let end = segment.p_offset.get(LE).checked_add(segment.p_filesz.get(LE)).expect("a file's offset");
        assert!(end <= length, "a segment ends at {end} of {length}");
    }
}

/// Changes one of the partitions.
fn change(disks: &mut [Disk], input: &mut Input<'_>) {
    let (what, which) = (input.byte(), input.byte());
    let count = disks.len();
    let disk = &mut disks[usize::from(which) % count];
    let blocks = disk.bytes.blocks();
    if blocks == 0 {
        return;
    }
    let number = input.below(blocks);
    // Half of the changes hit a header, aligned like its fields to four or eight bytes.
    let headers: Vec<u64> = (0..blocks).filter(|at| Kind::of(block(&disk.bytes, *at)).is_some()).collect();
    let patterns = |at: &u64| Kind::of(block(&disk.bytes, *at)) != Some(Kind::Pattern);
    let headers: Vec<u64> = headers.into_iter().filter(patterns).collect();
    let header = headers.get(number as usize % headers.len().max(1)).copied().unwrap_or(number);
    let at = input.below(BLOCK_SIZE as u64) as usize;
    match what % 12 {
        0..=2 => {
            let value = (input.tricky() as u32).to_le_bytes();
            block_mut(&mut disk.bytes, header)[at & 0xffc..][..4].copy_from_slice(&value);
        }
        3..=5 => {
            let value = input.tricky().to_le_bytes();
            block_mut(&mut disk.bytes, header)[at & 0xff8..][..8].copy_from_slice(&value);
        }
        6 => {
            let value = input.tricky().to_le_bytes();
            block_mut(&mut disk.bytes, number)[at & 0xff8..][..8].copy_from_slice(&value);
        }
        7 => block_mut(&mut disk.bytes, number)[at] = input.byte(),
        8 => {
            let from = *block(&disk.bytes, header);
            *block_mut(&mut disk.bytes, number) = from;
        }
        9 => {
            disk.unreadable.insert(number);
        }
        10 => unwrite(&mut disk.bytes, number),
        _ => block_mut(&mut disk.bytes, number).fill(input.byte()),
    }
}

/// Makes all checksums match the current contents.
pub(crate) fn make_fit(disk: &mut [u8]) {
    let blocks = (disk.len() / BLOCK_SIZE) as u64;
    for number in (0..blocks).rev() {
        match Kind::of(block(disk, number)) {
            Some(Kind::Chunk) => {
                let Some(header) = chunk(disk, number) else { continue };
                for index in 0..header.payload_blocks.get().min(128) {
                    let payload = number + 1 + u64::from(index);
                    if payload < blocks {
                        let sum = header.block_sum(block(disk, payload), payload).to_le_bytes();
                        block_mut(disk, number)[SUMS + 8 * index as usize..][..8].copy_from_slice(&sum);
                    }
                }
                frame::set_checksum(block_mut(disk, number));
            }
            Some(Kind::Pattern) | None => {}
            Some(_) => frame::set_checksum(block_mut(disk, number)),
        }
    }
}

/// Where a chunk header has the checksums of its payload (docs/src/reference/format.md).
const SUMS: usize = 3056;

fn chunk(disk: &[u8], number: u64) -> Option<ChunkHeader> {
    let mut whole = *block(disk, number);
    frame::set_checksum(&mut whole);
    ChunkHeader::of(&whole).cloned()
}

/// Reads everything that can be read from partitions, makes every kind of core, and clears the dumps. Nothing
/// panics, hangs or takes unbounded memory; only the dump that is being cleared is written; and the cores are
/// valid.
pub(crate) fn no_harm(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (base, flags) = (input.byte(), input.byte());
    let base = &bases()[usize::from(base) % bases().len()];
    let disk = |bytes: &Vec<u8>| Disk { bytes: bytes.clone(), unreadable: BTreeSet::new(), writable: 0..0 };
    let mut disks: Vec<Disk> = base.iter().map(disk).collect();
    let blocks = if flags & 1 == 0 { BLOCKS } else { input.below(BLOCKS + 40) };
    for disk in &mut disks {
        disk.bytes.resize(blocks as usize * BLOCK_SIZE, 0);
    }
    for _ in 0..CHANGES {
        if input.0.is_empty() {
            break;
        }
        change(&mut disks, &mut input);
    }
    if flags & 2 == 0 {
        disks.iter_mut().for_each(|disk| make_fit(&mut disk.bytes));
    }
    let identity = (flags & 4 == 0).then(|| Encrypt::new().identity());
    let search = if flags & 8 == 0 { Search::Quick } else { Search::Whole };
    let threads = if flags & 16 == 0 { 1 } else { 2 };
    let options = CoreOptions { threads, ..CoreOptions::default() };
    for disk in &disks {
        let _ = recognise(disk);
        let _ = partition::waiting(disk, None);
        let _ = partition::check_with(disk, identity.as_ref(), &mut ());
    }
    let partitions: Vec<Option<Partition>> =
        disks.iter().map(|disk| partition::salvage(disk, search, &mut ()).ok()).collect();
    let there: Vec<usize> = (0..disks.len()).filter(|index| partitions[*index].is_some()).collect();
    let partitions: Vec<Partition> = partitions.into_iter().flatten().collect();
    for dump in gather(&partitions) {
        let part = |DumpRef { target, dump }: &DumpRef| Part {
            source: &disks[there[*target]],
            uuid: partitions[*target].uuid(),
            found: partitions[*target].dumps[*dump].clone(),
        };
        let parts: Vec<Part<'_>> = dump.iter().map(part).collect();
        let dump = Dump::open_parts(parts, identity.as_ref(), &mut ());
        read(&dump, &options, flags);
    }
    for (index, partition) in there.into_iter().zip(&partitions) {
        if partition.defect.is_some() {
            continue;
        }
        for found in partition.dumps.iter().rev() {
            assert!(found.first >= 1 && found.first < found.end && found.end <= disks[index].blocks());
            disks[index].writable = found.range();
            let _ = partition::mark_saved(&mut disks[index], found, None);
            let _ = partition::clear(&mut disks[index], &partition.uuid(), found, &mut ());
        }
    }
}

fn read(dump: &Dump<'_>, options: &CoreOptions, flags: u8) {
    let report = serde_json::to_string(&Report::new(dump)).expect("a report");
    assert!(report.len() < 8 << 20, "a report of {} bytes", report.len());
    for pfn in [0, 1, 2, 30, 0x10_0000, u64::MAX >> 12, u64::MAX] {
        let _ = dump.read_page(pfn);
    }
    let mut core = Checked::new();
    if elf::write(dump, options, &mut core, &mut ()).is_ok() {
        check_elf(&core);
    }
    let compression = [Compression::None, Compression::Zlib, Compression::Zstd][usize::from(flags >> 5) % 3];
    let _ = kdump::room(dump, &Selection::of(dump, None));
    let _ = kdump::write(dump, compression, options, &mut Checked::new(), &mut ());
    for part in dump.parts() {
        let alone = Dump::open_with(part.source, part.uuid, &part.found, None, &mut ());
        let _ = raw::write(part, &alone, &mut Checked::new(), &mut ());
    }
}

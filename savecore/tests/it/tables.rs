//! Partition tables of all kinds, judged by a model of Linux's rules. The model was written independently of
//! the code under test, from block/partitions/{core,efi,msdos}.c.
//!
//! One file: the model and the tables that it judges.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dumpcore::device::DeviceError;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::locate::{self, By, ReadBlocks};
use proptest::prelude::*;
use savecore::partition::{self, Plan};
use savecore::source::{Access, Reading, Target};

const MAGIC: [u8; 2] = [0x55, 0xaa];
pub(crate) const LINUX: u8 = 0x83;
pub(crate) const PROTECTIVE: u8 = 0xee;
const SIGNATURE: u32 = 0x5f0e_8a3c;

/// A partition of a GUID table, in sectors.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// An entry of a DOS table, in sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Writes an entry of the DOS table at byte `table`.
pub(crate) fn put_entry(disk: &mut [u8], table: usize, index: usize, entry: Entry) {
    let at = table + 446 + 16 * index;
    disk[at..at + 16].fill(0);
    disk[at + 4] = entry.kind;
    disk[at + 8..at + 12].copy_from_slice(&entry.first.to_le_bytes());
    disk[at + 12..at + 16].copy_from_slice(&entry.count.to_le_bytes());
    disk[table + 510..table + 512].copy_from_slice(&MAGIC);
}

/// Writes a DOS table into the first sector of a disk, which is wiped first.
pub(crate) fn put_dos(disk: &mut [u8], entries: &[Entry]) {
    disk[..512].fill(0);
    disk[440..444].copy_from_slice(&SIGNATURE.to_le_bytes());
    disk[510..512].copy_from_slice(&MAGIC);
    for (index, entry) in entries.iter().enumerate() {
        put_entry(disk, 0, index, *entry);
    }
}

/// The GUID of an entry's partition. All of its bytes are equal, so their order does not matter.
fn guid(index: usize) -> [u8; 16] {
    [index as u8 + 1; 16]
}

/// Writes a GUID table at both ends of the disk, without the protective DOS table.
pub(crate) fn put_guid(disk: &mut [u8], sector: usize, parts: &[Part]) {
    const ENTRIES: usize = 128;
    let mut entries = vec![0; ENTRIES * 128];
    for (index, part) in parts.iter().enumerate() {
        let entry = &mut entries[128 * index..][..128];
        entry[..16].fill(0x77);
        entry[16..32].copy_from_slice(&guid(index));
        entry[32..40].copy_from_slice(&part.first.to_le_bytes());
        entry[40..48].copy_from_slice(&part.last.to_le_bytes());
        for (unit, place) in part.name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let last = disk.len() / sector - 1;
    let sectors = entries.len().div_ceil(sector);
    for (at, other, entries_at) in [(1, last, 2), (last, 1, last - sectors)] {
        let mut header = Vec::new();
        header.extend_from_slice(b"EFI PART");
        for number in [0x10000_u32, 92, 0, 0] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        for number in [at, other, 2 + sectors, last - sectors - 1] {
            header.extend_from_slice(&(number as u64).to_le_bytes());
        }
        header.extend_from_slice(&[0x55; 16]);
        header.extend_from_slice(&(entries_at as u64).to_le_bytes());
        for number in [ENTRIES as u32, 128, crc32fast::hash(&entries)] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk[at * sector..][..92].copy_from_slice(&header);
        disk[entries_at * sector..][..entries.len()].copy_from_slice(&entries);
    }
}

/// What Linux shows of a disk.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    /// Whether it took the GUID table.
    is_guid: bool,
    /// Whether a protective entry keeps it from taking a DOS table.
    is_protected: bool,
    /// Partitions by number, in bytes; one that reaches beyond the end is cut there.
    partitions: BTreeMap<u32, Range<u64>>,
    /// The partitions that were cut.
    cut: Vec<u32>,
}

fn word(disk: &[u8], at: u64) -> u64 {
    disk.get(at as usize..at as usize + 4)
        .map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()).into())
}

fn long(disk: &[u8], at: u64) -> u64 {
    word(disk, at) | word(disk, at + 4) << 32
}

impl Shown {
    /// blk_add_partition().
    fn add(&mut self, disk: &[u8], number: u32, from: u128, size: u128) {
        let end = disk.len() as u128;
        if size == 0 || from >= end || number > 255 {
            return;
        }
        if from + size > end {
            self.cut.push(number);
        }
        self.partitions.insert(number, from as u64..(from + size).min(end) as u64);
    }

    fn of(disk: &[u8], sector: u64) -> Shown {
        let mut shown = Shown::default();
        if disk.get(510..512) != Some(&MAGIC[..]) {
            return shown;
        }
        let entry = |index: u64| 446 + 16 * index;
        // msdos.c only looks at the flags.
        let flags_fit = (0..4).all(|index| disk[entry(index) as usize] & 0x7f == 0);
        let kind = |index: u64| disk[entry(index) as usize + 4];
        shown.is_protected = (0..4).any(|index| kind(index) == PROTECTIVE);
        if (0..4).any(|index| kind(index) == PROTECTIVE && word(disk, entry(index) + 8) == 1) {
            shown.take_guid(disk, sector);
        } else if flags_fit && !shown.is_protected {
            shown.take_dos(disk, sector);
        }
        shown
    }

    /// efi.c, first copy only: Linux takes the other one only with `gpt` on the command line.
    fn take_guid(&mut self, disk: &[u8], sector: u64) {
        let last = disk.len() as u64 / sector - 1;
        let at = sector;
        let Some(header) = disk.get(at as usize..(at + sector) as usize) else { return };
        let size = word(disk, at + 12);
        if !header.starts_with(b"EFI PART") || !(92..=sector).contains(&size) {
            return;
        }
        let mut summed = header[..size as usize].to_vec();
        summed[16..20].fill(0);
        let (first_usable, last_usable) = (long(disk, at + 40), long(disk, at + 48));
        let (count, entry_size) = (word(disk, at + 80), word(disk, at + 84));
        let bytes = count * entry_size;
        let is_sound = u64::from(crc32fast::hash(&summed)) == word(disk, at + 16)
            && long(disk, at + 24) == 1
            && first_usable <= last
            && last_usable <= last
            && first_usable <= last_usable
            && entry_size == 128
            && bytes > 0
            && bytes <= 4 << 20;
        let Some(from) = long(disk, at + 72).checked_mul(sector).filter(|from| *from < 1 << 40) else {
            return;
        };
        let Some(entries) = disk.get(from as usize..(from + bytes) as usize) else { return };
        if !is_sound || u64::from(crc32fast::hash(entries)) != word(disk, at + 88) {
            return;
        }
        self.is_guid = true;
        for (number, entry) in (1..=255).zip(entries.chunks_exact(128)) {
            let (first, end) = (long(entry, 32), long(entry, 40));
            if entry[..16] == [0; 16] || first > last || end > last || end < first {
                continue;
            }
            let size = u128::from(end - first + 1) * u128::from(sector);
            self.add(disk, number, u128::from(first) * u128::from(sector), size);
        }
    }

    /// msdos.c.
    fn take_dos(&mut self, disk: &[u8], sector: u64) {
        let is_extended = |kind: u8| [0x05, 0x0f, 0x85].contains(&kind);
        let mut next = 5;
        for index in 0..4 {
            let at = 446 + 16 * index;
            let (kind, first, count) = (disk[at as usize + 4], word(disk, at + 8), word(disk, at + 12));
            if count == 0 {
                continue;
            }
            if !is_extended(kind) {
                let number = index as u32 + 1;
                self.add(disk, number, u128::from(first * sector), u128::from(count * sector));
                continue;
            }
            let (whole, whole_size) = (first * sector, count * sector);
            let (mut this, mut size) = (whole, whole_size);
            let mut empty = 0;
            while empty < 100 && next <= 255 {
                empty += 1;
                if disk.get(this as usize + 510..this as usize + 512) != Some(&MAGIC[..]) {
                    break;
                }
                let entries: Vec<(u8, u64, u64)> = (0..4)
                    .map(|index| this + 446 + 16 * index)
                    .map(|at| {
                        (disk[at as usize + 4], word(disk, at + 8) * sector, word(disk, at + 12) * sector)
                    })
                    .collect();
                for (index, (kind, offset, length)) in entries.iter().enumerate() {
                    let start = this + offset;
                    let stray = index >= 2
                        && (offset + length > size || start < whole || start + length > whole + whole_size);
                    if *length == 0 || is_extended(*kind) || stray || next > 255 {
                        continue;
                    }
                    self.add(disk, next, start.into(), (*length).into());
                    next += 1;
                    empty = 0;
                }
                let Some((_, offset, length)) =
                    entries.iter().find(|(kind, _, length)| *length > 0 && is_extended(*kind))
                else {
                    break;
                };
                (this, size) = (whole + offset, *length);
            }
        }
    }
}

/// A disk as a kernel reads it.
struct Kernel<'d> {
    disk: &'d [u8],
    sector: u64,
}

impl ReadBlocks for Kernel<'_> {
    fn blocks(&self) -> u64 {
        (self.disk.len() / BLOCK_SIZE) as u64
    }

    fn read(&mut self, block: u64, into: &mut Block) -> Result<(), DeviceError> {
        into.copy_from_slice(&self.disk[block as usize * BLOCK_SIZE..][..BLOCK_SIZE]);
        Ok(())
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.sector as u32)
    }
}

/// A partition, as savecore opens it.
fn opened(path: &Path, number: u32, sector: u64, access: Access) -> Option<Target> {
    let reading = Reading { sector_size: Some(sector as u32), table: None };
    Target::open_as(path, Some(&number.to_string()), &reading, access).ok()
}

/// The layout of a disk, in units of 4096 bytes: one sector of 4096 bytes, or eight of 512.
#[derive(Clone, Debug)]
struct Plot {
    sector: u64,
    guid: Vec<Range<u64>>,
    protection: Option<u32>,
    primaries: Vec<(usize, u8, Range<u64>)>,
    logical: Vec<(u64, Range<u64>)>,
    odd: u64,
    harm: Vec<(usize, u8)>,
}

const BLOCKS: u64 = 400;

fn plot() -> impl Strategy<Value = Plot> {
    let range = || (20_u64..BLOCKS, 1_u64..60).prop_map(|(start, length)| start..start + length);
    let disk = (
        prop::sample::select(vec![512, 4096]),
        prop::collection::vec(range(), 0..5),
        prop::sample::select(vec![None, None, Some(1), Some(1), Some(1), Some(2)]),
        prop::collection::vec(
            (0_usize..4, prop::sample::select(vec![LINUX, LINUX, 0x0f, 0x05, 0x85, 0, 0x07]), range()),
            0..4,
        ),
        prop::collection::vec((0_u64..100, 1_u64..40, 1_u64..30), 0..4),
        0_u64..20,
        prop::collection::vec((0_usize..9000, any::<u8>()), 0..3),
    );
    disk.prop_map(|(sector, guid, protection, primaries, logical, odd, harm)| {
        let logical =
            logical.into_iter().map(|(table, first, length)| (table, first..first + length)).collect();
        Plot { sector, guid, protection, primaries, logical, odd, harm }
    })
}

/// Blocks in bytes.
fn bytes(blocks: &Range<u64>) -> Range<u64> {
    blocks.start * 4096..blocks.end * 4096
}

impl Plot {
    /// The extended partitions.
    fn containers(&self) -> impl Iterator<Item = Range<u64>> {
        let extended = self.primaries.iter().filter(|(_, kind, _)| [0x0f, 0x05, 0x85].contains(kind));
        extended.map(|(_, _, range)| bytes(range))
    }

    /// Where there may be tables of logical partitions.
    fn tables(&self) -> Vec<u64> {
        let mut tables = Vec::new();
        for container in self.containers() {
            let mut at = container.start;
            tables.push(at);
            for (link, _) in &self.logical {
                at = container.start + link * 4096;
                tables.push(at);
            }
        }
        tables
    }

    fn lay(&self) -> Vec<u8> {
        let mut disk = vec![0; BLOCKS as usize * BLOCK_SIZE];
        let per = BLOCK_SIZE as u64 / self.sector;
        // Some begin within a block, if sectors are smaller than blocks.
        let odd = u64::from(self.odd == 0 && per > 1);
        if !self.guid.is_empty() {
            let names = ["one", "two", "three", "four", "five"];
            let parts: Vec<Part> = self
                .guid
                .iter()
                .zip(names)
                .map(|(range, name)| Part { name, first: range.start * per + odd, last: range.end * per - 1 })
                .collect();
            put_guid(&mut disk, self.sector as usize, &parts);
        }
        put_dos(&mut disk, &[]);
        let mut container = None;
        for (index, kind, range) in &self.primaries {
            let count = ((range.end - range.start) * per) as u32;
            put_entry(&mut disk, 0, *index, Entry { kind: *kind, first: (range.start * per) as u32, count });
            if [0x0f, 0x05, 0x85].contains(kind) {
                container = Some(range.start);
            }
        }
        if let Some(first) = self.protection {
            put_entry(&mut disk, 0, 3, Entry { kind: PROTECTIVE, first, count: 9 });
        }
        if let Some(container) = container {
            let mut at = container;
            for (link, range) in &self.logical {
                let table = at as usize * BLOCK_SIZE;
                if table + 512 > disk.len() {
                    break;
                }
                let count = ((range.end - range.start) * per) as u32;
                put_entry(
                    &mut disk,
                    table,
                    0,
                    Entry { kind: LINUX, first: (range.start * per) as u32, count },
                );
                put_entry(&mut disk, table, 1, Entry { kind: 0x05, first: (link * per) as u32, count: 9 });
                at = container + link;
            }
        }
        for (at, byte) in &self.harm {
            disk[*at] = *byte;
        }
        disk
    }
}

/// Whether the ranges have a byte in common.
fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// savecore and kernels take each partition where Linux shows it, or not at all. What Linux shows can be
    /// opened, unless something else claims the same blocks. Formatting a partition changes no byte outside
    /// of it.
    #[test]
    fn a_partition_is_where_linux_has_it_or_it_is_refused(plot in plot()) {
        let disk = plot.lay();
        let shown = Shown::of(&disk, plot.sector);
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("disk");
        fs::write(&path, &disk).unwrap();
        // Linux would take a GUID table only with `gpt` on its command line: the other copy, or that of a
        // disk that was cut short.
        let is_beyond = shown.is_protected && !shown.is_guid;
        let mut formatted = false;
        for number in 1..=12 {
            let place = shown.partitions.get(&number);
            let target = opened(&path, number, plot.sector, Access::Read);
            let found = target.as_ref().map(Target::place);
            if let Some(found) = &found && !is_beyond {
                let place = place.expect("it is not shown");
                prop_assert_eq!(found.start, place.start);
                prop_assert_eq!(found.end, place.end - (place.end - place.start) % 4096);
            }
            if let (Some(place), None) = (place, &found) {
                // A partition that reaches beyond the end is in the table, even though Linux does not show
                // it.
                let hidden = plot.guid.iter().zip(1..).filter(|(_, other)| shown.is_guid && *other != number);
                let over = shown.partitions.iter().any(|(other, at)| *other != number && overlap(at, place))
                    || hidden.map(|(range, _)| bytes(range)).any(|at| overlap(&at, place));
                let over_table = place.start < 20 * 4096
                    || (shown.is_guid && place.end > (BLOCKS - 33) * 4096)
                    || plot.tables().iter().any(|at| overlap(&(*at..at + 4096), place))
                    || (number < 5 && plot.containers().any(|at| overlap(&at, place)));
                prop_assert!(
                    over || over_table || !plot.harm.is_empty() || shown.cut.contains(&number) || !place.start.is_multiple_of(4096)
                        || place.end - place.start < 5 * 4096,
                    "partition {} at {:?} was refused", number, place
                );
            }
            let by = if shown.is_guid || is_beyond {
                By::Guid(guid(number as usize - 1))
            } else {
                By::Dos { signature: SIGNATURE, number }
            };
            // Harm can change a GUID or the signature.
            if plot.harm.is_empty() {
                let kernel = &mut Kernel { disk: &disk, sector: plot.sector };
                let located = locate::find(kernel, &by, &mut [0; BLOCK_SIZE]).ok();
                let located = located.map(|at| at.first_block * 4096..(at.first_block + at.blocks) * 4096);
                // A dump needs five blocks.
                prop_assert_eq!(located.filter(|at| at.end - at.start >= 5 * 4096), found.clone());
            }
            drop(target);
            if let Some(place) = found && !formatted {
                formatted = true;
                format_changes_only(&path, number, &plot, &place);
                fs::write(&path, &disk).unwrap();
            }
        }
    }

    /// Any bytes in place of tables, with checksums that match or not: nothing panics, and what is opened
    /// lies on the disk.
    #[test]
    fn any_bytes_give_an_error_or_a_partition_on_the_disk(
        pieces in prop::collection::vec((0_usize..60, prop::collection::vec(any::<u8>(), 512)), 1..8),
        kinds in prop::collection::vec(prop::sample::select(vec![0_u8, 5, 15, 0x83, 0xee]), 4),
        size in 20_000_usize..40_000,
    ) {
        let mut disk = vec![0; size];
        for (sector, bytes) in pieces {
            let at = sector * 512;
            let length = size.saturating_sub(at).min(512);
            disk[at.min(size)..][..length].copy_from_slice(&bytes[..length]);
        }
        for (index, kind) in kinds.iter().enumerate() {
            disk[446 + 16 * index] = 0;
            disk[450 + 16 * index] = *kind;
        }
        disk[510..512].copy_from_slice(&MAGIC);
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("disk");
        fs::write(&path, &disk).unwrap();
        for number in 1..6 {
            for sector in [512, 4096] {
                if let Some(target) = opened(&path, number, sector, Access::Read) {
                    prop_assert!(target.place().end <= size as u64);
                }
                let by = By::Dos { signature: word(&disk, 440) as u32, number };
                let kernel = &mut Kernel { disk: &disk, sector };
                if let Ok(found) = locate::find(kernel, &by, &mut [0; BLOCK_SIZE]) {
                    prop_assert!((found.first_block + found.blocks) * 4096 <= size as u64);
                }
            }
        }
    }
}

fn format_changes_only(path: &Path, number: u32, plot: &Plot, place: &Range<u64>) {
    let Some(mut target) = opened(path, number, plot.sector, Access::Format) else { return };
    let before = fs::read(path).unwrap();
    let plan = Plan { uuid: [7; 16], name: String::new(), created: 0, recipient: None, machine: None };
    target.make_writable().unwrap();
    partition::format(&mut target, &plan, &mut ()).unwrap();
    drop(target);
    let after = fs::read(path).unwrap();
    let (start, end) = (place.start as usize, place.end as usize);
    assert!(before[..start] == after[..start] && before[end..] == after[end..], "other bytes were changed");
    assert!(after[start..].starts_with(b"DISKDMPL"));
}

#[test]
fn a_partition_that_moved_or_grew_since_it_was_chosen_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut disk = vec![0; 400 * BLOCK_SIZE];
    put_dos(&mut disk, &[Entry { kind: LINUX, first: 80, count: 2400 }]);
    let change = |at: u64, byte: u8| {
        File::options().write(true).open(&path).unwrap().write_all_at(&[byte], at).unwrap();
    };
    for (at, byte) in [(446 + 8, 88), (446 + 13, 8)] {
        fs::write(&path, &disk).unwrap();
        let mut target = opened(&path, 1, 512, Access::Format).unwrap();
        target.make_writable().unwrap();
        change(at, byte);
        assert!(matches!(target.make_writable(), Err(savecore::Error::Changed { .. })));
    }
    fs::write(&path, &disk).unwrap();
    let mut target = opened(&path, 1, 512, Access::Format).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(500 * BLOCK_SIZE as u64).unwrap();
    assert!(matches!(target.make_writable(), Err(savecore::Error::Changed { .. })));
}

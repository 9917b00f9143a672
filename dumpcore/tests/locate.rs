//! Finding the partition: another library writes the tables, on sparse disks of 3 TiB.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use dumpcore::device::DeviceError;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::locate::{By, Found, NotFound, ReadBlocks, find};
use dumpcore::sim::cases;
use gpt::disk::LogicalBlockSize;
use proptest::prelude::*;

const TIB: u64 = 1 << 40;
const BLOCK: u64 = BLOCK_SIZE as u64;

/// A disk that stores only what was written.
#[derive(Clone, Debug)]
struct Sparse {
    blocks: BTreeMap<u64, Block>,
    size: u64,
    at: u64,
    bad: Option<u64>,
    /// Its reported sector size.
    known: Option<u32>,
}

impl Sparse {
    fn new(size: u64) -> Sparse {
        Sparse { blocks: BTreeMap::new(), size, at: 0, bad: None, known: None }
    }

    fn byte(&mut self, at: u64) -> &mut u8 {
        &mut self.blocks.entry(at / BLOCK).or_insert([0; BLOCK_SIZE])[(at % BLOCK) as usize]
    }
}

impl Read for Sparse {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min((self.size - self.at.min(self.size)) as usize);
        for (offset, byte) in into[..length].iter_mut().enumerate() {
            let at = self.at + offset as u64;
            *byte = self.blocks.get(&(at / BLOCK)).map_or(0, |block| block[(at % BLOCK) as usize]);
        }
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (offset, byte) in bytes.iter().enumerate() {
            *self.byte(self.at + offset as u64) = *byte;
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.size.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?,
            SeekFrom::Current(by) => self.at.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?,
        };
        Ok(self.at)
    }
}

impl ReadBlocks for Sparse {
    fn blocks(&self) -> u64 {
        self.size / BLOCK
    }

    fn read(&mut self, block: u64, into: &mut Block) -> Result<(), DeviceError> {
        assert!(block < self.blocks(), "a read beyond the end, of block {block}");
        if self.bad == Some(block) {
            return Err(DeviceError::Status { what: "read", code: 7 });
        }
        *into = self.blocks.get(&block).copied().unwrap_or([0; BLOCK_SIZE]);
        Ok(())
    }

    fn sector_size(&self) -> Option<u32> {
        self.known
    }
}

/// A partition: name, first sector, sectors.
type Part = (&'static str, u64, u64);

/// A disk with these partitions, and their GUIDs in printed form.
fn disk(size: u64, sector: u64, parts: &[Part]) -> (Sparse, Vec<[u8; 16]>) {
    let mut disk = Sparse::new(size);
    let block_size = if sector == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(block_size)
        .create_from_device(&mut disk, None)
        .expect("an empty table");
    for (id, (name, first, length)) in (1..).zip(parts) {
        table
            .add_partition_at(name, id, *first, *length, gpt::partition_types::LINUX_FS, 0)
            .expect("a partition");
    }
    let guids = table.partitions().values().map(|part| *part.part_guid.as_bytes()).collect();
    table.write().expect("a table");
    put_entry(&mut disk, 0, 0, Entry { kind: 0xee, first: 1, count: u32::MAX });
    (disk, guids)
}

/// An entry of a DOS table.
struct Entry {
    kind: u8,
    first: u32,
    count: u32,
}

/// Writes one of the four entries of the DOS table at a byte offset.
fn put_entry(disk: &mut Sparse, table: u64, index: u64, entry: Entry) {
    let mut bytes = [0; 16];
    bytes[4] = entry.kind;
    bytes[8..12].copy_from_slice(&entry.first.to_le_bytes());
    bytes[12..].copy_from_slice(&entry.count.to_le_bytes());
    disk.seek(SeekFrom::Start(table + 446 + 16 * index)).unwrap();
    disk.write_all(&bytes).unwrap();
    disk.seek(SeekFrom::Start(table + 510)).unwrap();
    disk.write_all(&[0x55, 0xaa]).unwrap();
}

const SIGNATURE: u32 = 0x5f0e_8a3c;

/// A disk of 1 GiB with a DOS table: partition 1, and in an extended one 5 and 6; 6 has a label. Each has
/// 1000 blocks.
fn dos(sector: u64) -> Sparse {
    let mut disk = Sparse::new(1 << 30);
    disk.known = Some(sector as u32);
    let blocks = |blocks: u64| (blocks * BLOCK / sector) as u32;
    disk.seek(SeekFrom::Start(440)).unwrap();
    disk.write_all(&SIGNATURE.to_le_bytes()).unwrap();
    put_entry(&mut disk, 0, 0, Entry { kind: 0x83, first: blocks(256), count: blocks(1000) });
    put_entry(&mut disk, 0, 2, Entry { kind: 0x0f, first: blocks(2000), count: blocks(200_000) });
    put_entry(&mut disk, 2000 * BLOCK, 0, Entry { kind: 0x83, first: blocks(8), count: blocks(1000) });
    put_entry(&mut disk, 2000 * BLOCK, 1, Entry { kind: 0x05, first: blocks(5000), count: blocks(2000) });
    put_entry(&mut disk, 7000 * BLOCK, 0, Entry { kind: 0x83, first: blocks(8), count: blocks(1000) });
    label(&mut disk, 7008, 1000, [9; 16]);
    disk
}

fn label(disk: &mut Sparse, block: u64, blocks: u64, uuid: [u8; 16]) {
    let mut bytes = [0; BLOCK_SIZE];
    Label::new(uuid, blocks, 0, "dump").to_block(&mut bytes);
    disk.blocks.insert(block, bytes);
}

fn look(disk: &mut Sparse, by: By<'_>) -> Result<Found, NotFound> {
    find(disk, &by, &mut [0; BLOCK_SIZE])
}

/// Far beyond 2 TiB, the limit of 32-bit sector numbers, in blocks.
const FAR: u64 = 5 * TIB / 2 / BLOCK;

/// A disk of 3 TiB with a labelled dump partition of 1000 blocks beyond 2 TiB, between two others.
fn usual(sector: u64) -> (Sparse, Vec<[u8; 16]>) {
    let per = BLOCK / sector;
    let parts = [
        ("before", 256 * per, 300 * per),
        ("dump", FAR * per, 1000 * per),
        ("after", (FAR + 1000) * per, per),
    ];
    let (mut disk, guids) = disk(3 * TIB, sector, &parts);
    label(&mut disk, FAR, 1000, [9; 16]);
    (disk, guids)
}

const USUAL: Found = Found { first_block: FAR, blocks: 1000, uuid: Some([9; 16]), recipient: None };

#[test]
fn a_partition_behind_2_tib_is_found_by_guid_name_and_label_on_both_sizes_of_sectors() {
    for sector in [512, 4096] {
        let (mut disk, guids) = usual(sector);
        assert_eq!(look(&mut disk, By::Guid(guids[1])), Ok(USUAL));
        assert_eq!(look(&mut disk, By::Name("dump")), Ok(USUAL));
        assert_eq!(look(&mut disk, By::Label([9; 16])), Ok(USUAL));
        let before = Found { first_block: 256, blocks: 300, uuid: None, recipient: None };
        assert_eq!(look(&mut disk, By::Guid(guids[0])), Ok(before));
        for by in [By::Guid([1; 16]), By::Name("dum"), By::Name("dump2"), By::Name(""), By::Label([8; 16])] {
            assert_eq!(look(&mut disk, by), Err(NotFound::Nothing));
        }
    }
}

#[test]
fn the_backup_at_the_end_stands_in_for_a_damaged_table() {
    for sector in [512, 4096] {
        // In the header, and in the entries.
        for at in [sector + 40, 2 * sector + 60] {
            let (mut disk, _) = usual(sector);
            *disk.byte(at) ^= 1;
            assert_eq!(look(&mut disk, By::Name("dump")), Ok(USUAL));
            *disk.byte(3 * TIB - sector + 40) ^= 1;
            assert!(matches!(look(&mut disk, By::Name("dump")), Err(NotFound::BadTable { .. })));
        }
    }
}

#[test]
fn a_partition_that_does_not_begin_at_a_block_is_refused_by_its_sector() {
    let (mut disk, _) = disk(TIB, 512, &[("dump", 2049, 8000)]);
    let refused = NotFound::OddStart { sector: 2049, sector_size: 512 };
    assert_eq!(look(&mut disk, By::Name("dump")), Err(refused));
    assert_eq!(look(&mut disk, By::Label([9; 16])), Err(NotFound::Nothing));
    let said = refused.to_string();
    assert!(said.contains("sector 2049") && said.contains("multiple of 4096"), "{said}");
}

#[test]
fn what_is_left_behind_the_last_whole_block_is_not_counted() {
    let (mut disk, _) = disk(TIB, 512, &[("dump", 2048, 8007)]);
    assert_eq!(look(&mut disk, By::Name("dump")).unwrap().blocks, 1000);
}

#[test]
fn two_partitions_of_one_name_are_told_apart_by_their_guids_only() {
    let (mut disk, guids) = disk(TIB, 512, &[("dump", 2048, 800), ("dump", 4096, 1600)]);
    assert_eq!(look(&mut disk, By::Name("dump")), Err(NotFound::Several));
    assert_eq!(look(&mut disk, By::Guid(guids[1])).unwrap().first_block, 512);
}

#[test]
fn a_disk_without_a_table_is_a_partition_if_it_has_the_label() {
    let mut disk = Sparse::new(1 << 30);
    assert_eq!(look(&mut disk, By::Label([9; 16])), Err(NotFound::NoTable));
    label(&mut disk, 0, (1 << 30) / BLOCK, [9; 16]);
    assert_eq!(look(&mut disk, By::Label([9; 16])).unwrap().blocks, (1 << 30) / BLOCK);
    assert_eq!(look(&mut disk, By::Label([8; 16])), Err(NotFound::Nothing));
    assert_eq!(look(&mut disk, By::Name("dump")), Err(NotFound::NoTable));
    assert_eq!(
        look(&mut Sparse::new(0), By::Label([9; 16])),
        Err(NotFound::BeyondDisk { end: 1, blocks: 0 })
    );
}

#[test]
fn a_block_that_cannot_be_read_is_named() {
    let (mut disk, _) = usual(512);
    disk.bad = Some(FAR);
    let error = DeviceError::Status { what: "read", code: 7 };
    assert_eq!(look(&mut disk, By::Name("dump")), Err(NotFound::Device { block: FAR, error }));
}

#[test]
fn a_partition_beyond_the_end_of_the_disk_is_refused() {
    let (mut disk, _) = usual(512);
    disk.size = FAR * BLOCK + 999 * BLOCK;
    assert_eq!(
        look(&mut disk, By::Name("dump")),
        Err(NotFound::BeyondDisk { end: FAR + 1000, blocks: FAR + 999 })
    );
}

#[test]
fn a_partition_of_a_dos_table_is_found_by_what_linux_calls_its_partuuid_and_by_its_label() {
    for sector in [512, 4096] {
        let mut disk = dos(sector);
        let by = |number| By::Dos { signature: SIGNATURE, number };
        let found = Found { first_block: 7008, blocks: 1000, uuid: Some([9; 16]), recipient: None };
        assert_eq!(look(&mut disk, by(6)), Ok(found));
        assert_eq!(look(&mut disk, By::Label([9; 16])), Ok(found));
        assert_eq!(look(&mut disk, by(5)).unwrap().first_block, 2008);
        assert_eq!(look(&mut disk, by(1)).unwrap().first_block, 256);
        for number in [2, 3, 4, 7] {
            assert_eq!(look(&mut disk, by(number)), Err(NotFound::Nothing));
        }
        assert_eq!(look(&mut disk, By::Dos { signature: 1, number: 6 }), Err(NotFound::Nothing));
        // It does not report its sector size, but only with one size there is a table at the start of the
        // chain.
        disk.known = None;
        assert_eq!(look(&mut disk, by(6)), Ok(found));
    }
}

#[test]
fn a_table_that_makes_sense_in_sectors_of_both_sizes_is_refused_unless_the_label_tells() {
    let mut disk = Sparse::new(1 << 30);
    put_entry(&mut disk, 0, 1, Entry { kind: 0x83, first: 2048, count: 8192 });
    let by = By::Dos { signature: 0, number: 2 };
    assert_eq!(look(&mut disk, by), Err(NotFound::TwoTables));
    label(&mut disk, 2048, 8192, [9; 16]);
    assert_eq!(look(&mut disk, by), Err(NotFound::TwoTables));
    assert_eq!(look(&mut disk, By::Label([9; 16])).unwrap().first_block, 2048);
    for (sector, first_block) in [(512, 256), (4096, 2048)] {
        disk.known = Some(sector);
        assert_eq!(look(&mut disk, by).unwrap().first_block, first_block);
    }
}

#[test]
fn a_guid_table_counts_only_if_the_first_sector_protects_it() {
    let (mut disk, guids) = usual(512);
    put_entry(&mut disk, 0, 0, Entry { kind: 0x83, first: 2048, count: 80_000 });
    assert_eq!(look(&mut disk, By::Guid(guids[1])), Err(NotFound::Nothing));
    assert_eq!(look(&mut disk, By::Name("dump")), Err(NotFound::Nothing));
    disk.known = Some(512);
    assert_eq!(look(&mut disk, By::Dos { signature: 0, number: 1 }).unwrap().first_block, 256);
    // One that starts elsewhere protects nothing, and no other entry next to it counts.
    put_entry(&mut disk, 0, 1, Entry { kind: 0xee, first: 2, count: 1 });
    assert_eq!(look(&mut disk, By::Dos { signature: 0, number: 1 }), Err(NotFound::NoGuidTable));
    put_entry(&mut disk, 0, 1, Entry { kind: 0xee, first: 1, count: 1 });
    assert_eq!(look(&mut disk, By::Name("dump")), Ok(USUAL));
    put_entry(&mut disk, 0, 0, Entry { kind: 0, first: 0, count: 0 });
    put_entry(&mut disk, 0, 1, Entry { kind: 0, first: 0, count: 0 });
    assert_eq!(look(&mut disk, By::Name("dump")), Err(NotFound::NoTable));
}

#[test]
fn a_partition_over_another_or_over_the_table_is_refused() {
    let mut disk = dos(512);
    let by = |number| By::Dos { signature: SIGNATURE, number };
    put_entry(&mut disk, 0, 1, Entry { kind: 0x83, first: 256 * 8, count: 80 });
    put_entry(&mut disk, 0, 3, Entry { kind: 0x83, first: 0, count: 80 });
    assert_eq!(look(&mut disk, by(1)), Err(NotFound::Over { number: 2 }));
    assert_eq!(look(&mut disk, by(4)), Err(NotFound::OverTable));
    assert!(look(&mut disk, by(6)).is_ok());
    // Over the table of logical partition 6.
    put_entry(&mut disk, 2000 * BLOCK, 0, Entry { kind: 0x83, first: 8, count: 5000 * 8 });
    assert_eq!(look(&mut disk, by(5)), Err(NotFound::OverTable));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_in_the_table_what_is_found_lies_on_the_disk(
        harm in prop::collection::vec((0_u64..20_000, any::<u8>()), 1..12),
        size in 0_u64..3000,
    ) {
        let (mut disk, _) = disk(8 << 20, 512, &[("dump", 2048, 800)]);
        label(&mut disk, 256, 100, [9; 16]);
        for (at, byte) in harm {
            *disk.byte(at) = byte;
        }
        disk.size = (disk.size - size * BLOCK / 2).max(BLOCK);
        for by in [By::Name("dump"), By::Label([9; 16])] {
            if let Ok(found) = look(&mut disk, by) {
                prop_assert!(found.first_block + found.blocks <= disk.blocks());
            }
        }
    }
}

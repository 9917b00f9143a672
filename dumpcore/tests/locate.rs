//! Finding the partition: the tables are laid by somebody else's library, on disks of 3 TiB that are mostly not there.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use dumpcore::device::DeviceError;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::locate::{By, Found, NotFound, ReadBlocks, find};
use gpt::disk::LogicalBlockSize;
use proptest::prelude::*;

const TIB: u64 = 1 << 40;
const BLOCK: u64 = BLOCK_SIZE as u64;

/// A disk that keeps only what was written.
#[derive(Clone, Debug)]
struct Sparse {
    blocks: BTreeMap<u64, Block>,
    size: u64,
    at: u64,
    bad: Option<u64>,
}

impl Sparse {
    fn new(size: u64) -> Sparse {
        Sparse { blocks: BTreeMap::new(), size, at: 0, bad: None }
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
}

/// A partition: name, first sector, sectors.
type Part = (&'static str, u64, u64);

/// A disk with these partitions, and their GUIDs as they are printed.
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
    (disk, guids)
}

fn label(disk: &mut Sparse, block: u64, blocks: u64, uuid: [u8; 16]) {
    let mut bytes = [0; BLOCK_SIZE];
    Label::new(uuid, blocks, 0, "dump").to_block(&mut bytes);
    disk.blocks.insert(block, bytes);
}

fn look(disk: &mut Sparse, by: By<'_>) -> Result<Found, NotFound> {
    find(disk, &by, &mut [0; BLOCK_SIZE])
}

/// Far behind 2 TiB, where 32 bits of sectors end, in blocks.
const FAR: u64 = 5 * TIB / 2 / BLOCK;

/// A disk of 3 TiB with a labelled dump partition of 1000 blocks behind 2 TiB, between two others.
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

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

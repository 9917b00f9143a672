//! Disks with partition tables of any content, whose checksums may match.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use dumpcore::format::BLOCK_SIZE;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition_types::LINUX_FS;
use savecore::source::{Access, Source, Target, discover_at};
use tempfile::NamedTempFile;

use super::Input;
use crate::common::partition as formatted;

const SECTOR: usize = 512;
const SECTORS: usize = 1024;
/// Where the dump partition begins, in sectors.
const FIRST: usize = 80;
const CHANGES: usize = 24;

/// A disk with a GUID partition table, one with a DOS table and logical partitions, and an empty one.
fn bases() -> &'static [Vec<u8>] {
    static BASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BASES.get_or_init(|| vec![guid(), dos(), vec![0; SECTORS * SECTOR]])
}

fn with_dump_partition() -> Vec<u8> {
    let mut bytes = vec![0; SECTORS * SECTOR];
    let inside = formatted(20);
    bytes[FIRST * SECTOR..][..inside.len()].copy_from_slice(&inside);
    bytes
}

fn guid() -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&with_dump_partition()).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size(SECTORS as u32 - 1).overwrite_lba0(&mut file).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None).unwrap();
    disk.add_partition_at("dump", 1, FIRST as u64, 160, LINUX_FS, 0).unwrap();
    disk.add_partition_at("data", 2, 400, 160, LINUX_FS, 0).unwrap();
    let mut bytes = vec![0; SECTORS * SECTOR];
    disk.write().unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// An entry of a DOS table: type, first sector, sectors.
fn put_entry(table: &mut [u8], number: usize, kind: u8, first: u32, count: u32) {
    let entry = &mut table[446 + 16 * number..][..16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..].copy_from_slice(&count.to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn dos() -> Vec<u8> {
    let mut bytes = with_dump_partition();
    put_entry(&mut bytes, 0, 0x83, FIRST as u32, 160);
    put_entry(&mut bytes, 1, 0x05, 400, 500);
    // Two logical partitions, each with its own table; the first table points to the second.
    put_entry(&mut bytes[400 * SECTOR..], 0, 0x83, 8, 64);
    put_entry(&mut bytes[400 * SECTOR..], 1, 0x05, 100, 100);
    put_entry(&mut bytes[500 * SECTOR..], 0, 0x83, 8, 64);
    bytes
}

/// Makes the checksums of a GUID partition table match (UEFI specification 2.10, section 5.3).
fn make_fit(bytes: &mut [u8], header: usize) {
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let Some(fields) = bytes.get(header..header + SECTOR) else { return };
    if !fields.starts_with(b"EFI PART") {
        return;
    }
    let length = number(fields, 12);
    let entries = number(fields, 72).saturating_mul(SECTOR);
    let size = number(fields, 80).saturating_mul(number(fields, 84));
    let sum = bytes.get(entries..entries.saturating_add(size)).map(crc32fast::hash);
    let fields = &mut bytes[header..header + SECTOR];
    if let Some(sum) = sum {
        fields[88..92].copy_from_slice(&sum.to_le_bytes());
    }
    fields[16..20].fill(0);
    if let Some(sum) = fields.get(..length).map(crc32fast::hash) {
        fields[16..20].copy_from_slice(&sum.to_le_bytes());
    }
}

fn change(bytes: &mut [u8], input: &mut Input<'_>) {
    let (what, at) = (input.byte(), input.number(2) as usize);
    let value = input.tricky().to_le_bytes();
    let sectors = bytes.len() / SECTOR;
    // One of the two headers, the entries after the first header, a DOS table's entries, or anywhere.
    let at = match what % 6 {
        0 => SECTOR + at % 92,
        1 => (sectors.saturating_sub(1)) * SECTOR + at % 92,
        2 => 2 * SECTOR + at % (4 * 128),
        3 => 446 + at % 64,
        4 => [400, 500][at & 1] * SECTOR + 446 + (at >> 1) % 64,
        _ => at,
    };
    let count = [1, 2, 4, 8][usize::from(what / 6) % 4];
    if let Some(place) = bytes.get_mut(at..at + count) {
        place.copy_from_slice(&value[..count]);
    }
}

/// Finds and reads a disk's partitions. Whatever its tables say, nothing panics or hangs, and nothing is read
/// outside the requested partition, which lies on the disk.
pub(crate) fn no_harm(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (base, flags) = (input.byte(), input.byte());
    let mut disk = bases()[usize::from(base) % bases().len()].clone();
    if flags & 1 != 0 {
        disk.truncate(input.number(3) as usize % (SECTORS * SECTOR));
    }
    for _ in 0..CHANGES {
        if input.0.is_empty() {
            break;
        }
        change(&mut disk, &mut input);
    }
    if flags & 2 == 0 {
        make_fit(&mut disk, SECTOR);
        let last = (disk.len() / SECTOR).saturating_sub(1) * SECTOR;
        make_fit(&mut disk, last);
    }
    let file = in_memory(&disk);
    let path = file.path();
    let _ = discover_at(path).map(|found| found.found.len());
    for partition in [None, Some("1"), Some("2"), Some("5"), Some("6"), Some("dump"), Some("data"), Some("")]
    {
        open(path, partition, &disk);
    }
    assert!(std::fs::read(path).unwrap() == disk, "the disk was changed");
}

fn open(path: &Path, partition: Option<&str>, disk: &[u8]) {
    let Ok(target) = Target::open(path, partition, Access::Read) else { return };
    let blocks = target.blocks();
    assert!(blocks as usize * BLOCK_SIZE <= disk.len(), "{blocks} blocks on {} bytes", disk.len());
    let mut block = [[0; BLOCK_SIZE]];
    for number in [0, blocks / 2, blocks.saturating_sub(1)] {
        if target.read(number, &mut block).is_ok() {
            assert!(number < blocks);
            assert!(disk.windows(BLOCK_SIZE).step_by(SECTOR).any(|piece| *piece == block[0]));
        }
    }
    assert!(target.read(blocks, &mut block).is_err(), "read behind the end");
    assert!(target.read(u64::MAX, &mut block).is_err(), "read behind all ends");
}

/// A file in memory, if possible.
fn in_memory(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new()).unwrap();
    File::options().write(true).open(file.path()).unwrap().write_all_at(bytes, 0).unwrap();
    file
}

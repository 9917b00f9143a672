//! DOS partition tables: four entries in the first sector, and a chain of further tables for logical partitions.
//!
//! There is no standard. What is read here, and how partitions are numbered, is what Linux does (block/partitions/msdos.c).

use std::collections::HashSet;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use mbrman::{MBRHeader, MBRPartitionEntry};

use super::table::{Slot, file_size};

/// All tables count in these, but those of disks with larger sectors, which are given up as too rare.
const SECTOR: u64 = 512;

/// The type of an entry that protects a GUID table, or stands beside its copies in a hybrid (UEFI specification 2.10,
/// table 5.4).
const PROTECTIVE: u8 = 0xee;

/// Logical partitions that are looked for, at most: the chain of their tables may be long, or endless.
const MAX_LOGICAL: usize = 256;

/// Where the flags of the four entries stand that say from which one to boot.
const BOOT_FLAGS: [usize; 4] = [446, 462, 478, 494];

/// The table in the sector that starts at byte `at`.
fn read(file: &File, at: u64) -> Option<MBRHeader> {
    let mut sector = [0; SECTOR as usize];
    file.read_exact_at(&mut sector, at).ok()?;
    if at > 0 {
        // Boot flags tell a table from a file system's boot sector, but nobody looks at those of logical partitions.
        for flag in BOOT_FLAGS {
            sector[flag] = 0;
        }
    }
    // Of the crate only what parses one sector is used: it adds sector numbers without a look at overflow, and follows
    // a chain as long as that is.
    MBRHeader::read_from(&mut Cursor::new(sector)).ok()
}

/// Linux does not mind a type of 0.
fn is_used(entry: &MBRPartitionEntry) -> bool {
    entry.sectors > 0
}

/// Whether the first sector holds a table, and not just the signature that boot sectors of file systems have too.
pub(super) fn present(file: &File) -> bool {
    let Ok(size) = file_size(file) else { return false };
    let fits =
        |entry: &MBRPartitionEntry| entry.starting_lba > 0 && u64::from(entry.starting_lba) * SECTOR < size;
    read(file, 0).is_some_and(|table| {
        let mut used = table.iter().map(|(_, entry)| entry).filter(|entry| is_used(entry)).peekable();
        used.peek().is_some() && used.all(fits)
    })
}

/// Whether the first sector says that the disk has a GUID table.
pub(super) fn is_protective(file: &File) -> bool {
    read(file, 0).is_some_and(|table| table.iter().any(|(_, entry)| entry.sys == PROTECTIVE))
}

/// All partitions of a disk of `size` bytes that can hold something, or why there are none to be had, in a clause.
pub(super) fn list(file: &File, size: u64) -> Result<Vec<Slot>, String> {
    let table = read(file, 0).ok_or("there is none")?;
    let signature = u32::from_le_bytes(table.disk_signature);
    let slot = |number: u32, first: u64, entry: &MBRPartitionEntry| Slot {
        number,
        name: String::new(),
        id: format!("{signature:08x}-{number:02x}"),
        kind: None,
        start: first * SECTOR,
        length: u64::from(entry.sectors) * SECTOR,
        fault: None,
    };
    let mut slots = Vec::new();
    let mut logical = Vec::new();
    for (number, entry) in (1..).zip(table.iter().map(|(_, entry)| entry)) {
        if !is_used(entry) {
            continue;
        }
        if entry.sys == PROTECTIVE {
            return Err("it protects a GUID table that is not there".to_owned());
        }
        if entry.is_extended() {
            logical.extend(chain(file, entry, size / SECTOR));
        } else {
            slots.push(slot(number, entry.starting_lba.into(), entry));
        }
    }
    slots.extend((5..).zip(&logical).map(|(number, (first, entry))| slot(number, *first, entry)));
    Ok(slots)
}

/// The logical partitions of an extended partition: first sector and entry. Each table of the chain counts what it holds from
/// its own place, and the next table from the extended partition's. Where the chain makes no sense any more, it ends.
fn chain(file: &File, extended: &MBRPartitionEntry, sectors: u64) -> Vec<(u64, MBRPartitionEntry)> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let whole =
        u64::from(extended.starting_lba)..u64::from(extended.starting_lba) + u64::from(extended.sectors);
    let (mut at, mut length) = (whole.start, u64::from(extended.sectors));
    while at < sectors && found.len() < MAX_LOGICAL && seen.len() < MAX_LOGICAL && seen.insert(at) {
        let Some(table) = read(file, at * SECTOR) else { break };
        let mut next = None;
        for (number, entry) in table.iter().filter(|(_, entry)| is_used(entry)) {
            let (offset, size) = (u64::from(entry.starting_lba), u64::from(entry.sectors));
            let first = at + offset;
            // The last two entries are not meant to be used, and what some tools leave there is no partition.
            let stray =
                number > 2 && (offset + size > length || first < whole.start || first + size > whole.end);
            if entry.is_extended() {
                next.get_or_insert((whole.start + offset, size));
            } else if !stray {
                found.push((first, entry.clone()));
            }
        }
        let Some(link) = next else { break };
        (at, length) = link;
    }
    found
}

//! Finds a partition in a GUID partition table (UEFI specification 2.10, section 5.3).

use std::fs::File;
use std::os::unix::fs::FileExt;

use dumpcore::format::BLOCK_SIZE;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use crate::Error;

/// Where a partition lies on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its number in the table, from 1.
    pub number: u32,
    /// Its name in the table; may be empty.
    pub name: String,
    /// Its own GUID.
    pub guid: uuid::Uuid,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The size of the sectors in which the table counts, told by where its header stands; `None` without a table.
fn sector_size(file: &File) -> Option<LogicalBlockSize> {
    [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096].into_iter().find(|size| {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, size.as_u64()).is_ok() && magic == *b"EFI PART"
    })
}

/// Whether a partition table's header stands where one belongs.
pub(super) fn present(file: &File) -> bool {
    sector_size(file).is_some()
}

/// Entries that a table may have; 128 are usual.
const MAX_ENTRIES: u32 = 4096;

/// Whether the headers at both ends, where there are any, speak of a table as the `gpt` crate can read it: it panics
/// over entries of another size, and reads as many as it is told to.
fn headers_are_sane(file: &File, sector: u64, size: u64) -> bool {
    // Of a size that is not a multiple of sectors the crate looks for the backup at the multiple below.
    let last = size.saturating_sub(sector) / sector * sector;
    [sector, last].into_iter().all(|at| {
        let mut header = [0; 92];
        if file.read_exact_at(&mut header, at).is_err() || !header.starts_with(b"EFI PART") {
            return true;
        }
        // NumberOfPartitionEntries and SizeOfPartitionEntry (UEFI specification 2.10, table 5.5).
        let [.., count, size, _] = header.as_chunks::<4>().0 else { return false };
        u32::from_le_bytes(*count) <= MAX_ENTRIES && u32::from_le_bytes(*size) == 128
    })
}

/// All partitions of the disk or image in `file`.
fn list(file: &File, target: &str) -> Result<Vec<Slot>, Error> {
    let bad = |why: String| Error::PartitionTable { target: target.to_owned(), why };
    let sector = sector_size(file).ok_or_else(|| bad("there is none".to_owned()))?;
    let size = file_size(file).map_err(|error| bad(error.to_string()))?;
    if !headers_are_sane(file, sector.as_u64(), size) {
        return Err(bad("its header speaks of entries as no tool makes them".to_owned()));
    }
    let disk = GptConfig::new()
        .writable(false)
        .logical_block_size(sector)
        .open_from_device(file)
        .map_err(|error| bad(one_line(&error.to_string())))?;
    let mut slots = Vec::new();
    for (number, entry) in disk.partitions() {
        if !entry.is_used() {
            continue;
        }
        let sectors = entry.last_lba.checked_sub(entry.first_lba).and_then(|n| n.checked_add(1));
        let length = sectors.and_then(|n| n.checked_mul(sector.as_u64()));
        let start = entry.first_lba.checked_mul(sector.as_u64());
        let (Some(start), Some(length)) = (start, length) else {
            return Err(bad(format!("partition {number} has impossible bounds")));
        };
        let header = disk.header();
        if entry.first_lba < header.first_usable || entry.last_lba > header.last_usable {
            return Err(bad(format!("partition {number} lies over the table itself")));
        }
        if start.checked_add(length).is_none_or(|end| end > size) {
            return Err(bad(format!(
                "partition {number} ends at byte {}, behind the end of the disk at {size}",
                u128::from(start) + u128::from(length)
            )));
        }
        slots.push(Slot { number: *number, name: entry.name.clone(), guid: entry.part_guid, start, length });
    }
    Ok(slots)
}

/// Size in bytes of a file or a block device.
pub(super) fn file_size(mut file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(0))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The partitions of a table in a few words, for a message.
fn describe(slots: &[Slot]) -> String {
    if slots.is_empty() {
        return "none".to_owned();
    }
    let names = slots.iter().map(|slot| {
        if slot.name.is_empty() {
            slot.number.to_string()
        } else {
            format!("{} \"{}\"", slot.number, slot.name.escape_debug())
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The partition that `wanted` names: by number, GUID or name.
///
/// # Errors
/// Without a table, without such a partition, with several of that name, or if the partition does not start on a
/// multiple of 4096 bytes.
pub fn find(file: &File, target: &str, wanted: &str) -> Result<Slot, Error> {
    let slots = list(file, target)?;
    let guid = wanted.parse::<uuid::Uuid>().ok();
    let number = wanted.parse::<u32>().ok();
    let hits: Vec<&Slot> = match (number, guid) {
        (Some(number), _) => slots.iter().filter(|slot| slot.number == number).collect(),
        (None, Some(guid)) => slots.iter().filter(|slot| slot.guid == guid).collect(),
        (None, None) => slots.iter().filter(|slot| slot.name == wanted).collect(),
    };
    let slot = match hits.as_slice() {
        [slot] => (*slot).clone(),
        hits => {
            return Err(Error::NoSuchPartition {
                target: target.to_owned(),
                wanted: wanted.escape_debug().to_string(),
                hits: hits.len(),
                present: describe(&slots),
            });
        }
    };
    if slot.start % BLOCK_SIZE as u64 != 0 {
        return Err(Error::Unaligned { target: format!("{target}, partition {wanted}"), start: slot.start });
    }
    Ok(slot)
}

/// The error for a whole disk given without saying which partition.
pub(super) fn partition_missing(file: &File, target: &str) -> Error {
    match list(file, target) {
        Ok(slots) => Error::WhichPartition { target: target.to_owned(), present: describe(&slots) },
        Err(error) => error,
    }
}

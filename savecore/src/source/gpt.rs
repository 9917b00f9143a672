//! GUID partition tables (UEFI specification 2.10, section 5.3).

use std::fs::File;
use std::os::unix::fs::FileExt;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use super::dos;
use super::table::{Slot, file_size};

const MAGIC: &[u8; 8] = b"EFI PART";

/// The size of the sectors in which the table counts, told by where its header stands; `None` without a table. The header
/// at the end of the disk counts where the DOS table says that this is a disk with a GUID table.
fn sector_size(file: &File) -> Option<LogicalBlockSize> {
    let sizes = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];
    let header_at = |at: u64| {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, at).is_ok() && magic == *MAGIC
    };
    sizes.into_iter().find(|sector| header_at(sector.as_u64())).or_else(|| {
        let size = file_size(file).ok().filter(|_| dos::is_protective(file))?;
        sizes.into_iter().find(|sector| header_at(backup(size, sector.as_u64())))
    })
}

/// Where the second header stands on a disk of `size` bytes. Of a size that is not a multiple of sectors the `gpt` crate
/// looks for it at the multiple below.
fn backup(size: u64, sector: u64) -> u64 {
    size.saturating_sub(sector) / sector * sector
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
    [sector, backup(size, sector)].into_iter().all(|at| {
        let mut header = [0; 92];
        if file.read_exact_at(&mut header, at).is_err() || !header.starts_with(MAGIC) {
            return true;
        }
        // NumberOfPartitionEntries and SizeOfPartitionEntry (UEFI specification 2.10, table 5.5).
        let [.., count, size, _] = header.as_chunks::<4>().0 else { return false };
        u32::from_le_bytes(*count) <= MAX_ENTRIES && u32::from_le_bytes(*size) == 128
    })
}

/// All partitions of a disk of `size` bytes, or why there are none to be had, in a clause.
pub(super) fn list(file: &File, size: u64) -> Result<Vec<Slot>, String> {
    let sector = sector_size(file).ok_or("there is none")?;
    if !headers_are_sane(file, sector.as_u64(), size) {
        return Err("its header speaks of entries as no tool makes them".to_owned());
    }
    let disk = GptConfig::new()
        .writable(false)
        .logical_block_size(sector)
        .open_from_device(file)
        .map_err(|error| error.to_string())?;
    let header = disk.header();
    let mut slots = Vec::new();
    for (number, entry) in disk.partitions().iter().filter(|(_, entry)| entry.is_used()) {
        let sectors = entry.last_lba.checked_sub(entry.first_lba).and_then(|n| n.checked_add(1));
        let length = sectors.and_then(|n| n.checked_mul(sector.as_u64()));
        let start = entry.first_lba.checked_mul(sector.as_u64());
        let (Some(start), Some(length)) = (start, length) else {
            return Err(format!("partition {number} has impossible bounds"));
        };
        let over_table = entry.first_lba < header.first_usable || entry.last_lba > header.last_usable;
        slots.push(Slot {
            number: *number,
            name: entry.name.clone(),
            id: entry.part_guid.to_string(),
            kind: Some(entry.part_type_guid.guid),
            start,
            length,
            fault: over_table.then(|| "lies over the table itself".to_owned()),
        });
    }
    Ok(slots)
}

//! The partitions of a disk or its image, whichever kind of table says where they lie.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use dumpcore::format::frame::Malformed;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};

use super::{dos, gpt};
use crate::Error;

/// Where a partition lies on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its number, from 1, as Linux counts: logical partitions of a DOS table from 5.
    pub number: u32,
    /// Its name in the table; empty if it has none.
    pub name: String,
    /// Its identity, as Linux writes PARTUUID: the partition's GUID, or a DOS disk's signature and the number.
    pub id: String,
    /// Its type in a GUID table; `None` in a DOS table.
    pub kind: Option<uuid::Uuid>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Why it cannot be used, in a clause.
    pub fault: Option<String>,
}

impl Slot {
    /// First byte behind it; more than any disk has where a hostile table says so.
    fn end(&self) -> u128 {
        u128::from(self.start) + u128::from(self.length)
    }
}

/// Whether the first block holds a partition's own label, so that what looks like a table is none.
fn is_labelled(file: &File) -> bool {
    let mut block: Block = [0; BLOCK_SIZE];
    file.read_exact_at(&mut block, 0).is_ok()
        && matches!(Label::parse(&block), Ok(_) | Err(Malformed::Version { .. }))
}

/// Whether this is a disk or its image, with a partition table.
pub(super) fn present(file: &File) -> bool {
    !is_labelled(file) && (gpt::present(file) || dos::present(file))
}

/// All partitions of the disk or image in `file`, in the order of the table. Those that lie over another or reach beyond
/// the end of the disk are there with a fault. A GUID table counts where there is one: the DOS table in front of it protects
/// it, or is a hybrid that shows a part of it to old systems.
///
/// # Errors
/// Without a table, or if it makes no sense.
pub(super) fn list(file: &File, target: &str) -> Result<Vec<Slot>, Error> {
    let size = file_size(file).map_err(|error| bad(target, &error.to_string()))?;
    let mut slots = if gpt::present(file) { gpt::list(file, size) } else { dos::list(file, size) }
        .map_err(|why| bad(target, &why))?;
    for index in 0..slots.len() {
        let slot = &slots[index];
        let over = slots.iter().enumerate().find(|(other, at)| {
            let apart = slot.end() <= u128::from(at.start) || at.end() <= u128::from(slot.start);
            *other != index && !apart
        });
        let fault = if slot.length == 0 {
            Some("is empty".to_owned())
        } else if slot.end() > u128::from(size) {
            Some(format!("ends at byte {}, behind the end of the disk at {size}", slot.end()))
        } else {
            over.map(|(_, at)| format!("lies over partition {}", at.number))
        };
        if slots[index].fault.is_none() {
            slots[index].fault = fault;
        }
    }
    Ok(slots)
}

fn bad(target: &str, why: &str) -> Error {
    Error::PartitionTable {
        target: target.to_owned(),
        why: why.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Size in bytes of a file or a block device.
pub(super) fn file_size(mut file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let metadata = file.metadata()?;
    // A file's position may be shared with whoever gave it to us as standard input.
    if metadata.is_file() { Ok(metadata.len()) } else { file.seek(SeekFrom::End(0)) }
}

/// Partitions in a few words, for a message.
fn describe<'s>(slots: impl IntoIterator<Item = &'s Slot>) -> String {
    let names = slots.into_iter().map(|slot| match slot.name.as_str() {
        "" => slot.number.to_string(),
        name => format!("{} \"{}\"", slot.number, name.escape_debug()),
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether the name, GUID or number `wanted` means this partition. Digits are a number, never a name.
fn is_meant(slot: &Slot, wanted: &str) -> bool {
    if let Ok(number) = wanted.parse::<u32>() {
        return slot.number == number;
    }
    let id = wanted.parse::<uuid::Uuid>().map_or_else(|_| wanted.to_lowercase(), |guid| guid.to_string());
    slot.id == id || (!wanted.is_empty() && slot.name == wanted)
}

/// The partition that `wanted` names: by number, GUID (of a DOS table: the disk's signature and the number, as in
/// `5f0e8a3c-02`) or name.
///
/// # Errors
/// Without a table, without such a partition, with several of that name, or if the partition cannot be used: it does not
/// start on a multiple of 4096 bytes, lies over another, or reaches beyond the end of the disk.
pub fn find(file: &File, target: &str, wanted: &str) -> Result<Slot, Error> {
    let slots = list(file, target)?;
    let hits: Vec<&Slot> = slots.iter().filter(|slot| is_meant(slot, wanted)).collect();
    let [slot] = hits.as_slice() else {
        return Err(Error::NoSuchPartition {
            target: target.to_owned(),
            wanted: wanted.escape_debug().to_string(),
            hits: hits.len(),
            present: describe(&slots),
        });
    };
    if let Some(fault) = &slot.fault {
        return Err(bad(target, &format!("partition {} {fault}", slot.number)));
    }
    if !slot.start.is_multiple_of(BLOCK_SIZE as u64) {
        let target = format!("{target}, partition {}", wanted.escape_debug());
        return Err(Error::Unaligned { target, start: slot.start });
    }
    Ok((*slot).clone())
}

/// The partitions of a disk that can be used and whose first block holds our label.
///
/// # Errors
/// As [`list`].
pub(super) fn labelled(file: &File, target: &str) -> Result<Vec<(Slot, Box<Label>)>, Error> {
    let usable = |slot: &Slot| slot.fault.is_none() && slot.start.is_multiple_of(BLOCK_SIZE as u64);
    let slots = list(file, target)?.into_iter().filter(usable);
    Ok(slots.filter_map(|slot| label_at(file, slot.start).map(|label| (slot, label))).collect())
}

/// The label in the block that starts at byte `start`, if it is whole and of this version.
fn label_at(file: &File, start: u64) -> Option<Box<Label>> {
    let mut block: Block = [0; BLOCK_SIZE];
    file.read_exact_at(&mut block, start).ok()?;
    Label::parse(&block).ok().map(|label| Box::new(label.clone()))
}

/// The only dump partition of a disk.
///
/// # Errors
/// If there is none, or if there are several: then they are listed.
pub(super) fn only_labelled(file: &File, target: &str) -> Result<Slot, Error> {
    let mut slots: Vec<Slot> = labelled(file, target)?.into_iter().map(|(slot, _)| slot).collect();
    match slots.len() {
        1 => Ok(slots.remove(0)),
        0 => Err(which(file, target)),
        _ => Err(Error::SeveralDumpPartitions { target: target.to_owned(), present: describe(&slots) }),
    }
}

/// The error for a whole disk given without saying which partition.
pub(super) fn which(file: &File, target: &str) -> Error {
    match list(file, target) {
        Ok(slots) => Error::WhichPartition { target: target.to_owned(), present: describe(&slots) },
        Err(error) => error,
    }
}

//! The partitions of a disk or its image, from its table. `dumpcore::table` reads it, for kernels too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::table::{Fault, Fitness, Id, Kind, NoTable, Piece, ReadSectors, Sector, SlotKind, Table};

/// A partition's place on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its number, from 1, as Linux counts: logical partitions of a DOS table from 5.
    pub number: u32,
    /// Its name in the table; empty if it has none.
    pub name: String,
    /// Its identity in Linux's PARTUUID format: the partition's GUID, or a DOS disk's signature and the
    /// number. Empty if only the kernel knows the partition.
    pub id: String,
    /// Its type in the table; `None` if only the kernel knows the partition.
    pub kind: Option<SlotKind>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Why it is unusable, in a clause.
    pub fault: Option<String>,
}

impl Slot {
    /// Its type in a GUID table.
    pub fn type_guid(&self) -> Option<uuid::Uuid> {
        match self.kind {
            Some(SlotKind::Guid(bytes)) => Some(uuid::Uuid::from_bytes(bytes)),
            Some(SlotKind::Dos(_)) | None => None,
        }
    }

    /// First byte after it; a hostile table may exceed any disk.
    pub(super) fn end(&self) -> u128 {
        u128::from(self.start) + u128::from(self.length)
    }

    /// Whether they overlap.
    pub(super) fn overlaps(&self, other: &Slot) -> bool {
        u128::from(self.start) < other.end() && u128::from(other.start) < self.end()
    }

    /// Whether they have exactly the same place.
    pub(super) fn is_at(&self, other: &Slot) -> bool {
        (self.start, self.length) == (other.start, other.length)
    }

    /// Whether `wanted` is the name, GUID or number of this partition. Digits are a number, never a name.
    pub(super) fn is_meant(&self, wanted: &str) -> bool {
        if let Ok(number) = wanted.parse::<u32>() {
            return self.number == number;
        }
        if wanted.is_empty() {
            return false;
        }
        let guid = wanted.parse::<uuid::Uuid>();
        self.id == guid.map_or_else(|_| wanted.to_lowercase(), |guid| guid.to_string()) || self.name == wanted
    }
}

/// A disk whose table is read.
pub(super) struct Disk<'f> {
    file: &'f File,
    size: u64,
}

impl Disk<'_> {
    pub(super) fn new(file: &File) -> io::Result<Disk<'_>> {
        Ok(Disk { file, size: file_size(file)? })
    }
}

impl ReadSectors for Disk<'_> {
    type Error = io::Error;

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, at: u64, into: &mut Sector) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }
}

/// A table, read with one sector size.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// `None` if only the kernel knows it.
    pub(super) kind: Option<Kind>,
    /// Sector size in bytes, the table's unit.
    pub(super) sector_size: u32,
    /// How well it fits the disk.
    pub(super) fitness: Fitness,
    /// Its partitions, in order. Overlapping ones, and those beyond the end of the disk, are included with a
    /// fault.
    pub(super) slots: Vec<Slot>,
    /// The numbers of containers whose nested partitions are not read.
    pub(super) nests: Vec<u32>,
}

/// Reads a whole table.
///
/// # Errors
/// What cannot be read.
pub(super) fn layout(disk: &mut Disk<'_>, table: &Table) -> Result<Layout, NoTable<io::Error>> {
    let mut all = Vec::new();
    let mut pieces = table.pieces();
    while let Some(piece) = pieces.next(disk)? {
        all.push(piece);
    }
    let mut layout = Layout {
        kind: Some(table.kind()),
        sector_size: table.sector_size(),
        fitness: table.fitness(disk)?,
        slots: Vec::new(),
        nests: Vec::new(),
    };
    for piece in &all {
        let Piece::Partition(slot) = piece else { continue };
        let beside = || all.iter().find_map(|other| slot.fault_beside(other));
        let fault = slot.fault(disk.size).or_else(beside).map(|fault| match fault {
            Fault::Empty => "is empty".to_owned(),
            Fault::BeyondDisk => {
                format!("ends at byte {}, after the end of the disk at {}", slot.place.end(), disk.size)
            }
            Fault::OverTable => "overlaps the table itself".to_owned(),
            Fault::Over(number) => format!("overlaps partition {number}"),
        });
        if slot.may_hold_others() {
            layout.nests.push(slot.number);
        }
        layout.slots.push(Slot {
            number: slot.number,
            name: String::from_utf16_lossy(&slot.name.units().collect::<Vec<u16>>()),
            id: match slot.id {
                Id::Guid(guid) => uuid::Uuid::from_bytes(guid).to_string(),
                Id::Dos { signature, number } => format!("{signature:08x}-{number:02x}"),
            },
            kind: Some(slot.kind),
            start: slot.place.start,
            length: slot.place.length,
            fault,
        });
    }
    // Logical partitions come last, whichever entry has their chain.
    layout.slots.sort_by_key(|slot| slot.number);
    Ok(layout)
}

/// Why there is no table, in a clause.
pub(super) fn clause(why: &NoTable<io::Error>) -> String {
    match why {
        NoTable::Unreadable { at, error } => format!("byte {at} cannot be read: {error}"),
        NoTable::Absent => "there is none".to_owned(),
        NoTable::Gone => "it protects a GUID table that does not exist".to_owned(),
        NoTable::Bad { what, value } => format!("the GUID table has {what} of {value:#x}"),
    }
}

/// Size in bytes of a file or a block device.
pub(super) fn file_size(mut file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let metadata = file.metadata()?;
    // A file's position may be shared with the process that passed it as standard input.
    if metadata.is_file() { Ok(metadata.len()) } else { file.seek(SeekFrom::End(0)) }
}

/// Describes partitions in a few words, for a message.
pub(super) fn describe<'s>(slots: impl IntoIterator<Item = &'s Slot>) -> String {
    let names = slots.into_iter().map(|slot| match slot.name.as_str() {
        "" => slot.number.to_string(),
        name => format!("{} \"{}\"", slot.number, name.escape_debug()),
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The label in the block at byte `start`, if it is valid and of this version.
pub(super) fn label_at(file: &File, start: u64) -> Option<Box<Label>> {
    let mut block: Block = [0; BLOCK_SIZE];
    file.read_exact_at(&mut block, start).ok()?;
    Label::parse(&block).ok().map(|label| Box::new(label.clone()))
}

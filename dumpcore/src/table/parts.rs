//! What every kind of table speaks of: pieces of a disk, partitions and their identities; and how a disk is read.

use core::error::Error;
use core::fmt;

/// Bytes that are read at once.
pub const SECTOR_SIZE: usize = 512;

/// The piece in which a disk is read here, whatever its own sectors are.
pub type Sector = [u8; SECTOR_SIZE];

/// Logical sectors that disks have, in bytes. A device may have others; an image is tried with these.
pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Linux gives no partition a higher number.
pub const MAX_NUMBER: u32 = 255;

/// The number of the first logical partition.
pub(super) const FIRST_LOGICAL: u32 = 5;

/// UTF-16 units in a partition's name.
pub(super) const NAME_UNITS: usize = 36;

/// Reads a disk or its image.
pub trait ReadSectors {
    /// Why something could not be read.
    type Error;

    /// Bytes on the disk.
    fn size(&self) -> u64;

    /// Reads 512 bytes from byte `at` on, which is a multiple of 512. They lie on the disk.
    ///
    /// # Errors
    /// Why they could not be read.
    fn read(&mut self, at: u64, into: &mut Sector) -> Result<(), Self::Error>;
}

/// Reads 512 bytes; `None` if they are not on the disk.
pub(super) fn read<D: ReadSectors>(disk: &mut D, at: u64) -> Result<Option<Sector>, NoTable<D::Error>> {
    if at.checked_add(SECTOR_SIZE as u64).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let mut sector = [0; SECTOR_SIZE];
    disk.read(at, &mut sector).map_err(|error| NoTable::Unreadable { at, error })?;
    Ok(Some(sector))
}

/// How far a table is what Linux takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trust {
    /// The disk has been cut, and the table says that more of it could be used.
    Cut,
    /// The copy at the end of the disk is taken, since the one at its beginning is damaged.
    Backup,
    /// Linux takes it.
    Whole,
}

/// Why there is no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoTable<E> {
    /// The disk could not be read.
    Unreadable {
        /// At which byte.
        at: u64,
        /// Why.
        error: E,
    },
    /// There is none.
    Absent,
    /// The first sector says that the disk has a GUID table, but it has none, or says so in a way that no table has.
    Gone,
    /// A GUID table says something that no table says.
    Bad {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
}

impl<E: fmt::Display> fmt::Display for NoTable<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoTable::Unreadable { at, error } => {
                write!(formatter, "the disk could not be read at byte {at}: {error}")
            }
            NoTable::Absent => formatter.write_str("the disk has no partition table"),
            NoTable::Gone => formatter
                .write_str("the disk's first sector protects a GUID partition table that is not there"),
            NoTable::Bad { what, value } => {
                write!(formatter, "the partition table has {what} of {value:#x}")
            }
        }
    }
}

impl<E: Error + 'static> Error for NoTable<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            NoTable::Unreadable { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Where something lies on the disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The first byte.
    pub start: u64,
    /// How many there are.
    pub length: u64,
}

impl Place {
    pub(super) fn of_sectors(first: u64, count: u64, sector_size: u64) -> Place {
        // What overflows lies beyond the end of every disk.
        Place { start: first.saturating_mul(sector_size), length: count.saturating_mul(sector_size) }
    }

    /// The first byte after it; more than any disk has where a hostile table says so.
    pub fn end(&self) -> u128 {
        u128::from(self.start).saturating_add(self.length.into())
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(&self, other: &Place) -> bool {
        self.length > 0
            && other.length > 0
            && u128::from(self.start) < other.end()
            && u128::from(other.start) < self.end()
    }
}

/// What a table speaks of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// A part of the table itself.
    Table(Place),
    /// A DOS table's extended partition, in which logical ones lie.
    Extended {
        /// Its number.
        number: u32,
        /// Where it is.
        place: Place,
    },
    /// A partition.
    Partition(Slot),
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its number, from 1, as Linux counts: logical partitions of a DOS table from 5.
    pub number: u32,
    /// Its name in a GUID table.
    pub name: Name,
    /// Its identity.
    pub id: Id,
    /// What the table says that it is for.
    pub kind: SlotKind,
    /// Where it is.
    pub place: Place,
}

/// What keeps a partition from being used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It has no bytes, or ends before it begins.
    Empty,
    /// It ends beyond the end of the disk.
    BeyondDisk,
    /// A part of the table lies in it.
    OverTable,
    /// It has bytes in common with the partition of this number.
    Over(u32),
}

impl Slot {
    /// What of its own bounds keeps it from being used on a disk of `size` bytes.
    pub fn fault(&self, size: u64) -> Option<Fault> {
        if self.place.length == 0 {
            Some(Fault::Empty)
        } else if self.place.end() > size.into() {
            Some(Fault::BeyondDisk)
        } else {
            None
        }
    }

    /// What keeps it from being used beside another piece of its table.
    pub fn fault_beside(&self, piece: &Piece) -> Option<Fault> {
        match piece {
            Piece::Table(place) => self.place.overlaps(place).then_some(Fault::OverTable),
            Piece::Extended { number, place } => {
                let is_inside = self.number >= FIRST_LOGICAL;
                (!is_inside && self.place.overlaps(place)).then_some(Fault::Over(*number))
            }
            Piece::Partition(other) => {
                let over = self.number != other.number && self.place.overlaps(&other.place);
                over.then_some(Fault::Over(other.number))
            }
        }
    }

    /// Whether partitions may be nested in it, which are not read here: it is for a system that has tables of its own.
    pub fn may_hold_others(&self) -> bool {
        /// FreeBSD, OpenBSD, NetBSD, Solaris, Minix, UnixWare. The older Solaris has the number of Linux's swap space.
        const WITH_OTHERS: [u8; 6] = [0xa5, 0xa6, 0xa9, 0xbf, 0x81, 0x63];
        matches!(self.kind, SlotKind::Dos(kind) if WITH_OTHERS.contains(&kind))
    }
}

/// A partition's identity, as Linux writes PARTUUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Id {
    /// Its own GUID, as it is printed: the first three fields are stored little-endian, here they are not.
    Guid([u8; 16]),
    /// The signature of a DOS disk, and the partition's number.
    Dos {
        /// The disk's signature.
        signature: u32,
        /// The number.
        number: u32,
    },
}

/// What a partition is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// The type's GUID, as it is printed.
    Guid([u8; 16]),
    /// The type's number.
    Dos(u8),
}

/// A partition's name, in UTF-16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub(super) [u16; NAME_UNITS]);

impl Name {
    pub(super) const NONE: Name = Name([0; NAME_UNITS]);

    /// Its units, as far as it goes.
    pub fn units(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied().take_while(|unit| *unit != 0)
    }

    /// Whether it is this name. Nothing has no name.
    pub fn is(&self, name: &str) -> bool {
        !name.is_empty() && self.units().eq(name.encode_utf16())
    }
}

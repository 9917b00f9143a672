//! The parts common to all kinds of tables: pieces of a disk, partitions and their identities, and how a disk
//! is read.

/// Bytes per read.
pub const SECTOR_SIZE: usize = 512;

/// The unit in which a disk is read here, whatever its own sector size.
pub type Sector = [u8; SECTOR_SIZE];

/// Usual logical sector sizes in bytes. A device may report another one; an image is tried with these.
pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// The highest partition number in Linux.
pub const MAX_NUMBER: u32 = 255;

/// The number of the first logical partition.
pub(super) const FIRST_LOGICAL: u32 = 5;

/// Maximum length of a partition's name in UTF-16 units.
pub(super) const NAME_UNITS: usize = 36;

/// Reads a disk or its image.
pub trait ReadSectors {
    /// Why a read failed.
    type Error;

    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Reads 512 bytes at byte `at`, a multiple of 512. They are on the disk.
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

/// How far Linux would accept a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trust {
    /// The disk has been truncated: according to the table, it is larger.
    Cut,
    /// The copy at the end of the disk is used, because the one at the beginning is damaged.
    Backup,
    /// Linux accepts it.
    Whole,
}

/// Why there is no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTable<E> {
    /// The disk could not be read.
    Unreadable {
        /// The byte offset.
        at: u64,
        /// Why.
        error: E,
    },
    /// There is no table.
    Absent,
    /// The first sector announces a GUID table, but there is none, or the announcement itself is invalid.
    Gone,
    /// A GUID table has a field with an impossible value.
    Bad {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// A place on the disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Place {
    pub(super) fn of_sectors(first: u64, count: u64, sector_size: u64) -> Place {
        // A place that overflows is beyond the end of every disk.
        Place { start: first.saturating_mul(sector_size), length: count.saturating_mul(sector_size) }
    }

    /// The first byte after it; a hostile table may put it beyond the end of any disk.
    pub fn end(&self) -> u128 {
        u128::from(self.start).saturating_add(self.length.into())
    }

    /// Whether both have a byte in common.
    pub fn overlaps(&self, other: &Place) -> bool {
        self.length > 0
            && other.length > 0
            && u128::from(self.start) < other.end()
            && u128::from(other.start) < self.end()
    }
}

/// A piece described by a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// A part of the table itself.
    Table(Place),
    /// A DOS table's extended partition, which contains the logical ones.
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
    /// Its number, from 1, as in Linux: logical partitions of a DOS table start at 5.
    pub number: u32,
    /// Its name in a GUID table.
    pub name: Name,
    /// Its identity.
    pub id: Id,
    /// Its purpose according to the table.
    pub kind: SlotKind,
    /// Where it is.
    pub place: Place,
}

/// Why a partition cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is empty, or ends before it begins.
    Empty,
    /// It ends beyond the end of the disk.
    BeyondDisk,
    /// It overlaps a part of the table.
    OverTable,
    /// It overlaps the partition with this number.
    Over(u32),
}

impl Slot {
    /// What is wrong with its own bounds on a disk of `size` bytes.
    pub fn fault(&self, size: u64) -> Option<Fault> {
        if self.place.length == 0 {
            Some(Fault::Empty)
        } else if self.place.end() > size.into() {
            Some(Fault::BeyondDisk)
        } else {
            None
        }
    }

    /// Its conflict with another piece of the table, if there is one.
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

    /// Whether it may contain nested partitions, which are not read here: it belongs to a system with tables
    /// of its own.
    pub fn may_hold_others(&self) -> bool {
        /// FreeBSD, OpenBSD, NetBSD, Solaris, Minix, UnixWare. Old Solaris has the same number as Linux swap.
        const WITH_OTHERS: [u8; 6] = [0xa5, 0xa6, 0xa9, 0xbf, 0x81, 0x63];
        matches!(self.kind, SlotKind::Dos(kind) if WITH_OTHERS.contains(&kind))
    }
}

/// A partition's identity, as Linux writes PARTUUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Id {
    /// Its own GUID in printed order (on disk the first three fields are little-endian).
    Guid([u8; 16]),
    /// The signature of a DOS disk, and the partition's number.
    Dos {
        /// The disk's signature.
        signature: u32,
        /// The number.
        number: u32,
    },
}

/// The type of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// The type's GUID, in printed order.
    Guid([u8; 16]),
    /// The type's number.
    Dos(u8),
}

/// A partition's name, in UTF-16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub(super) [u16; NAME_UNITS]);

impl Name {
    pub(super) const NONE: Name = Name([0; NAME_UNITS]);

    /// Its units, up to the first zero.
    pub fn units(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied().take_while(|unit| *unit != 0)
    }

    /// Whether this is its name. The empty name never matches.
    pub fn is(&self, name: &str) -> bool {
        !name.is_empty() && self.units().eq(name.encode_utf16())
    }
}

//! Partition tables, read by the rules of Linux (block/partitions/efi.c and msdos.c): the one reader of them, for kernels and
//! for savecore.
//!
//! Whoever takes another table than the system does writes over other people's partitions. So the first sector decides: a GUID
//! table counts only if an entry there protects it, and everything is counted in the logical sectors of the disk.
//!
//! Two things are taken that Linux leaves alone: a GUID table whose only whole copy is the one at the end of the disk (Linux
//! wants the word `gpt` on its command line for that), and one of a disk that has been cut behind its last partition. Nobody
//! reads anything else out of such a disk, since its first sector says that only a GUID table counts.
//!
//! Partitions inside of partitions (BSD, Solaris, Minix, UnixWare) are not read.
//!
//! Nothing here allocates or can panic, and every loop has a bound that no disk can move.

mod dos;
mod gpt;

use self::dos::Dos;
use self::gpt::Gpt;

/// Bytes that are read at once.
pub const SECTOR_SIZE: usize = 512;

/// The piece in which a disk is read here, whatever its own sectors are.
pub type Sector = [u8; SECTOR_SIZE];

/// Logical sectors that disks have, in bytes. A device may have others; an image is tried with these.
pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Linux gives no partition a higher number.
pub const MAX_NUMBER: u32 = 255;

/// UTF-16 units in a partition's name.
const NAME_UNITS: usize = 36;

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
fn read<D: ReadSectors>(disk: &mut D, at: u64) -> Result<Option<Sector>, NoTable<D::Error>> {
    if at.checked_add(SECTOR_SIZE as u64).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let mut sector = [0; SECTOR_SIZE];
    disk.read(at, &mut sector).map_err(|error| NoTable::Unreadable { at, error })?;
    Ok(Some(sector))
}

/// The two kinds of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A GUID partition table (UEFI specification 2.10, section 5.3).
    Gpt,
    /// A DOS partition table, with its logical partitions.
    Dos,
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

/// A table that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    sector_size: u32,
    form: Form,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Form {
    Gpt(Gpt),
    Dos(Dos),
}

impl Table {
    /// The table that Linux takes on a disk with logical sectors of `sector_size` bytes.
    ///
    /// # Errors
    /// Why it takes none.
    pub fn read<D: ReadSectors>(disk: &mut D, sector_size: u32) -> Result<Table, NoTable<D::Error>> {
        let first = read(disk, 0)?.ok_or(NoTable::Absent)?;
        let first = Dos::new(&first).ok_or(NoTable::Absent)?;
        if first.protects() {
            // Nothing but a GUID table counts, then.
            return match Table::gpt(disk, sector_size) {
                Err(NoTable::Absent) => Err(NoTable::Gone),
                table => table,
            };
        }
        if first.has_flags() && first.mentions_gpt() {
            return Err(NoTable::Gone);
        }
        Table::with_dos(disk, sector_size, first)
    }

    /// The GUID table, whatever the first sector says.
    ///
    /// # Errors
    /// Why there is none.
    pub fn gpt<D: ReadSectors>(disk: &mut D, sector_size: u32) -> Result<Table, NoTable<D::Error>> {
        if !is_sector_size(sector_size) {
            return Err(NoTable::Absent);
        }
        Gpt::read(disk, sector_size.into()).map(|gpt| Table { sector_size, form: Form::Gpt(gpt) })
    }

    /// The DOS table, also if the first sector says that a GUID table counts.
    ///
    /// # Errors
    /// Why there is none.
    pub fn dos<D: ReadSectors>(disk: &mut D, sector_size: u32) -> Result<Table, NoTable<D::Error>> {
        let first = read(disk, 0)?.ok_or(NoTable::Absent)?;
        let first = Dos::new(&first).ok_or(NoTable::Absent)?;
        Table::with_dos(disk, sector_size, first)
    }

    fn with_dos<D: ReadSectors>(
        disk: &mut D,
        sector_size: u32,
        first: Dos,
    ) -> Result<Table, NoTable<D::Error>> {
        if !is_sector_size(sector_size)
            || !first.has_flags()
            || !first.has_partitions()
            || first.is_aix(disk)?
        {
            return Err(NoTable::Absent);
        }
        Ok(Table { sector_size, form: Form::Dos(first) })
    }

    /// What kind of table it is.
    pub fn kind(&self) -> Kind {
        match self.form {
            Form::Gpt(_) => Kind::Gpt,
            Form::Dos(_) => Kind::Dos,
        }
    }

    /// Bytes of the sectors in which it counts.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// How far it is what Linux takes.
    pub fn trust(&self) -> Trust {
        match &self.form {
            Form::Gpt(gpt) => gpt.trust(),
            Form::Dos(_) => Trust::Whole,
        }
    }

    /// All that it speaks of, from the beginning.
    pub fn pieces(&self) -> Pieces<'_> {
        let sector_size = self.sector_size.into();
        Pieces(match &self.form {
            Form::Gpt(gpt) => Walk::Gpt(gpt::Pieces::new(gpt, sector_size)),
            Form::Dos(dos) => Walk::Dos(dos::Pieces::new(dos, sector_size)),
        })
    }
}

/// How well a table fits a disk, where nobody says in which sectors it counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fitness {
    /// No partition of it lies on the disk.
    Nowhere,
    /// Some of it does, but a table of logical partitions is not where it should be.
    Broken,
    /// Some of it does: the disk may have been cut.
    InPart,
    /// All of it does, and it is what Linux takes.
    Whole,
}

impl Table {
    /// How well it fits the disk: read in other sectors than it was written in, a table mostly speaks of what is beyond
    /// the disk's end, or of tables where there are none.
    ///
    /// # Errors
    /// [`NoTable::Unreadable`].
    pub fn fitness<D: ReadSectors>(&self, disk: &mut D) -> Result<Fitness, NoTable<D::Error>> {
        let size = disk.size();
        let mut is_whole = self.trust() == Trust::Whole && size.is_multiple_of(self.sector_size.into());
        let mut is_somewhere = false;
        // A DOS table has no more extended partitions, and the first of the tables inside stands at the beginning.
        let mut chains: [Option<u64>; 4] = [None; 4];
        let mut pieces = self.pieces();
        // Each turn takes a piece, of which there is an end.
        while let Some(piece) = pieces.next(disk)? {
            match piece {
                Piece::Table(place) => {
                    for chain in chains.iter_mut().filter(|chain| **chain == Some(place.start)) {
                        *chain = None;
                    }
                }
                Piece::Extended { number, place } => {
                    is_whole &= place.end() <= size.into();
                    if let Some(chain) = chains.get_mut(number.saturating_sub(1) as usize) {
                        *chain = Some(place.start);
                    }
                }
                Piece::Partition(slot) => match (slot.fault(size), self.kind()) {
                    (None, _) => is_somewhere = true,
                    // The sums of a GUID table say that it is one.
                    (Some(_), Kind::Gpt) => {}
                    (Some(_), Kind::Dos) => is_whole = false,
                },
            }
        }
        let is_chained = chains.iter().all(Option::is_none);
        Ok(match (is_chained, is_whole, is_somewhere) {
            (true, true, _) => Fitness::Whole,
            (true, false, true) => Fitness::InPart,
            (false, _, true) => Fitness::Broken,
            (_, _, false) => Fitness::Nowhere,
        })
    }
}

/// Whether Linux has disks with such sectors.
fn is_sector_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
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
    fn of_sectors(first: u64, count: u64, sector_size: u64) -> Place {
        // What overflows lies beyond the end of every disk.
        Place { start: first.saturating_mul(sector_size), length: count.saturating_mul(sector_size) }
    }

    /// The first byte behind it; more than any disk has where a hostile table says so.
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
    /// It ends behind the end of the disk.
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
                let is_inside = self.number >= dos::FIRST_LOGICAL;
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
pub struct Name([u16; NAME_UNITS]);

impl Name {
    const NONE: Name = Name([0; NAME_UNITS]);

    /// Its units, as far as it goes.
    pub fn units(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied().take_while(|unit| *unit != 0)
    }

    /// Whether it is this name. Nothing has no name.
    pub fn is(&self, name: &str) -> bool {
        !name.is_empty() && self.units().eq(name.encode_utf16())
    }
}

/// Goes over a table's pieces.
#[derive(Clone, Debug)]
pub struct Pieces<'t>(Walk<'t>);

#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to put the larger one on, and one at a time is on the stack"
)]
enum Walk<'t> {
    Gpt(gpt::Pieces<'t>),
    Dos(dos::Pieces<'t>),
}

impl Pieces<'_> {
    /// The next one.
    ///
    /// # Errors
    /// [`NoTable::Unreadable`].
    pub fn next<D: ReadSectors>(&mut self, disk: &mut D) -> Result<Option<Piece>, NoTable<D::Error>> {
        match &mut self.0 {
            Walk::Gpt(pieces) => pieces.next(disk),
            Walk::Dos(pieces) => Ok(pieces.next(disk)),
        }
    }

    /// The next partition.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_slot<D: ReadSectors>(&mut self, disk: &mut D) -> Result<Option<Slot>, NoTable<D::Error>> {
        // Each turn takes a piece, of which there is an end.
        while let Some(piece) = self.next(disk)? {
            if let Piece::Partition(slot) = piece {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

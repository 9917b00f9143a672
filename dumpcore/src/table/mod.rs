//! Partition tables, read by the rules of Linux (block/partitions/efi.c and msdos.c): the one reader of them, for kernels and
//! for savecore.
//!
//! Whoever takes another table than the system does writes over other people's partitions. So the first sector decides: a GUID
//! table counts only if an entry there protects it, and everything is counted in the logical sectors of the disk.
//!
//! Two things are taken that Linux leaves alone: a GUID table whose only whole copy is the one at the end of the disk (Linux
//! wants the word `gpt` on its command line for that), and one of a disk that has been cut after its last partition. Nobody
//! reads anything else out of such a disk, since its first sector says that only a GUID table counts.
//!
//! Partitions inside of partitions (BSD, Solaris, Minix, UnixWare) are not read.
//!
//! Nothing here allocates or can panic, and every loop has a bound that no disk can move.

mod dos;
mod gpt;
mod parts;

use self::dos::Dos;
use self::gpt::Gpt;
use self::parts::read;

pub use self::parts::{
    Fault, Id, MAX_NUMBER, Name, NoTable, Piece, Place, ReadSectors, SECTOR_SIZE, SECTOR_SIZES, Sector, Slot,
    SlotKind, Trust,
};

/// The two kinds of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A GUID partition table (UEFI specification 2.10, section 5.3).
    Gpt,
    /// A DOS partition table, with its logical partitions.
    Dos,
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

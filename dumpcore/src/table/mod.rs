//! Partition tables, read by the rules of Linux (block/partitions/efi.c and msdos.c). Kernels and savecore
//! both use this reader.
//!
//! Choosing a different table than the system does would overwrite other people's partitions. So the first
//! sector decides: a GUID table only counts if an entry there protects it, and all numbers count the disk's
//! logical sectors.
//!
//! Two tables are accepted that Linux rejects: a GUID table whose only valid copy is at the end of the disk
//! (Linux wants `gpt` on its command line for that), and that of a disk that was truncated after its last
//! partition. No system reads such a disk differently, because its first sector says that only a GUID table
//! counts.
//!
//! Nested partitions (BSD, Solaris, Minix, UnixWare) are not read.
//!
//! Nothing here allocates or can panic, and every loop has a bound that does not depend on the disk.

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
    /// The table that Linux uses on a disk with logical sectors of `sector_size` bytes.
    ///
    /// # Errors
    /// Why there is none.
    pub fn read<D: ReadSectors>(disk: &mut D, sector_size: u32) -> Result<Table, NoTable<D::Error>> {
        let first = read(disk, 0)?.ok_or(NoTable::Absent)?;
        let first = Dos::new(&first).ok_or(NoTable::Absent)?;
        if first.protects() {
            // Only a GUID table counts.
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

    /// The DOS table, even if the first sector says that a GUID table counts.
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

    /// The kind of table.
    pub fn kind(&self) -> Kind {
        match self.form {
            Form::Gpt(_) => Kind::Gpt,
            Form::Dos(_) => Kind::Dos,
        }
    }

    /// Size in bytes of the sectors that the table counts in.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// How far Linux would accept it.
    pub fn trust(&self) -> Trust {
        match &self.form {
            Form::Gpt(gpt) => gpt.trust(),
            Form::Dos(_) => Trust::Whole,
        }
    }

    /// All its pieces, from the beginning.
    pub fn pieces(&self) -> Pieces<'_> {
        let sector_size = self.sector_size.into();
        Pieces(match &self.form {
            Form::Gpt(gpt) => Walk::Gpt(gpt::Pieces::new(gpt, sector_size)),
            Form::Dos(dos) => Walk::Dos(dos::Pieces::new(dos, sector_size)),
        })
    }
}

/// How well a table fits a disk whose sector size is unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fitness {
    /// No partition is on the disk.
    Nowhere,
    /// Some partitions are on the disk, but a table of logical partitions is not where it should be.
    Broken,
    /// Some partitions are on the disk: it may have been truncated.
    InPart,
    /// All partitions are on the disk, and Linux would accept the table.
    Whole,
}

impl Table {
    /// How well the table fits the disk: read with the wrong sector size, a table usually has partitions
    /// beyond the end of the disk, or refers to tables that do not exist.
    ///
    /// # Errors
    /// [`NoTable::Unreadable`].
    pub fn fitness<D: ReadSectors>(&self, disk: &mut D) -> Result<Fitness, NoTable<D::Error>> {
        let size = disk.size();
        let mut is_whole = self.trust() == Trust::Whole && size.is_multiple_of(self.sector_size.into());
        let mut is_somewhere = false;
        // A DOS table has at most four extended partitions, and the first table of each is at its beginning.
        let mut chains: [Option<u64>; 4] = [None; 4];
        let mut pieces = self.pieces();
        // Each turn takes a piece, and their number is limited.
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
                    // The checksums of a GUID table prove that it is one.
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

/// Whether Linux supports this sector size.
fn is_sector_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
}

/// Iterates over a table's pieces.
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
    /// The next piece.
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
        // Each turn takes a piece, and their number is limited.
        while let Some(piece) = self.next(disk)? {
            if let Piece::Partition(slot) = piece {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

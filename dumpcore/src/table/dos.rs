//! DOS partition tables: four entries in the first sector, and a chain of further tables for logical
//! partitions.
//!
//! There is no standard. Parsing and numbering follow Linux (block/partitions/msdos.c).

use super::parts::{
    FIRST_LOGICAL, Id, MAX_NUMBER, Name, NoTable, Piece, Place, ReadSectors, SECTOR_SIZE, Sector, Slot,
    SlotKind, read,
};

/// The type of the entry that protects a GUID table (UEFI specification 2.10, table 5.4).
const PROTECTIVE: u8 = 0xee;
/// Types of extended partitions: DOS, Windows 98, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Types that make a disk with an AIX magic a Linux disk nevertheless: swap, data, LVM, RAID.
const LINUX: [u8; 4] = [0x82, 0x83, 0x8e, 0xfd];
/// The most consecutive tables without a partition that Linux follows.
const MAX_EMPTY: u32 = 100;
/// The most tables of a chain that are followed and remembered, because a chain may loop.
const MAX_LINKS: usize = 256;

/// Offset of a disk's signature.
const SIGNATURE_AT: usize = 440;
const ENTRIES_AT: usize = 446;
const ENTRY_SIZE: usize = 16;
const MAGIC_AT: usize = 510;
const MAGIC: [u8; 2] = [0x55, 0xaa];

/// An entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// 0, or 0x80 if bootable.
    flag: u8,
    kind: u8,
    first: u32,
    count: u32,
}

impl Entry {
    /// The four entries of a sector; `None` without the magic number at its end.
    fn all(sector: &Sector) -> Option<[Entry; 4]> {
        if sector.get(MAGIC_AT..)? != MAGIC {
            return None;
        }
        let mut entries = [Entry::default(); 4];
        let stored = sector.get(ENTRIES_AT..MAGIC_AT)?.as_chunks::<ENTRY_SIZE>().0;
        for (entry, stored) in entries.iter_mut().zip(stored) {
            let [flag, _, _, _, kind, _, _, _, a, b, c, d, e, f, g, h] = *stored;
            let (first, count) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            *entry = Entry { flag, kind, first, count };
        }
        Some(entries)
    }

    /// Linux accepts a type of 0.
    fn is_used(&self) -> bool {
        self.count > 0
    }

    fn is_extended(&self) -> bool {
        self.is_used() && EXTENDED.contains(&self.kind)
    }
}

/// A disk's first sector, if it has a table's magic number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dos {
    signature: u32,
    entries: [Entry; 4],
    /// Whether it begins like an AIX disk.
    begins_as_aix: bool,
}

impl Dos {
    pub(super) fn new(sector: &Sector) -> Option<Dos> {
        /// "IBMA" in EBCDIC.
        const AIX: [u8; 4] = [0xc9, 0xc2, 0xd4, 0xc1];
        let entries = Entry::all(sector)?;
        let signature = sector.get(SIGNATURE_AT..)?.first_chunk().copied().map(u32::from_le_bytes)?;
        Some(Dos { signature, entries, begins_as_aix: sector.starts_with(&AIX) })
    }

    /// Whether it has a protective entry where Linux looks for it.
    pub(super) fn protects(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == PROTECTIVE && entry.first == 1)
    }

    /// Boot sectors of file systems have the same magic number, but usually other bytes in place of a table's
    /// flags.
    pub(super) fn has_flags(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.flag, 0 | 0x80))
    }

    /// Whether any entry is protective: Linux then ignores the others.
    pub(super) fn mentions_gpt(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == PROTECTIVE)
    }

    pub(super) fn has_partitions(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_used() && entry.kind != PROTECTIVE)
    }

    /// Whether this is an AIX table; AIX disks have partitions of another kind.
    pub(super) fn is_aix<D: ReadSectors>(&self, disk: &mut D) -> Result<bool, NoTable<D::Error>> {
        /// Offset of a volume group's identification.
        const VOLUMES_AT: u64 = 7 * SECTOR_SIZE as u64;
        let linux = |entry: &Entry| LINUX.contains(&entry.kind) || EXTENDED.contains(&entry.kind);
        if !self.begins_as_aix || self.entries.iter().any(linux) {
            return Ok(false);
        }
        Ok(read(disk, VOLUMES_AT)?.is_some_and(|sector| sector.starts_with(b"_LVM")))
    }
}

/// Iterates over a table's pieces: itself, its four partitions, then the chains of the extended ones.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'t> {
    table: &'t Dos,
    sector_size: u64,
    is_begun: bool,
    /// Index of the next of the four entries.
    primary: usize,
    /// Index of the next of the four entries whose chain is followed, if it has one.
    extended: usize,
    chain: Option<Chain>,
    /// The number of the next logical partition.
    number: u32,
    /// The tables of the chain, by their sector in the extended partition.
    seen: [u32; MAX_LINKS],
    links: usize,
}

/// The position in an extended partition.
#[derive(Clone, Debug)]
struct Chain {
    /// The extended partition.
    whole: Place,
    /// The current table, with the size that the link to it gives.
    table: Place,
    entries: [Entry; 4],
    next: usize,
    /// Number of consecutive tables without a partition.
    empty: u32,
}

impl<'t> Pieces<'t> {
    pub(super) fn new(table: &'t Dos, sector_size: u64) -> Pieces<'t> {
        Pieces {
            table,
            sector_size,
            is_begun: false,
            primary: 0,
            extended: 0,
            chain: None,
            number: FIRST_LOGICAL,
            seen: [0; MAX_LINKS],
            links: 0,
        }
    }

    pub(super) fn next<D: ReadSectors>(&mut self, disk: &mut D) -> Option<Piece> {
        if !self.is_begun {
            self.is_begun = true;
            return Some(Piece::Table(Place { start: 0, length: self.sector_size }));
        }
        // Each turn takes one of the four entries.
        while let Some(entry) = self.table.entries.get(self.primary) {
            self.primary = self.primary.saturating_add(1);
            if entry.is_used() && entry.kind != PROTECTIVE {
                let number = u32::try_from(self.primary).unwrap_or(u32::MAX);
                let place = Place::of_sectors(entry.first.into(), entry.count.into(), self.sector_size);
                return Some(if entry.is_extended() {
                    Piece::Extended { number, place }
                } else {
                    self.partition(number, entry.kind, place)
                });
            }
        }
        // Each turn takes an entry of the current table, or the next table, of which at most `MAX_LINKS` are
        // read, or the next of the four entries.
        loop {
            let Some(mut chain) = self.chain.take() else {
                let entry = self.table.entries.get(self.extended)?;
                self.extended = self.extended.saturating_add(1);
                if entry.is_extended() {
                    let whole = Place::of_sectors(entry.first.into(), entry.count.into(), self.sector_size);
                    let chain =
                        Chain { whole, table: whole, entries: [Entry::default(); 4], next: 0, empty: 0 };
                    self.links = 0;
                    if let Some(piece) = self.follow(disk, chain, 0) {
                        return Some(piece);
                    }
                }
                continue;
            };
            let Some(entry) = chain.entries.get(chain.next).copied() else {
                if let Some(link) = chain.entries.iter().copied().find(Entry::is_extended) {
                    // The next table's position is relative to the beginning of the extended partition.
                    let mut table = Place::of_sectors(link.first.into(), link.count.into(), self.sector_size);
                    table.start = table.start.saturating_add(chain.whole.start);
                    chain.table = table;
                    if let Some(piece) = self.follow(disk, chain, link.first) {
                        return Some(piece);
                    }
                }
                continue;
            };
            let index = chain.next;
            chain.next = chain.next.saturating_add(1);
            let piece = self.logical(&mut chain, &entry, index);
            self.chain = (self.number <= MAX_NUMBER).then_some(chain);
            if piece.is_some() {
                return piece;
            }
        }
    }

    /// Reads the next table of a chain. Ends the chain if it is invalid or cannot be read.
    fn follow<D: ReadSectors>(&mut self, disk: &mut D, mut chain: Chain, link: u32) -> Option<Piece> {
        let at = chain.table.start;
        chain.empty = chain.empty.saturating_add(1);
        let before = self.seen.get(..self.links)?;
        if chain.empty > MAX_EMPTY || self.number > MAX_NUMBER || before.contains(&link) {
            return None;
        }
        *self.seen.get_mut(self.links)? = link;
        self.links = self.links.saturating_add(1);
        chain.entries = Entry::all(&read(disk, at).ok()??)?;
        chain.next = 0;
        self.chain = Some(chain);
        Some(Piece::Table(Place { start: at, length: self.sector_size }))
    }

    /// The logical partition of an entry, whose position is relative to its own table.
    fn logical(&mut self, chain: &mut Chain, entry: &Entry, index: usize) -> Option<Piece> {
        if !entry.is_used() || entry.is_extended() {
            return None;
        }
        let from_table = Place::of_sectors(entry.first.into(), entry.count.into(), self.sector_size);
        let place =
            Place { start: from_table.start.saturating_add(chain.table.start), length: from_table.length };
        // The last two entries are unused by design; some tools leave values there that are not partitions.
        let is_stray = index >= 2
            && (from_table.end() > chain.table.length.into()
                || place.start < chain.whole.start
                || place.end() > chain.whole.end());
        if is_stray {
            return None;
        }
        let number = self.number;
        self.number = self.number.saturating_add(1);
        chain.empty = 0;
        Some(self.partition(number, entry.kind, place))
    }

    fn partition(&self, number: u32, kind: u8, place: Place) -> Piece {
        let id = Id::Dos { signature: self.table.signature, number };
        Piece::Partition(Slot { number, name: Name::NONE, id, kind: SlotKind::Dos(kind), place })
    }
}

//! GUID partition tables (UEFI specification 2.10, section 5.3), as judged by Linux (block/partitions/efi.c).

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::parts::{
    Id, MAX_NUMBER, NAME_UNITS, Name, NoTable, Piece, Place, ReadSectors, SECTOR_SIZE, Sector, Slot,
    SlotKind, Trust, read,
};
use crate::format::crc::Crc32;
use crate::format::integer::{U16, U32, U64};

/// A table's header (table 5.5).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable: U64,
    last_usable: U64,
    disk_guid: [u8; 16],
    entries_lba: U64,
    entries: U32,
    entry_size: U32,
    entries_crc: U32,
}
const HEADER_SIZE: usize = size_of::<Header>();
const_assert_eq!(HEADER_SIZE, 92);
/// Range of the header's own checksum, which counts as zero in the sum.
const HEADER_CRC: core::ops::Range<usize> = 16..20;
const SIGNATURE: [u8; 8] = *b"EFI PART";

/// A partition (table 5.6); attributes are ignored.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    kind: [u8; 16],
    guid: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    name: [U16; NAME_UNITS],
}
const ENTRY_SIZE: usize = size_of::<Entry>();
const_assert_eq!(ENTRY_SIZE, 128);

/// Supported entry sizes in bytes. Linux only accepts the smallest; with others it shows no partitions.
const ENTRY_SIZES: core::ops::RangeInclusive<u32> = 128..=4096;

/// Maximum size of all entries in bytes: the most that Linux reads.
const MAX_BYTES: u64 = 4 << 20;

/// A valid table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gpt {
    trust: Trust,
    /// Byte offset of its entries.
    entries_at: u64,
    entries: u32,
    entry_size: u32,
    /// The parts of the table itself: first sector and header; entries; the other header; the other entries.
    own: [Place; 4],
}

impl Gpt {
    /// Reads the table at the beginning of the disk, or the one at its end.
    pub(super) fn read<D: ReadSectors>(disk: &mut D, sector_size: u64) -> Result<Gpt, NoTable<D::Error>> {
        let last = (disk.size().checked_div(sector_size).unwrap_or(0)).saturating_sub(1);
        let primary = Gpt::at(disk, 1, sector_size);
        if matches!(&primary, Ok(gpt) if gpt.trust == Trust::Whole) || last <= 1 {
            return primary;
        }
        match Gpt::at(disk, last, sector_size) {
            Ok(gpt) => Ok(Gpt { trust: Trust::Backup, ..gpt }),
            Err(NoTable::Absent) => primary,
            Err(why) => match primary {
                Err(NoTable::Absent) => Err(why),
                primary => primary,
            },
        }
    }

    fn at<D: ReadSectors>(disk: &mut D, lba: u64, sector_size: u64) -> Result<Gpt, NoTable<D::Error>> {
        let at = lba.saturating_mul(sector_size);
        let sector = read(disk, at)?.ok_or(NoTable::Absent)?;
        let header = header(&sector).ok_or(NoTable::Absent)?;
        let bad = |what, value: u64| Err(NoTable::Bad { what, value });
        let size = header.header_size.get();
        if u64::from(size) < HEADER_SIZE as u64 || u64::from(size) > sector_size {
            return bad("a header size", size.into());
        }
        let sum = sum(disk, at, size.into(), Counts::NotItsSum)?;
        if sum != Some(header.header_crc.get()) {
            return bad("a header whose checksum is wrong, instead", sum.unwrap_or(0).into());
        }
        if header.my_lba.get() != lba {
            return bad("a header for sector", header.my_lba.get());
        }
        let (first_usable, last_usable) = (header.first_usable.get(), header.last_usable.get());
        if last_usable < first_usable {
            return bad("a last sector that can be used", last_usable);
        }
        let (entries, entry_size) = (header.entries.get(), header.entry_size.get());
        if !ENTRY_SIZES.contains(&entry_size) || !entry_size.is_multiple_of(ENTRY_SIZE as u32) {
            return bad("an entry size", entry_size.into());
        }
        let length = u64::from(entries).saturating_mul(entry_size.into());
        if length == 0 || length > MAX_BYTES {
            return bad("a number of entries", entries.into());
        }
        let entries_at = header.entries_lba.get().saturating_mul(sector_size);
        match self::sum(disk, entries_at, length, Counts::All)? {
            None => return bad("entries at sector", header.entries_lba.get()),
            Some(sum) if sum != header.entries_crc.get() => {
                return bad("entries whose checksum is wrong, instead", sum.into());
            }
            Some(_) => {}
        }
        let last = (disk.size().checked_div(sector_size).unwrap_or(0)).saturating_sub(1);
        let trust = if last_usable > last { Trust::Cut } else { Trust::Whole };
        let other = Place::of_sectors(header.alternate_lba.get(), 1, sector_size);
        let of_other = other_entries(disk, &other, sector_size);
        let both = Place { start: 0, length: sector_size.saturating_mul(2) };
        let own = [both, Place { start: entries_at, length }, other, of_other];
        Ok(Gpt { trust, entries_at, entries, entry_size, own })
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust
    }
}

fn header(sector: &Sector) -> Option<Header> {
    let (header, _) = Header::read_from_prefix(sector.as_slice()).ok()?;
    (header.signature == SIGNATURE).then_some(header)
}

/// The entries of the other copy, according to its header.
fn other_entries<D: ReadSectors>(disk: &mut D, other: &Place, sector_size: u64) -> Place {
    let none = Place { start: 0, length: 0 };
    let Ok(Some(sector)) = read(disk, other.start) else { return none };
    let Some(header) = header(&sector) else { return none };
    let length = u64::from(header.entries.get()).saturating_mul(header.entry_size.get().into());
    if header.my_lba.get().saturating_mul(sector_size) != other.start || length > MAX_BYTES {
        return none;
    }
    Place { start: header.entries_lba.get().saturating_mul(sector_size), length }
}

/// Which bytes count in a sum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    All,
    /// All except the header's own sum, which counts as zeros.
    NotItsSum,
}

/// The checksum of `length` bytes from `at` on, at most [`MAX_BYTES`]; `None` if they are not on the disk.
fn sum<D: ReadSectors>(
    disk: &mut D,
    at: u64,
    length: u64,
    counts: Counts,
) -> Result<Option<u32>, NoTable<D::Error>> {
    let mut crc = Crc32::new();
    let mut done: u64 = 0;
    // Each turn takes a sector of the bytes, or ends the loop.
    while done < length {
        let Some(at) = at.checked_add(done) else { return Ok(None) };
        let Some(mut sector) = read(disk, at)? else { return Ok(None) };
        if done == 0 && counts == Counts::NotItsSum {
            sector.get_mut(HEADER_CRC).unwrap_or_default().fill(0);
        }
        let piece = length.saturating_sub(done).min(SECTOR_SIZE as u64);
        crc.update(sector.get(..piece as usize).unwrap_or_default());
        done = done.saturating_add(SECTOR_SIZE as u64);
    }
    Ok(Some(crc.finish()))
}

/// Iterates over a table's pieces: its own parts, then its partitions.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'t> {
    table: &'t Gpt,
    sector_size: u64,
    own: usize,
    /// The index of the next entry.
    entry: u32,
}

impl<'t> Pieces<'t> {
    pub(super) fn new(table: &'t Gpt, sector_size: u64) -> Pieces<'t> {
        Pieces { table, sector_size, own: 0, entry: 0 }
    }

    pub(super) fn next<D: ReadSectors>(&mut self, disk: &mut D) -> Result<Option<Piece>, NoTable<D::Error>> {
        if let Some(own) = self.table.own.get(self.own) {
            self.own = self.own.saturating_add(1);
            return Ok(Some(Piece::Table(*own)));
        }
        // Each turn takes an entry.
        while self.entry < self.table.entries.min(MAX_NUMBER) {
            let offset = u64::from(self.entry).saturating_mul(self.table.entry_size.into());
            self.entry = self.entry.saturating_add(1);
            let at = self.table.entries_at.saturating_add(offset);
            // The size of entries is a multiple of 128 bytes and the first begins at a sector, so the part of
            // an entry that is used never crosses a sector.
            const WITHIN: u64 = SECTOR_SIZE as u64 - 1;
            let inside = (at & WITHIN) as usize;
            let sector = read(disk, at.saturating_sub(inside as u64))?.unwrap_or([0; SECTOR_SIZE]);
            let Ok((entry, _)) = Entry::read_from_prefix(sector.get(inside..).unwrap_or_default()) else {
                continue;
            };
            if entry.kind != [0; 16] {
                return Ok(Some(Piece::Partition(self.slot(&entry))));
            }
        }
        Ok(None)
    }

    fn slot(&self, entry: &Entry) -> Slot {
        let (first, last) = (entry.first.get(), entry.last.get());
        // A partition that ends before it begins is empty.
        let count = last.checked_sub(first).map_or(0, |more| more.saturating_add(1));
        Slot {
            number: self.entry,
            name: Name(entry.name.map(U16::get)),
            id: Id::Guid(printed(&entry.guid)),
            kind: SlotKind::Guid(printed(&entry.kind)),
            place: Place::of_sectors(first, count, self.sector_size),
        }
    }
}

/// A GUID in printed order: the first three fields are stored little-endian (UEFI 2.10, appendix A).
fn printed(stored: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *stored;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

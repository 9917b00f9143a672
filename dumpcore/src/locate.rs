//! Finding the partition that dumps go to, while the kernel is healthy: by the GUID partition table (UEFI 2.10, 5.3), or by
//! the label that `savecore format` laid.
//!
//! Nothing here runs after a crash. What was found goes into a [`Target`](crate::Target), and the crash checks the label again.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::console::{Describe, Line};
use crate::device::{DeviceError, Direction, DumpDevice};
use crate::display_by_describe;
use crate::dma::DmaBuffer;
use crate::format::crc::Crc32;
use crate::format::crypt::PublicKey;
use crate::format::label::Label;
use crate::format::{BLOCK_SIZE, Block, Uuid};
use crate::wait::Wait;

/// Sizes of the sectors in which a table counts.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// Bytes to blocks.
const BLOCK_SHIFT: u32 = BLOCK_SIZE.trailing_zeros();
/// Entries that a table may have here; 128 are usual.
const MAX_ENTRIES: u32 = 4096;
/// Bytes in an entry at least (table 5.6), and at most here.
const ENTRY_SIZES: core::ops::RangeInclusive<u32> = 128..=4096;
/// UTF-16 units in an entry's name.
const NAME_UNITS: usize = 36;

/// Reads blocks of a disk, by whatever means the kernel has.
pub trait ReadBlocks {
    /// Whole blocks of 4096 bytes on the disk.
    fn blocks(&self) -> u64;

    /// Reads a block.
    ///
    /// # Errors
    /// Why it could not be read.
    fn read(&mut self, block: u64, into: &mut Block) -> Result<(), DeviceError>;
}

/// A disk that nobody else uses, [quiesced](DumpDevice::quiesce), read by the dump's own driver.
pub struct Polled<'p> {
    device: &'p mut dyn DumpDevice,
    wait: &'p Wait<'p>,
    buffer: Option<DmaBuffer>,
}

impl<'p> Polled<'p> {
    /// Reads `device` by way of `buffer`, which must be one block.
    pub fn new(device: &'p mut dyn DumpDevice, wait: &'p Wait<'p>, buffer: DmaBuffer) -> Polled<'p> {
        Polled { device, wait, buffer: Some(buffer) }
    }
}

impl ReadBlocks for Polled<'_> {
    fn blocks(&self) -> u64 {
        self.device.geometry().map_or(0, |geometry| geometry.blocks)
    }

    fn read(&mut self, block: u64, into: &mut Block) -> Result<(), DeviceError> {
        let buffer = self.buffer.take().ok_or(DeviceError::NotReady)?;
        let platform = self.wait.platform();
        buffer.clean_for_device(platform);
        let (buffer, result) = self.device.rw_block(Direction::Read, block, buffer, self.wait);
        if let Some(buffer) = &buffer {
            buffer.invalidate_from_device(platform);
            if let Some(bytes) = buffer.blocks().first() {
                *into = *bytes;
            }
        }
        self.buffer = buffer;
        result
    }
}

/// What the partition is known by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By<'b> {
    /// Its own GUID in the table, as it is printed: the first three fields are stored little-endian, here they are not.
    Guid([u8; 16]),
    /// Its name in the table.
    Name(&'b str),
    /// The uuid of its label, or of the label of a disk without a table.
    Label(Uuid),
}

/// Where the partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its first block on the disk, in units of 4096 bytes.
    pub first_block: u64,
    /// Its size in blocks; what is left behind the last whole one is not counted.
    pub blocks: u64,
    /// Its label's uuid, if it has a label.
    pub uuid: Option<Uuid>,
    /// The public key that its label demands dumps to be encrypted to.
    pub recipient: Option<PublicKey>,
}

/// Why it was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFound {
    /// The disk could not be read.
    Device {
        /// Which block.
        block: u64,
        /// Why.
        error: DeviceError,
    },
    /// The disk has no GUID partition table, neither at its beginning nor at its end (and no label at its beginning).
    NoTable,
    /// The table's header, at both ends, says something that no table says.
    BadTable {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// No partition is known by that.
    Nothing,
    /// More than one is.
    Several,
    /// It does not begin at a block of 4096 bytes: no block of it could be written by itself.
    OddStart {
        /// The sector that it begins at.
        sector: u64,
        /// Bytes in a sector.
        sector_size: u64,
    },
    /// The table says that it reaches beyond the end of the disk, or ends before it begins.
    BeyondDisk {
        /// The first block behind it.
        end: u64,
        /// Blocks that the disk has.
        blocks: u64,
    },
}

impl Describe for NotFound {
    fn describe(&self, line: &mut Line) {
        match *self {
            NotFound::Device { block, error } => {
                line.text("block ").decimal(block).text(" could not be read: ");
                error.describe(line);
            }
            NotFound::NoTable => {
                line.text("the disk has no GUID partition table");
            }
            NotFound::BadTable { what, value } => {
                line.text("the partition table has ").text(what).text(" of ").hex(value);
            }
            NotFound::Nothing => {
                line.text("the disk has no such partition");
            }
            NotFound::Several => {
                line.text("the disk has several such partitions; name one by its GUID or its label");
            }
            NotFound::OddStart { sector, sector_size } => {
                line.text("the partition begins at sector ")
                    .decimal(sector)
                    .text(" of ")
                    .decimal(sector_size);
                line.text(" bytes, which is not a multiple of 4096 bytes; align it");
            }
            NotFound::BeyondDisk { end, blocks } => {
                line.text("the partition ends at block ").decimal(end).text(", the disk at ").decimal(blocks);
            }
        }
    }
}

display_by_describe!(NotFound);

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
/// Where the header's own checksum stands, which counts as zero in it.
const HEADER_CRC: core::ops::Range<usize> = 16..20;
const SIGNATURE: [u8; 8] = *b"EFI PART";

/// A partition (table 5.6); attributes are left alone.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    kind: [u8; 16],
    guid: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    name: [[u8; 2]; NAME_UNITS],
}
const_assert_eq!(size_of::<Entry>(), 128);
const_assert_eq!(size_of::<Header>(), 92);

/// A table that was found and is whole.
struct Table {
    sector_size: u64,
    /// The byte at which its entries begin.
    entries_at: u64,
    entries: u32,
    entry_size: u32,
}

/// Finds a partition. `scratch` is a block to read into; what is in it afterwards means nothing.
///
/// # Errors
/// Why there is none, or none that can be used.
pub fn find(disk: &mut dyn ReadBlocks, by: &By<'_>, scratch: &mut Block) -> Result<Found, NotFound> {
    let mut reader = Reader { disk, block: None, bytes: scratch };
    let table = match reader.table() {
        // A disk may be one partition, from its first block on.
        Err(NotFound::NoTable) => return reader.whole_disk(by),
        table => table?,
    };
    let mut found = None;
    for number in 0..table.entries {
        let entry = reader.entry(&table, number)?;
        if entry.kind == [0; 16] || !reader.is(&table, &entry, by)? {
            continue;
        }
        if found.replace(entry).is_some() {
            return Err(NotFound::Several);
        }
    }
    let entry = found.ok_or(NotFound::Nothing)?;
    let (first_block, blocks) = reader.place(&table, &entry)?;
    let (uuid, recipient) = reader.label(first_block)?;
    Ok(Found { first_block, blocks, uuid, recipient })
}

/// Reads pieces of a disk, and keeps the last block.
struct Reader<'r> {
    disk: &'r mut dyn ReadBlocks,
    block: Option<u64>,
    bytes: &'r mut Block,
}

impl Reader<'_> {
    /// `length` bytes at a byte of the disk, as far as they are in one block.
    fn bytes(&mut self, at: u64, length: usize) -> Result<&[u8], NotFound> {
        let block = at >> BLOCK_SHIFT;
        if self.block != Some(block) {
            let blocks = self.disk.blocks();
            if block >= blocks {
                return Err(NotFound::BeyondDisk { end: block.saturating_add(1), blocks });
            }
            self.block = None;
            self.disk.read(block, self.bytes).map_err(|error| NotFound::Device { block, error })?;
            self.block = Some(block);
        }
        let offset = at.wrapping_sub(block << BLOCK_SHIFT) as usize;
        let bytes = self.bytes.get(offset..).unwrap_or_default();
        Ok(bytes.get(..length.min(bytes.len())).unwrap_or_default())
    }

    /// The table at the beginning of the disk, or the one at its end.
    fn table(&mut self) -> Result<Table, NotFound> {
        let end = self.disk.blocks().saturating_mul(BLOCK_SIZE as u64);
        let mut why = NotFound::NoTable;
        for sector_size in SECTOR_SIZES {
            // The backup stands in the last sector, which is found if the disk's size is a multiple of 4096 bytes.
            for at in [sector_size, end.saturating_sub(sector_size)] {
                if at.saturating_add(sector_size) > end {
                    continue;
                }
                match self.table_at(at, sector_size) {
                    Err(NotFound::NoTable) => {}
                    Err(error) => why = error,
                    table => return table,
                }
            }
        }
        Err(why)
    }

    fn table_at(&mut self, at: u64, sector_size: u64) -> Result<Table, NotFound> {
        let bytes = self.bytes(at, sector_size as usize)?;
        let Ok((header, _)) = Header::read_from_prefix(bytes) else { return Err(NotFound::NoTable) };
        if header.signature != SIGNATURE {
            return Err(NotFound::NoTable);
        }
        let bad = |what, value: u64| Err(NotFound::BadTable { what, value });
        let size = header.header_size.get();
        let Some(whole) = bytes.get(..size as usize).filter(|_| size as usize >= HEADER_SIZE) else {
            return bad("a header size", size.into());
        };
        let mut crc = Crc32::new();
        crc.update(whole.get(..HEADER_CRC.start).unwrap_or_default());
        crc.update(&[0; 4]);
        crc.update(whole.get(HEADER_CRC.end..).unwrap_or_default());
        if crc.finish() != header.header_crc.get() {
            return bad("a header whose checksum is wrong, instead", crc.finish().into());
        }
        if header.my_lba.get().checked_mul(sector_size) != Some(at) {
            return bad("a header for sector", header.my_lba.get());
        }
        let (entries, entry_size) = (header.entries.get(), header.entry_size.get());
        if !ENTRY_SIZES.contains(&entry_size) || !entry_size.is_power_of_two() {
            return bad("an entry size", entry_size.into());
        }
        if entries > MAX_ENTRIES {
            return bad("a number of entries", entries.into());
        }
        let length = u64::from(entries).saturating_mul(entry_size.into());
        let end = self.disk.blocks().saturating_mul(BLOCK_SIZE as u64);
        let entries_at = header.entries_lba.get().saturating_mul(sector_size);
        if entries_at.saturating_add(length) > end {
            return bad("entries at sector", header.entries_lba.get());
        }
        let mut crc = Crc32::new();
        let mut done = 0;
        // Each turn takes at least a byte, since the entries lie on the disk.
        while done < length {
            let left = usize::try_from(length.saturating_sub(done)).unwrap_or(usize::MAX);
            let piece = self.bytes(entries_at.saturating_add(done), left)?;
            crc.update(piece);
            done = done.saturating_add(piece.len().max(1) as u64);
        }
        if crc.finish() != header.entries_crc.get() {
            return bad("entries whose checksum is wrong, instead", crc.finish().into());
        }
        Ok(Table { sector_size, entries_at, entries, entry_size })
    }

    fn entry(&mut self, table: &Table, number: u32) -> Result<Entry, NotFound> {
        let offset = u64::from(number).saturating_mul(table.entry_size.into());
        let at = table.entries_at.saturating_add(offset);
        // Entries begin at a sector and have a size that divides a block, so none crosses the end of one.
        let bytes = self.bytes(at, size_of::<Entry>())?;
        Entry::read_from_bytes(bytes).map_err(|_| NotFound::BadTable { what: "an entry at byte", value: at })
    }

    fn is(&mut self, table: &Table, entry: &Entry, by: &By<'_>) -> Result<bool, NotFound> {
        match by {
            By::Guid(guid) => Ok(printed(&entry.guid) == *guid),
            By::Name(name) => Ok(has_name(entry, name)),
            By::Label(uuid) => match self.place(table, entry) {
                Ok((first, _)) => Ok(self.label(first)?.0 == Some(*uuid)),
                // What cannot hold a label is not the one.
                Err(_) => Ok(false),
            },
        }
    }

    /// First block, and how many.
    fn place(&self, table: &Table, entry: &Entry) -> Result<(u64, u64), NotFound> {
        let (sector_size, block) = (table.sector_size, BLOCK_SIZE as u64);
        let (first, last) = (entry.first.get(), entry.last.get());
        let disk = self.disk.blocks();
        let start = first.checked_mul(sector_size);
        let end = last.checked_add(1).and_then(|end| end.checked_mul(sector_size));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(NotFound::BeyondDisk { end: u64::MAX, blocks: disk });
        };
        if end <= start || end.div_ceil(block) > disk {
            return Err(NotFound::BeyondDisk { end: end.div_ceil(block), blocks: disk });
        }
        if !start.is_multiple_of(block) {
            return Err(NotFound::OddStart { sector: first, sector_size });
        }
        Ok((start >> BLOCK_SHIFT, end.saturating_sub(start) >> BLOCK_SHIFT))
    }

    /// What the label in a partition's first block says, if it is one.
    fn label(&mut self, first: u64) -> Result<(Option<Uuid>, Option<PublicKey>), NotFound> {
        self.bytes(first.saturating_mul(BLOCK_SIZE as u64), BLOCK_SIZE)?;
        Ok(Label::parse(self.bytes)
            .map_or((None, None), |label| (Some(label.uuid), label.recipient().copied())))
    }

    /// A disk without a table is a partition if it has a label.
    fn whole_disk(&mut self, by: &By<'_>) -> Result<Found, NotFound> {
        let (uuid, recipient) = self.label(0)?;
        match (uuid, by) {
            (None, _) | (_, By::Guid(_) | By::Name(_)) => Err(NotFound::NoTable),
            (Some(uuid), By::Label(wanted)) if uuid != *wanted => Err(NotFound::Nothing),
            (Some(_), By::Label(_)) => {
                Ok(Found { first_block: 0, blocks: self.disk.blocks(), uuid, recipient })
            }
        }
    }
}

/// A GUID as it is printed: of the stored one, the first three fields are little-endian (UEFI 2.10, appendix A).
fn printed(stored: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *stored;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// Whether an entry has this name, which is stored in UTF-16 and padded with zeros.
fn has_name(entry: &Entry, name: &str) -> bool {
    let stored = entry.name.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    !name.is_empty() && stored.eq(name.encode_utf16())
}

//! Finds the partition for dumps while the kernel is healthy: in the disk's [partition table](crate::table),
//! or by the label that `savecore format` wrote.
//!
//! Nothing here runs after a crash. The result goes into a [`Target`](crate::Target), and the crash checks
//! the label again.

use crate::device::{DeviceError, Direction, DumpDevice};
use crate::dma::DmaBuffer;
use crate::format::cipher::PublicKey;
use crate::format::label::Label;
use crate::format::{BLOCK_SIZE, Block, Uuid};
use crate::table::{
    Fault, Fitness, Id, NoTable, ReadSectors, SECTOR_SIZE, SECTOR_SIZES, Sector, Slot, Table,
};
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::Wait;

/// log2 of the bytes in a block.
const BLOCK_SHIFT: u32 = BLOCK_SIZE.trailing_zeros();
/// Reads blocks of a disk, by whatever means the kernel has.
pub trait ReadBlocks {
    /// Size of the disk in whole blocks of 4096 bytes.
    fn blocks(&self) -> u64;

    /// Reads a block.
    ///
    /// # Errors
    /// Why it could not be read.
    fn read(&mut self, block: u64, into: &mut Block) -> Result<(), DeviceError>;

    /// Size of the disk's logical sectors in bytes, in which its partition table counts. If unknown, both
    /// usual sizes are tried, and a table that is valid in both is refused.
    fn sector_size(&self) -> Option<u32> {
        None
    }
}

/// A disk that no one else uses, [quiesced](DumpDevice::quiesce), and read by the dump's own driver.
pub struct Polled<'p> {
    device: &'p mut dyn DumpDevice,
    wait: &'p Wait<'p>,
    buffer: Option<DmaBuffer>,
}

impl<'p> Polled<'p> {
    /// Reads `device` through `buffer`, which must be one block.
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

    fn sector_size(&self) -> Option<u32> {
        self.device.sector_size()
    }
}

/// How the partition is identified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By<'b> {
    /// Its own GUID in the table, in printed order (on disk the first three fields are little-endian).
    Guid([u8; 16]),
    /// The PARTUUID that Linux gives a partition in a DOS table, such as `5f0e8a3c-02`.
    Dos {
        /// The disk's signature, before the dash.
        signature: u32,
        /// The partition's number, after the dash.
        number: u32,
    },
    /// Its name in a GUID table.
    Name(&'b str),
    /// The uuid of its label; also for a disk without a table that begins with a label.
    Label(Uuid),
}

/// Where the partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its first block on the disk, in units of 4096 bytes.
    pub first_block: u64,
    /// Its size in whole blocks.
    pub blocks: u64,
    /// Its label's uuid, if it has a label.
    pub uuid: Option<Uuid>,
    /// The public key to which its label demands encryption.
    pub recipient: Option<PublicKey>,
}

/// Why the partition was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFound {
    /// The disk could not be read.
    Device {
        /// The block.
        block: u64,
        /// Why.
        error: DeviceError,
    },
    /// The disk has no partition table (and no label at its beginning). A GUID table counts only if the first
    /// sector has a protective MBR.
    NoTable,
    /// The first sector announces a GUID table, but there is none.
    NoGuidTable,
    /// The table is valid in sectors of 512 and of 4096 bytes, with different contents.
    TwoTables,
    /// Both copies of the GUID table's header have a field with an impossible value.
    BadTable {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// No partition matches.
    Nothing,
    /// More than one partition matches.
    Several,
    /// It does not begin at a multiple of 4096 bytes, so its blocks could not be written on their own.
    OddStart {
        /// The sector that it begins at.
        sector: u64,
        /// Size of a sector in bytes.
        sector_size: u64,
    },
    /// According to the table, it reaches beyond the end of the disk or ends before it begins.
    BeyondDisk {
        /// The first block after it.
        end: u64,
        /// Size of the disk in blocks.
        blocks: u64,
    },
    /// It overlaps another partition.
    Over {
        /// The other one's number.
        number: u32,
    },
    /// It overlaps the partition table.
    OverTable,
}

impl Describe for NotFound {
    fn describe(&self, line: &mut Line) {
        match *self {
            NotFound::Device { block, error } => {
                line.text("block ").decimal(block).text(" could not be read: ");
                error.describe(line);
            }
            NotFound::NoTable => {
                line.text("the disk has no partition table");
            }
            NotFound::NoGuidTable => {
                line.text("the disk's first sector protects a GUID partition table that is not there");
            }
            NotFound::TwoTables => {
                line.text("the partition table can be read in sectors of 512 and of 4096 bytes; ");
                line.text("say how large the disk's are");
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
            NotFound::Over { number } => {
                line.text("the partition lies over partition ").decimal(number.into());
            }
            NotFound::OverTable => {
                line.text("the partition lies over the partition table itself");
            }
        }
    }
}

display_by_describe!(NotFound);

/// Finds a partition. `scratch` is a block to read into; its content afterwards is meaningless.
///
/// # Errors
/// Why there is none, or none that is usable.
pub fn find(disk: &mut dyn ReadBlocks, by: &By<'_>, scratch: &mut Block) -> Result<Found, NotFound> {
    let mut reader = Reader { disk, block: None, bytes: scratch };
    // The whole disk may be one partition.
    if let (Some(uuid), recipient) = reader.label(0)? {
        let blocks = reader.disk.blocks();
        return match by {
            By::Label(wanted) if uuid == *wanted => {
                Ok(Found { first_block: 0, blocks, uuid: Some(uuid), recipient })
            }
            By::Label(_) => Err(NotFound::Nothing),
            By::Guid(_) | By::Dos { .. } | By::Name(_) => Err(NotFound::NoTable),
        };
    }
    if let Some(sector_size) = reader.disk.sector_size() {
        let table = reader.table(sector_size)?;
        return reader.find(&table, by);
    }
    let [small, large] = SECTOR_SIZES.map(|size| reader.fitting(size));
    match (small, large) {
        (Ok((table, _)), Err(_)) | (Err(_), Ok((table, _))) => reader.find(&table, by),
        // An error in a table says more than the absence of one.
        (Err(NotFound::NoTable | NotFound::NoGuidTable), Err(why)) | (Err(why), Err(_)) => Err(why),
        (Ok((small, fits)), Ok((large, fits_too))) if fits != fits_too => {
            reader.find(if fits > fits_too { &small } else { &large }, by)
        }
        (Ok((small, _)), Ok((large, _))) => {
            let (small, large) = (reader.find(&small, by), reader.find(&large, by));
            match (small, large, by) {
                (small, large, _) if small == large => small,
                // The label identifies it, whichever sector size is right.
                (Ok(found), Err(NotFound::Nothing), By::Label(_))
                | (Err(NotFound::Nothing), Ok(found), By::Label(_)) => Ok(found),
                _ => Err(NotFound::TwoTables),
            }
        }
    }
}

/// Reads single blocks of a disk and caches the last one.
struct Reader<'r> {
    disk: &'r mut dyn ReadBlocks,
    block: Option<u64>,
    bytes: &'r mut Block,
}

impl ReadSectors for Reader<'_> {
    type Error = NotFound;

    fn size(&self) -> u64 {
        self.disk.blocks().saturating_mul(BLOCK_SIZE as u64)
    }

    fn read(&mut self, at: u64, into: &mut Sector) -> Result<(), NotFound> {
        self.take(at >> BLOCK_SHIFT)?;
        const WITHIN: u64 = BLOCK_SIZE as u64 - 1;
        let inside = (at & WITHIN) as usize;
        let sector = self.bytes.get(inside..).and_then(|bytes| bytes.first_chunk::<SECTOR_SIZE>());
        *into = *sector.unwrap_or(&[0; SECTOR_SIZE]);
        Ok(())
    }
}

impl Reader<'_> {
    /// Reads a block, unless it is the cached one.
    fn take(&mut self, block: u64) -> Result<(), NotFound> {
        if self.block != Some(block) {
            let blocks = self.disk.blocks();
            if block >= blocks {
                return Err(NotFound::BeyondDisk { end: block.saturating_add(1), blocks });
            }
            self.block = None;
            self.disk.read(block, self.bytes).map_err(|error| NotFound::Device { block, error })?;
            self.block = Some(block);
        }
        Ok(())
    }

    /// The disk's table, read with this sector size.
    fn table(&mut self, sector_size: u32) -> Result<Table, NotFound> {
        Table::read(self, sector_size).map_err(not_found)
    }

    /// The table with its fitness. A table of which no partition fits on the disk does not count.
    fn fitting(&mut self, sector_size: u32) -> Result<(Table, Fitness), NotFound> {
        let table = self.table(sector_size)?;
        match table.fitness(self).map_err(not_found)? {
            Fitness::Nowhere => Err(NotFound::NoTable),
            fitness => Ok((table, fitness)),
        }
    }

    /// The only partition in a table that matches.
    fn find(&mut self, table: &Table, by: &By<'_>) -> Result<Found, NotFound> {
        let mut found = None;
        let mut pieces = table.pieces();
        // Each turn takes a partition, and their number is limited.
        while let Some(slot) = pieces.next_slot(self).map_err(not_found)? {
            if self.is(table, &slot, by)? && found.replace(slot).is_some() {
                return Err(NotFound::Several);
            }
        }
        let slot = found.ok_or(NotFound::Nothing)?;
        let (first_block, blocks) = self.place(table, &slot)?;
        let mut pieces = table.pieces();
        // Each turn takes a piece, and their number is limited.
        while let Some(piece) = pieces.next(self).map_err(not_found)? {
            match slot.fault_beside(&piece) {
                Some(Fault::Over(number)) => return Err(NotFound::Over { number }),
                Some(_) => return Err(NotFound::OverTable),
                None => {}
            }
        }
        let (uuid, recipient) = self.label(first_block)?;
        Ok(Found { first_block, blocks, uuid, recipient })
    }

    fn is(&mut self, table: &Table, slot: &Slot, by: &By<'_>) -> Result<bool, NotFound> {
        match *by {
            By::Guid(guid) => Ok(slot.id == Id::Guid(guid)),
            By::Dos { signature, number } => Ok(slot.id == Id::Dos { signature, number }),
            By::Name(name) => Ok(slot.name.is(name)),
            By::Label(uuid) => match self.place(table, slot) {
                Ok((first, _)) => Ok(self.label(first)?.0 == Some(uuid)),
                // A partition that cannot hold a label does not match.
                Err(_) => Ok(false),
            },
        }
    }

    /// First block and number of blocks.
    fn place(&self, table: &Table, slot: &Slot) -> Result<(u64, u64), NotFound> {
        let (start, length) = (slot.place.start, slot.place.length);
        if slot.fault(self.size()).is_some() {
            let end = slot.place.end().div_ceil(BLOCK_SIZE as u128);
            let end = u64::try_from(end).unwrap_or(u64::MAX);
            return Err(NotFound::BeyondDisk { end, blocks: self.disk.blocks() });
        }
        if !start.is_multiple_of(BLOCK_SIZE as u64) {
            let sector_size = table.sector_size().into();
            return Err(NotFound::OddStart {
                sector: start.checked_div(sector_size).unwrap_or(0),
                sector_size,
            });
        }
        Ok((start >> BLOCK_SHIFT, length >> BLOCK_SHIFT))
    }

    /// The uuid and recipient in a partition's label, if its first block is a label.
    fn label(&mut self, first: u64) -> Result<(Option<Uuid>, Option<PublicKey>), NotFound> {
        self.take(first)?;
        Ok(Label::parse(self.bytes)
            .map_or((None, None), |label| (Some(label.uuid), label.recipient().copied())))
    }
}

fn not_found(why: NoTable<NotFound>) -> NotFound {
    match why {
        NoTable::Unreadable { error, .. } => error,
        NoTable::Absent => NotFound::NoTable,
        NoTable::Gone => NotFound::NoGuidTable,
        NoTable::Bad { what, value } => NotFound::BadTable { what, value },
    }
}

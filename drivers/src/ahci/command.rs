//! The memory that a port uses (AHCI 1.3.1, 4.2): command list, command tables, and received FISes.

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;
use static_assertions::{const_assert, const_assert_eq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::acs::{IDENTIFY_BYTES, code};
use crate::bus::barrier;
use crate::bus::shared::{LINE, Shared};
use crate::disk::Span;

/// Maximum number of command slots that the driver uses. An HBA may have more.
pub const COMMAND_SLOTS: u8 = 16;

/// Maximum number of entries in a command's PRD table, one per span of memory: more than a chunk of a dump
/// needs.
pub const PRDS: usize = 136;
/// Maximum number of bytes per PRD (4.2.3.3).
pub const PRD_BYTES: usize = 4 << 20;

/// The command list. The HBA may read all 32 headers.
const LIST: usize = 0;
const LIST_BYTES: usize = 32 * size_of::<Header>();
/// Received FISes (4.2.1).
const RECEIVED: usize = LIST + LIST_BYTES;
const RECEIVED_BYTES: usize = 256;
/// The disk's identity data.
const IDENTITY: usize = RECEIVED + RECEIVED_BYTES;
const IDENTITY_WORDS: usize = IDENTIFY_BYTES / size_of::<u16>();
const TABLES: usize = IDENTITY + IDENTIFY_BYTES;
/// A command table: the command FIS, then at a fixed offset the PRD table.
const TABLE_PRDS: usize = 128;
const TABLE_BYTES: usize = TABLE_PRDS + PRDS * size_of::<Prd>();

/// Bytes of shared memory per port, aligned to [`TABLES_ALIGN`].
pub const TABLES_BYTES: usize = TABLES + COMMAND_SLOTS as usize * TABLE_BYTES;
/// Required alignment of the command list (3.3.1).
pub const TABLES_ALIGN: usize = 1024;

const_assert_eq!(LIST_BYTES, 1024);
const_assert!(RECEIVED.is_multiple_of(RECEIVED_BYTES));
const_assert!(IDENTITY.is_multiple_of(LINE) && TABLES.is_multiple_of(128) && TABLE_BYTES.is_multiple_of(128));

/// Command header (4.2.2). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    flags: u32,
    transferred: u32,
    table: u32,
    table_high: u32,
    reserved: [u32; 4],
}
const_assert_eq!(size_of::<Header>(), 32);

/// Offset of the transferred byte count, which the HBA writes.
const TRANSFERRED: usize = 4;
/// Header: length of the command FIS in dwords, here always that of a register FIS.
const HEADER_LENGTH: u32 = 5;
/// Header: write to the disk.
const HEADER_WRITE: u32 = 1 << 6;

/// Physical region descriptor (4.2.3.3). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Prd {
    address: u64,
    reserved: u32,
    /// Byte count - 1.
    last: u32,
}
const_assert_eq!(size_of::<Prd>(), 16);

/// A command FIS: "register, host to device" (Serial ATA 3.1, 10.5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fis {
    kind: u8,
    flags: u8,
    command: u8,
    features: u8,
    lba: [u8; 3],
    device: u8,
    lba_high: [u8; 3],
    features_high: u8,
    count: u8,
    count_high: u8,
    reserved: [u8; 6],
}
const_assert_eq!(size_of::<Fis>(), 20);

const FIS_REGISTER: u8 = 0x27;
/// A command, not a control (reset).
const FIS_COMMAND: u8 = 1 << 7;

/// LBA addressing.
const DEVICE_LBA: u8 = 1 << 6;

/// Addressing mode of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// LBA28: at most 256 sectors.
    Lba28,
    /// LBA48: at most 65536 sectors.
    Lba48,
    /// FPDMA QUEUED: LBA48; the disk completes commands in any order.
    Queued,
}

/// A disk command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// IDENTIFY DEVICE.
    Identify,
    /// Flush the cache, with this command code.
    Flush(u8),
    /// Read or write sectors.
    Transfer {
        /// Write to the disk.
        write: bool,
        /// The first sector.
        sector: u64,
        /// Number of sectors, at least 1.
        count: u32,
        /// Addressing mode.
        addressing: Addressing,
    },
}

impl Command {
    /// Whether data goes to the disk.
    fn writes(self) -> bool {
        matches!(self, Command::Transfer { write: true, .. })
    }

    /// Whether it is a queued command.
    pub fn is_queued(self) -> bool {
        matches!(self, Command::Transfer { addressing: Addressing::Queued, .. })
    }

    fn fis(self, slot: u8) -> Fis {
        let mut fis = Fis {
            kind: FIS_REGISTER,
            flags: FIS_COMMAND,
            command: code::IDENTIFY_DEVICE,
            features: 0,
            lba: [0; 3],
            device: 0,
            lba_high: [0; 3],
            features_high: 0,
            count: 0,
            count_high: 0,
            reserved: [0; 6],
        };
        let (write, sector, count, addressing) = match self {
            Command::Identify => return fis,
            Command::Flush(code) => {
                fis.command = code;
                return fis;
            }
            Command::Transfer { write, sector, count, addressing } => (write, sector, count, addressing),
        };
        let [a, b, c, d, e, f, ..] = sector.to_le_bytes();
        // The maximum count is encoded as 0.
        let [low, high, ..] = count.to_le_bytes();
        fis.lba = [a, b, c];
        fis.device = DEVICE_LBA;
        match addressing {
            Addressing::Lba28 => {
                fis.command = if write { code::WRITE_DMA } else { code::READ_DMA };
                fis.device |= d & 0xf;
                fis.count = low;
            }
            Addressing::Lba48 => {
                fis.command = if write { code::WRITE_DMA_EXT } else { code::READ_DMA_EXT };
                fis.lba_high = [d, e, f];
                (fis.count, fis.count_high) = (low, high);
            }
            Addressing::Queued => {
                // The tag takes the place of the count (Serial ATA 3.1, 13.6.4).
                fis.command = if write { code::WRITE_FPDMA_QUEUED } else { code::READ_FPDMA_QUEUED };
                fis.lba_high = [d, e, f];
                (fis.features, fis.features_high) = (low, high);
                fis.count = slot << 3;
            }
        }
        fis
    }
}

/// A port's memory.
///
/// Headers are 32 bytes each, and the HBA writes the transferred byte count into them. Two headers share a
/// cache line, but the driver reads that count only for non-queued commands, and there is at most one of
/// these at a time.
pub struct Tables {
    memory: Shared,
}

impl Tables {
    /// `memory` has [`TABLES_BYTES`] bytes, aligned to [`TABLES_ALIGN`].
    pub fn new(memory: DmaBuffer) -> Tables {
        Tables { memory: Shared::new(memory) }
    }

    /// Zeroes everything. Call only while the HBA does not use it.
    pub fn clear(&mut self, platform: &dyn Platform) {
        self.memory.clear(platform);
    }

    /// Bus address of the command list.
    pub fn list(&self) -> u64 {
        self.memory.bus_address(LIST)
    }

    /// Bus address of the received FIS area.
    pub fn received(&self) -> u64 {
        self.memory.bus_address(RECEIVED)
    }

    /// Bus address of the identity data.
    pub fn identity(&self) -> Span {
        Span { bus: self.memory.bus_address(IDENTITY), length: IDENTIFY_BYTES }
    }

    /// Makes the identity data that the disk wrote readable by [`identity_word`](Tables::identity_word).
    pub fn read_identity(&self, platform: &dyn Platform) {
        barrier::observe();
        self.memory.invalidate(IDENTITY, IDENTIFY_BYTES, platform);
    }

    /// A word of the identity data, 0 to 255; 0 beyond.
    pub fn identity_word(&self, word: usize) -> u16 {
        let inside = word < IDENTITY_WORDS;
        let place = word.wrapping_mul(size_of::<u16>()).wrapping_add(IDENTITY);
        if inside { self.memory.read(place).map_or(0, u16::from_le) } else { 0 }
    }

    /// Builds a command in a free command slot, with the memory for its data: even addresses, even lengths of
    /// at most [`PRD_BYTES`]. Spans beyond [`PRDS`] are dropped.
    pub fn lay_out(
        &mut self,
        slot: u8,
        command: Command,
        spans: &mut dyn Iterator<Item = Span>,
        platform: &dyn Platform,
    ) {
        let table = usize::from(slot).wrapping_mul(TABLE_BYTES).wrapping_add(TABLES);
        self.memory.write(table, command.fis(slot));
        let mut at = table.wrapping_add(TABLE_PRDS);
        let mut count = 0_u32;
        for span in spans.take(PRDS) {
            let last = (span.length as u32).wrapping_sub(1).to_le();
            self.memory.write(at, Prd { address: span.bus.to_le(), reserved: 0, last });
            at = at.wrapping_add(size_of::<Prd>());
            count = count.wrapping_add(1);
        }
        self.memory.clean(table, at.wrapping_sub(table), platform);

        let write = if command.writes() { HEADER_WRITE } else { 0 };
        let place = self.memory.bus_address(table);
        let header = Header {
            flags: (HEADER_LENGTH | write | count << 16).to_le(),
            transferred: 0,
            table: (place as u32).to_le(),
            table_high: ((place >> 32) as u32).to_le(),
            reserved: [0; 4],
        };
        let at = header_at(slot);
        self.memory.write(at, header);
        self.memory.clean(at, size_of::<Header>(), platform);
        // The command must be visible before the register write that issues it.
        barrier::publish();
    }

    /// Bytes transferred by a completed non-queued command, according to the HBA.
    pub fn transferred(&self, slot: u8, platform: &dyn Platform) -> u32 {
        barrier::observe();
        let at = header_at(slot);
        self.memory.invalidate(at, size_of::<Header>(), platform);
        self.memory.read::<u32>(at.wrapping_add(TRANSFERRED)).map_or(0, u32::from_le)
    }

    /// Feeds its address.
    pub fn integrity(&self, digest: &mut Digest) {
        self.memory.integrity(digest);
    }
}

fn header_at(slot: u8) -> usize {
    usize::from(slot).wrapping_mul(size_of::<Header>()).wrapping_add(LIST)
}

//! What a port works on (AHCI 1.3.1, 4.2): the command list, command tables, and what the disk sends back.

use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;
use static_assertions::{const_assert, const_assert_eq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::acs::{IDENTIFY_BYTES, code};
use crate::bus::barrier;
use crate::bus::shared::{LINE, Shared};
use crate::disk::Span;

/// Command slots that are used, at most. An HBA may have more.
pub const COMMAND_SLOTS: u8 = 16;

/// Entries in a command's PRD table, each a span of memory that it reads or writes, at most: more than a chunk of a dump
/// has.
pub const PRDS: usize = 136;
/// Bytes in one of them, at most (4.2.3.3).
pub const PRD_BYTES: usize = 4 << 20;

/// The list of headers, of which the HBA may read 32.
const LIST: usize = 0;
const LIST_BYTES: usize = 32 * size_of::<Header>();
/// Where received FISes go (4.2.1).
const RECEIVED: usize = LIST + LIST_BYTES;
const RECEIVED_BYTES: usize = 256;
/// Where the disk describes itself.
const IDENTITY: usize = RECEIVED + RECEIVED_BYTES;
const IDENTITY_WORDS: usize = IDENTIFY_BYTES / size_of::<u16>();
const TABLES: usize = IDENTITY + IDENTIFY_BYTES;
/// A command table: the command, then, at its own place, the PRD table.
const TABLE_PRDS: usize = 128;
const TABLE_BYTES: usize = TABLE_PRDS + PRDS * size_of::<Prd>();

/// Bytes of shared memory that a port takes, aligned to [`TABLES_ALIGN`].
pub const TABLES_BYTES: usize = TABLES + COMMAND_SLOTS as usize * TABLE_BYTES;
/// What the command list has to be aligned to (3.3.1).
pub const TABLES_ALIGN: usize = 1024;

const_assert_eq!(LIST_BYTES, 1024);
const_assert!(RECEIVED.is_multiple_of(RECEIVED_BYTES));
const_assert!(IDENTITY.is_multiple_of(LINE) && TABLES.is_multiple_of(128) && TABLE_BYTES.is_multiple_of(128));

/// Header of a command (4.2.2). Little-endian.
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

/// Offset of the bytes transferred, which the HBA writes.
const TRANSFERRED: usize = 4;
/// Header: dwords of the command, here always those of a register FIS.
const HEADER_LENGTH: u32 = 5;
/// Header: data goes to the disk.
const HEADER_WRITE: u32 = 1 << 6;

/// Physical region descriptor (4.2.3.3). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Prd {
    address: u64,
    reserved: u32,
    /// Bytes less one.
    last: u32,
}
const_assert_eq!(size_of::<Prd>(), 16);

/// A command to the disk: the FIS "register, host to device" (Serial ATA 3.1, 10.5.5).
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
/// This is a command, not a reset.
const FIS_COMMAND: u8 = 1 << 7;

/// The address is a block number.
const DEVICE_LBA: u8 = 1 << 6;

/// How sectors are addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// LBA28: at most 256 sectors.
    Lba28,
    /// LBA48: at most 65536 sectors.
    Lba48,
    /// FPDMA QUEUED: LBA48, and the disk finishes what it has been given in any order.
    Queued,
}

/// What a disk is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Describe yourself.
    Identify,
    /// Write your cache to the medium, by this command.
    Flush(u8),
    /// Move sectors.
    Transfer {
        /// To the disk.
        write: bool,
        /// The first sector.
        sector: u64,
        /// How many, at least 1.
        count: u32,
        /// How to say that.
        addressing: Addressing,
    },
}

impl Command {
    /// Whether data goes to the disk.
    fn writes(self) -> bool {
        matches!(self, Command::Transfer { write: true, .. })
    }

    /// Whether it goes beside others.
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
        // The largest count is reported as 0.
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
                // The count gives way to the tag (13.6.4 in Serial ATA 3.1).
                fis.command = if write { code::WRITE_FPDMA_QUEUED } else { code::READ_FPDMA_QUEUED };
                fis.lba_high = [d, e, f];
                (fis.features, fis.features_high) = (low, high);
                fis.count = slot << 3;
            }
        }
        fis
    }
}

/// The memory of a port.
///
/// Headers are 32 bytes each, and the HBA writes into them how much it has transferred. Two share a cache line, but that
/// number is only read for commands that are not queued, of which there is never more than one.
pub struct Tables {
    memory: Shared,
}

impl Tables {
    /// In a buffer of [`TABLES_BYTES`] bytes, aligned to [`TABLES_ALIGN`].
    pub fn new(memory: DmaBuffer) -> Tables {
        Tables { memory: Shared::new(memory) }
    }

    /// Zeroes everything. Only while the HBA does not use it.
    pub fn clear(&mut self, platform: &dyn Platform) {
        self.memory.clear(platform);
    }

    /// Where the HBA sees the command list.
    pub fn list(&self) -> u64 {
        self.memory.bus_address(LIST)
    }

    /// Where the HBA puts FISes that it receives.
    pub fn received(&self) -> u64 {
        self.memory.bus_address(RECEIVED)
    }

    /// Where the disk's description goes.
    pub fn identity(&self) -> Span {
        Span { bus: self.memory.bus_address(IDENTITY), length: IDENTIFY_BYTES }
    }

    /// Makes the disk's description, as it was written last, readable by [`identity_word`](Tables::identity_word).
    pub fn read_identity(&self, platform: &dyn Platform) {
        barrier::observe();
        self.memory.invalidate(IDENTITY, IDENTIFY_BYTES, platform);
    }

    /// A word of the disk's description, 0 to 255; 0 beyond.
    pub fn identity_word(&self, word: usize) -> u16 {
        let inside = word < IDENTITY_WORDS;
        let place = word.wrapping_mul(size_of::<u16>()).wrapping_add(IDENTITY);
        if inside { self.memory.read(place).map_or(0, u16::from_le) } else { 0 }
    }

    /// Lays out a command in a command slot that the HBA does not have, with the memory that it moves: even addresses,
    /// even lengths of at most [`PRD_BYTES`]. Spans beyond [`PRDS`] are left out.
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
        // The command before the register that announces it.
        barrier::publish();
    }

    /// Bytes that the HBA says it has moved for a command that is not queued and has ended.
    pub fn transferred(&self, slot: u8, platform: &dyn Platform) -> u32 {
        barrier::observe();
        let at = header_at(slot);
        self.memory.invalidate(at, size_of::<Header>(), platform);
        self.memory.read::<u32>(at.wrapping_add(TRANSFERRED)).map_or(0, u32::from_le)
    }

    /// Feeds where it is.
    pub fn integrity(&self, digest: &mut Digest) {
        self.memory.integrity(digest);
    }
}

fn header_at(slot: u8) -> usize {
    usize::from(slot).wrapping_mul(size_of::<Header>()).wrapping_add(LIST)
}

//! What a disk says of itself (ACS-3, 7.12.7).

use dumpcore::device::DeviceError;
use dumpcore::format::BLOCK_SIZE;

/// Words of the description.
mod word {
    pub(super) const GENERAL: usize = 0;
    pub(super) const SPECIAL: usize = 2;
    pub(super) const CAPABILITIES: usize = 49;
    pub(super) const SECTORS_SHORT: usize = 60;
    pub(super) const QUEUE_DEPTH: usize = 75;
    pub(super) const SATA: usize = 76;
    pub(super) const COMMANDS: usize = 83;
    pub(super) const SECTORS_LONG: usize = 100;
    pub(super) const SECTOR_KIND: usize = 106;
    pub(super) const SECTOR_WORDS: usize = 117;
    pub(super) const SECURITY: usize = 128;
    pub(super) const INTEGRITY: usize = 255;
    pub(super) const COUNT: usize = 256;
}

/// It is no ATA disk.
const GENERAL_NOT_ATA: u16 = 1 << 15;
/// It has to be told to spin up, and does not describe itself before.
const SPECIAL_ASLEEP: [u16; 2] = [0x37c8, 0x738c];
const CAPABILITIES_DMA: u16 = 1 << 8;
const CAPABILITIES_LBA: u16 = 1 << 9;
const SATA_NCQ: u16 = 1 << 8;
const COMMANDS_LONG: u16 = 1 << 10;
const COMMANDS_FLUSH: u16 = 1 << 12;
const COMMANDS_FLUSH_LONG: u16 = 1 << 13;
/// Logical sectors have another size than 512 bytes.
const SECTOR_KIND_LONG: u16 = 1 << 12;
const SECURITY_LOCKED: u16 = 1 << 2;
/// The lower byte of the last word if the upper one is a checksum.
const INTEGRITY_SIGNED: u16 = 0xa5;
/// Bits 14 and 15 of words that tell whether the word means anything, and what they then are.
const VALID: (u16, u16) = (3 << 14, 1 << 14);

/// How a cache is flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// There is no command for it, so there is no cache that could be lost.
    None,
    /// FLUSH CACHE.
    Short,
    /// FLUSH CACHE EXT.
    Long,
}

/// A disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Logical sectors.
    pub sectors: u64,
    /// Bytes in a logical sector: 512, 1024, 2048 or 4096.
    pub sector: u32,
    /// 48-bit addresses.
    pub long: bool,
    /// Commands that it queues, 0 if it does not, at most 32.
    pub queue: u32,
    /// How to flush its cache.
    pub flush: Flush,
}

impl Identity {
    /// Reads a description, of which `read` gives the words 0 to 255.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if this driver cannot use the disk, [`DeviceError::Protocol`] if the description makes
    /// no sense.
    pub fn read(read: impl Fn(usize) -> u16) -> Result<Identity, DeviceError> {
        let general = read(word::GENERAL);
        if read(word::INTEGRITY) & 0xff == INTEGRITY_SIGNED {
            let sum = (0..word::COUNT)
                .flat_map(|word| read(word).to_le_bytes())
                .fold(0_u8, |sum, byte| sum.wrapping_add(byte));
            if sum != 0 {
                return Err(DeviceError::Protocol { what: "its identity's checksum", value: sum.into() });
            }
        }
        if general & GENERAL_NOT_ATA != 0 {
            return Err(DeviceError::Unsupported { what: "an ATA disk", value: general.into() });
        }
        let special = read(word::SPECIAL);
        if SPECIAL_ASLEEP.contains(&special) {
            return Err(DeviceError::Unsupported {
                what: "a disk that spins up by itself",
                value: special.into(),
            });
        }
        let capabilities = read(word::CAPABILITIES);
        if capabilities & (CAPABILITIES_DMA | CAPABILITIES_LBA) != CAPABILITIES_DMA | CAPABILITIES_LBA {
            return Err(DeviceError::Unsupported {
                what: "a disk with DMA and LBA",
                value: capabilities.into(),
            });
        }
        let security = read(word::SECURITY);
        // All ones is no statement.
        if security & SECURITY_LOCKED != 0 && security != u16::MAX {
            return Err(DeviceError::Unsupported {
                what: "a disk that is not locked",
                value: security.into(),
            });
        }
        let sector = read_sector_size(&read)?;

        let valid = |word: u16| if word & VALID.0 == VALID.1 { word } else { 0 };
        let commands = valid(read(word::COMMANDS));
        let number = |first: usize, words: usize| {
            (0..words).rev().fold(0_u64, |sum, at| sum << 16 | u64::from(read(first.wrapping_add(at))))
        };
        // A disk whose long size is 0 has the bit by mistake.
        let long = commands & COMMANDS_LONG != 0 && number(word::SECTORS_LONG, 4) != 0;
        let sectors = if long { number(word::SECTORS_LONG, 4) } else { number(word::SECTORS_SHORT, 2) };
        let limit = if long { 1_u64 << 48 } else { 1 << 28 };
        if sectors == 0 || sectors > limit {
            return Err(DeviceError::Protocol { what: "its number of sectors", value: sectors });
        }
        let sata = read(word::SATA);
        let queued = long && sata != u16::MAX && sata & SATA_NCQ != 0;
        let depth = u32::from(read(word::QUEUE_DEPTH) & 0x1f).wrapping_add(1);
        let flush = if commands & COMMANDS_FLUSH_LONG != 0 && long {
            Flush::Long
        } else if commands & COMMANDS_FLUSH != 0 {
            Flush::Short
        } else {
            Flush::None
        };
        Ok(Identity { sectors, sector, long, queue: if queued { depth } else { 0 }, flush })
    }

    /// Whole blocks of 4096 bytes.
    pub fn blocks(&self) -> u64 {
        self.sectors.wrapping_shr(self.block_shift())
    }

    /// Sectors in a block of 4096 bytes, as a power of two.
    pub fn block_shift(&self) -> u32 {
        (BLOCK_SIZE as u32).trailing_zeros().saturating_sub(self.sector.trailing_zeros())
    }
}

fn read_sector_size(read: impl Fn(usize) -> u16) -> Result<u32, DeviceError> {
    let kind = read(word::SECTOR_KIND);
    if kind & VALID.0 != VALID.1 || kind & SECTOR_KIND_LONG == 0 {
        return Ok(512);
    }
    let words = u32::from(read(word::SECTOR_WORDS)) | u32::from(read(word::SECTOR_WORDS + 1)) << 16;
    let size = words.saturating_mul(2);
    if size < 512 {
        return Err(DeviceError::Protocol { what: "its sector size", value: size.into() });
    }
    if size as usize > BLOCK_SIZE || !size.is_power_of_two() {
        let what = "a disk with sectors of 512, 1024, 2048 or 4096 bytes";
        return Err(DeviceError::Unsupported { what, value: size.into() });
    }
    Ok(size)
}

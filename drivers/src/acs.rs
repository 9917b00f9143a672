//! The ATA command set (ACS-3), shared by disks on AHCI and IDE controllers: command codes, and the response
//! to IDENTIFY DEVICE (7.12.7), every field of which is validated.

use dumpcore::device::DeviceError;
use dumpcore::format::BLOCK_SIZE;

/// Command codes (7).
pub mod code {
    /// READ SECTORS.
    pub const READ_SECTORS: u8 = 0x20;
    /// READ SECTORS EXT.
    pub const READ_SECTORS_EXT: u8 = 0x24;
    /// READ DMA EXT.
    pub const READ_DMA_EXT: u8 = 0x25;
    /// READ MULTIPLE EXT.
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    /// WRITE SECTORS.
    pub const WRITE_SECTORS: u8 = 0x30;
    /// WRITE SECTORS EXT.
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    /// WRITE DMA EXT.
    pub const WRITE_DMA_EXT: u8 = 0x35;
    /// WRITE MULTIPLE EXT.
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    /// READ FPDMA QUEUED.
    pub const READ_FPDMA_QUEUED: u8 = 0x60;
    /// WRITE FPDMA QUEUED.
    pub const WRITE_FPDMA_QUEUED: u8 = 0x61;
    /// READ MULTIPLE.
    pub const READ_MULTIPLE: u8 = 0xc4;
    /// WRITE MULTIPLE.
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    /// SET MULTIPLE MODE.
    pub const SET_MULTIPLE_MODE: u8 = 0xc6;
    /// READ DMA.
    pub const READ_DMA: u8 = 0xc8;
    /// WRITE DMA.
    pub const WRITE_DMA: u8 = 0xca;
    /// FLUSH CACHE.
    pub const FLUSH_CACHE: u8 = 0xe7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY_DEVICE: u8 = 0xec;
}

/// Maximum number of sectors in an LBA28 command.
pub const LBA28_SECTORS: usize = 256;

/// Bytes in the IDENTIFY DEVICE response.
pub const IDENTIFY_BYTES: usize = 512;

/// Word offsets in the IDENTIFY DEVICE response.
mod word {
    pub(super) const GENERAL: usize = 0;
    pub(super) const SPECIFIC: usize = 2;
    pub(super) const MULTIPLE: usize = 47;
    pub(super) const CAPABILITIES: usize = 49;
    pub(super) const VALID: usize = 53;
    pub(super) const SECTORS_28: usize = 60;
    pub(super) const MULTIWORD_DMA: usize = 63;
    pub(super) const SUPPORTED: usize = 69;
    pub(super) const QUEUE_DEPTH: usize = 75;
    pub(super) const SATA: usize = 76;
    pub(super) const COMMANDS: usize = 83;
    pub(super) const ULTRA_DMA: usize = 88;
    pub(super) const SECTORS_48: usize = 100;
    pub(super) const SECTOR_KIND: usize = 106;
    pub(super) const SECTOR_WORDS: usize = 117;
    pub(super) const SECURITY: usize = 128;
    pub(super) const SECTORS_EXTENDED: usize = 230;
    pub(super) const INTEGRITY: usize = 255;
    pub(super) const COUNT: usize = 256;
}

/// Not an ATA disk.
const GENERAL_NOT_ATA: u16 = 1 << 15;
/// The disk must be told to spin up, and its identity data is incomplete until then.
const SPECIFIC_ASLEEP: [u16; 2] = [0x37c8, 0x738c];
const CAPABILITIES_DMA: u16 = 1 << 8;
const CAPABILITIES_LBA: u16 = 1 << 9;
/// Word 88 is valid.
const VALID_ULTRA_DMA: u16 = 1 << 2;
/// In words 63 and 88: the selected mode.
const MULTIWORD_SELECTED: u16 = 0x0700;
const ULTRA_SELECTED: u16 = 0x7f00;
/// Words 230 to 233 are valid.
const SUPPORTED_EXTENDED: u16 = 1 << 3;
const SATA_NCQ: u16 = 1 << 8;
const COMMANDS_LBA48: u16 = 1 << 10;
const COMMANDS_FLUSH: u16 = 1 << 12;
const COMMANDS_FLUSH_EXT: u16 = 1 << 13;
/// Logical sectors are larger than 512 bytes.
const SECTOR_KIND_LARGE: u16 = 1 << 12;
const SECURITY_LOCKED: u16 = 1 << 2;
/// The lower byte of the last word if the upper byte is a checksum.
const INTEGRITY_SIGNED: u16 = 0xa5;

/// Returns a word, or 0 if its bits 14 and 15 say that it is not valid.
fn valid(word: u16) -> u16 {
    if word >> 14 == 0b01 { word } else { 0 }
}

/// A disk's identity data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Logical sectors.
    pub sectors: u64,
    /// Bytes in a logical sector: 512, 1024, 2048 or 4096.
    pub sector: usize,
    /// The disk supports 48-bit addresses.
    pub lba48: bool,
    /// Word 49: capabilities.
    pub capabilities: u16,
    /// A DMA mode is selected: the firmware or the old driver did that, and set the controller's timing to
    /// match.
    pub dma_selected: bool,
    /// Queue depth: 0 without queuing, at most 32.
    pub queue: u32,
    /// The command that flushes the cache. A disk without one has no volatile cache.
    pub flush: Option<u8>,
    /// Sectors per data block of READ MULTIPLE and WRITE MULTIPLE: a power of two, 1 to 16.
    pub multiple: usize,
}

impl Identity {
    /// Parses identity data; `read` returns words 0 to 255.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not a disk with block addresses, is locked, or has
    /// sectors of other than 512, 1024, 2048 or 4096 bytes; [`DeviceError::Protocol`] if the data is
    /// inconsistent.
    pub fn read(read: impl Fn(usize) -> u16) -> Result<Identity, DeviceError> {
        if read(word::INTEGRITY) & 0xff == INTEGRITY_SIGNED {
            let bytes = (0..word::COUNT).flat_map(|word| read(word).to_le_bytes());
            let sum = bytes.fold(0_u8, |sum, byte| sum.wrapping_add(byte));
            if sum != 0 {
                return Err(DeviceError::Protocol { what: "its identity's checksum", value: sum.into() });
            }
        }
        let unless = |bad: bool, what: &'static str, value: u16| match bad {
            true => Err(DeviceError::Unsupported { what, value: value.into() }),
            false => Ok(value),
        };
        let general = read(word::GENERAL);
        unless(general & GENERAL_NOT_ATA != 0, "an ATA disk", general)?;
        let specific = read(word::SPECIFIC);
        unless(SPECIFIC_ASLEEP.contains(&specific), "a disk that spins up by itself", specific)?;
        let capabilities = read(word::CAPABILITIES);
        unless(capabilities & CAPABILITIES_LBA == 0, "an ATA disk with block addresses (LBA)", capabilities)?;
        let security = read(word::SECURITY);
        // All ones: the word is not implemented.
        let locked = security & SECURITY_LOCKED != 0 && security != u16::MAX;
        unless(locked, "a disk that is not locked by a password", security)?;

        let number = |first: usize, words: usize| {
            (0..words).rev().fold(0_u64, |sum, at| sum << 16 | u64::from(read(first.wrapping_add(at))))
        };
        let commands = valid(read(word::COMMANDS));
        // A disk whose 48-bit size is 0 sets the bit by mistake.
        let lba48 = commands & COMMANDS_LBA48 != 0 && number(word::SECTORS_48, 4) != 0;
        let sectors = match lba48 {
            // Larger than words 100 to 103 can hold.
            true if read(word::SUPPORTED) & SUPPORTED_EXTENDED != 0 => number(word::SECTORS_EXTENDED, 4),
            true => number(word::SECTORS_48, 4),
            false => number(word::SECTORS_28, 2),
        };
        if sectors == 0 || sectors > if lba48 { 1 << 48 } else { 1 << 28 } {
            return Err(DeviceError::Protocol { what: "its number of sectors", value: sectors });
        }
        let sector = match valid(read(word::SECTOR_KIND)) & SECTOR_KIND_LARGE {
            0 => 512,
            _ => number(word::SECTOR_WORDS, 2).saturating_mul(2),
        };
        if sector < 512 {
            return Err(DeviceError::Protocol { what: "its sector size", value: sector });
        }
        if sector > BLOCK_SIZE as u64 || !sector.is_power_of_two() {
            let what = "a disk with power-of-two sectors of 512 bytes or more and 4096 bytes or less";
            return Err(DeviceError::Unsupported { what, value: sector });
        }

        let multiword = read(word::MULTIWORD_DMA) & MULTIWORD_SELECTED != 0;
        let ultra = read(word::VALID) & VALID_ULTRA_DMA != 0 && read(word::ULTRA_DMA) & ULTRA_SELECTED != 0;
        let sata = read(word::SATA);
        let queues = lba48 && sata != u16::MAX && sata & SATA_NCQ != 0;
        let depth = u32::from(read(word::QUEUE_DEPTH) & 0x1f).wrapping_add(1);
        let multiple = u32::from(read(word::MULTIPLE) as u8).clamp(1, 16).ilog2();
        Ok(Identity {
            sectors,
            sector: sector as usize,
            lba48,
            capabilities,
            dma_selected: capabilities & CAPABILITIES_DMA != 0 && (multiword || ultra),
            queue: if queues { depth } else { 0 },
            flush: match commands {
                _ if lba48 && commands & COMMANDS_FLUSH_EXT != 0 => Some(code::FLUSH_CACHE_EXT),
                _ if commands & COMMANDS_FLUSH != 0 => Some(code::FLUSH_CACHE),
                _ => None,
            },
            multiple: 1_usize.checked_shl(multiple).unwrap_or(1),
        })
    }

    /// Whether the disk supports DMA.
    pub fn has_dma(&self) -> bool {
        self.capabilities & CAPABILITIES_DMA != 0
    }

    /// Number of whole 4096-byte blocks.
    pub fn blocks(&self) -> u64 {
        self.sectors.wrapping_shr(self.block_shift())
    }

    /// Sectors per 4096-byte block, as a power of two.
    pub fn block_shift(&self) -> u32 {
        BLOCK_SIZE.trailing_zeros().saturating_sub(self.sector.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(words: &[(usize, u16)]) -> [u16; 256] {
        let mut all = [0; 256];
        let usual = [(49, 1 << 9), (60, 0x1000), (83, 0x4000)];
        for (at, value) in usual.iter().chain(words) {
            all[*at] = *value;
        }
        all
    }

    fn read(words: &[(usize, u16)]) -> Result<Identity, DeviceError> {
        let all = answer(words);
        Identity::read(|word| all[word])
    }

    #[test]
    fn an_old_disk_has_28_bits_and_no_more_than_it_says() {
        let disk = Identity {
            sectors: 0x1000,
            sector: 512,
            lba48: false,
            capabilities: 1 << 9,
            dma_selected: false,
            queue: 0,
            flush: None,
            multiple: 1,
        };
        assert_eq!(read(&[]), Ok(disk));
        assert_eq!(read(&[(60, 0), (61, 0x1000)]), Ok(Identity { sectors: 1 << 28, ..disk }));
        // Bits 14 and 15 say whether words 83 and 106 are valid.
        for odd in [0x3400_u16, 0x0400, 0x8400, 0xffff] {
            assert_eq!(read(&[(83, odd), (106, odd | 1 << 12), (117, 2048)]), Ok(disk), "{odd:#x}");
        }
    }

    #[test]
    fn sizes_beyond_28_and_32_bits_are_read_whole() {
        let wide = [(83, 0x7400), (100, 0x5678), (101, 0x1234), (102, 0x9)];
        let disk = read(&wide).unwrap();
        assert_eq!(
            (disk.sectors, disk.lba48, disk.flush),
            (0x9_1234_5678, true, Some(code::FLUSH_CACHE_EXT))
        );
        let mut more = wide.to_vec();
        more.extend([(69, 1 << 3), (230, 7), (232, 1)]);
        assert_eq!(read(&more).unwrap().sectors, 0x1_0000_0007);
        assert_eq!(read(&[(83, 0x5000)]).unwrap().flush, Some(code::FLUSH_CACHE));
    }

    #[test]
    fn without_a_48_bit_size_there_is_no_lba48() {
        let disk = read(&[(83, 0x7400)]).unwrap();
        assert_eq!((disk.sectors, disk.lba48, disk.flush), (0x1000, false, Some(code::FLUSH_CACHE)));
    }

    #[test]
    fn a_mode_that_is_only_offered_is_not_selected() {
        let dma = |words: &[(usize, u16)]| read(words).unwrap().dma_selected;
        let both = 1 << 9 | 1 << 8;
        assert!(!dma(&[(49, both), (63, 7), (53, 4), (88, 0x3f)]));
        assert!(dma(&[(49, both), (63, 0x0407)]));
        assert!(dma(&[(49, both), (53, 4), (88, 0x203f)]));
        assert!(!dma(&[(49, both), (53, 0), (88, 0x203f)]));
        assert!(!dma(&[(63, 0x0407)]));
    }

    #[test]
    fn disks_that_cannot_be_served_are_refused_by_name() {
        let refused = |words: &[(usize, u16)], part: &str| {
            let result = read(words);
            let named = matches!(result, Err(DeviceError::Unsupported { what, .. }) if what.contains(part));
            assert!(named, "{part}: {result:?}");
        };
        refused(&[(0, 1 << 15)], "an ATA disk");
        refused(&[(49, 0)], "LBA");
        refused(&[(128, 0x7)], "locked");
        refused(&[(106, 0x5000), (117, 4096)], "4096");
        refused(&[(106, 0x5000), (117, 300)], "4096");
        assert!(matches!(read(&[(106, 0x5000), (117, 200)]), Err(DeviceError::Protocol { .. })));
        assert!(matches!(read(&[(106, 0x5000), (117, 0)]), Err(DeviceError::Protocol { .. })));
        assert!(matches!(read(&[(60, 0)]), Err(DeviceError::Protocol { .. })));
    }

    #[test]
    fn the_checksum_is_believed_where_there_is_one() {
        let mut words = answer(&[(255, 0xa5)]);
        let result = Identity::read(|word| words[word]);
        assert!(matches!(result, Err(DeviceError::Protocol { what: "its identity's checksum", .. })));
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        let sum = bytes.fold(0_u8, |sum, byte| sum.wrapping_add(byte));
        words[255] |= u16::from(0_u8.wrapping_sub(sum)) << 8;
        assert!(Identity::read(|word| words[word]).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_a_disk_answers_its_identity_is_sane(
            noise in proptest::collection::vec(any::<u16>(), 256),
            words in proptest::collection::vec((0_usize..256, any::<u16>()), 0..8),
        ) {
            for answer in [noise, answer(&words).to_vec()] {
                if let Ok(disk) = Identity::read(|word| answer[word]) {
                    prop_assert!(disk.sectors > 0 && disk.sectors <= 1 << 48);
                    prop_assert!(disk.sector.is_power_of_two() && (512..=4096).contains(&disk.sector));
                    prop_assert!(disk.multiple.is_power_of_two() && (1..=16).contains(&disk.multiple));
                }
            }
        }
    }
}

//! What a disk says of itself: the answer to IDENTIFY DEVICE (ATA8-ACS, 7.17), of which nothing is believed unseen.

use dumpcore::device::DeviceError;
use dumpcore::format::BLOCK_SIZE;

/// Bytes in the answer.
pub(super) const BYTES: usize = 512;

/// FLUSH CACHE.
const FLUSH: u8 = 0xe7;
/// FLUSH CACHE EXT.
const FLUSH_EXT: u8 = 0xea;

/// What is agreed upon with a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    /// Size in sectors.
    pub(super) sectors: u64,
    /// Bytes in a sector: a power of two, 512 to 4096.
    pub(super) sector: usize,
    /// Addresses have 48 bits, not 28.
    pub(super) wide: bool,
    /// A mode for DMA is selected, by whoever set the timing of the controller too.
    pub(super) dma: bool,
    /// The command that flushes the cache.
    pub(super) flush: Option<u8>,
    /// Sectors that can be moved together between two looks at the status, at most: a power of two, 1 to 16.
    pub(super) multiple: usize,
}

impl Terms {
    /// Reads the answer.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is no disk with block numbers, or locked, or has sectors beyond 4096 bytes;
    /// [`DeviceError::Protocol`] if the answer is no answer.
    pub(super) fn read(answer: &[u8]) -> Result<Terms, DeviceError> {
        let word = |index: usize| {
            let at = index.saturating_mul(2);
            let low = answer.get(at).copied().unwrap_or(0);
            let high = answer.get(at.saturating_add(1)).copied().unwrap_or(0);
            u16::from_le_bytes([low, high])
        };
        let long = |index: usize| u64::from(word(index.saturating_add(1))) << 16 | u64::from(word(index));
        let longest = |index: usize| long(index.saturating_add(2)) << 32 | long(index);

        let integrity = word(255);
        if integrity as u8 == 0xa5 {
            let sum = answer.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            if sum != 0 {
                return Err(DeviceError::Protocol { what: "its IDENTIFY checksum", value: sum.into() });
            }
        }
        if word(0) & 1 << 15 != 0 {
            return Err(DeviceError::Unsupported { what: "an ATA disk", value: word(0).into() });
        }
        if word(49) & 1 << 9 == 0 {
            let what = "an ATA disk with block addresses (LBA)";
            return Err(DeviceError::Unsupported { what, value: word(49).into() });
        }
        if word(128) & 0b100 != 0 {
            let what = "a disk that is not locked by a password";
            return Err(DeviceError::Unsupported { what, value: word(128).into() });
        }

        let valid = |value: u16| if value >> 14 == 0b01 { value } else { 0 };
        let commands = valid(word(83));
        // A disk whose long size is 0 has the bit by mistake.
        let wide = commands & 1 << 10 != 0 && longest(100) != 0;
        let sectors = match wide {
            // More than words 100 to 103 may say.
            true if word(69) & 1 << 3 != 0 => longest(230),
            true => longest(100),
            false => long(60),
        };
        let most = if wide { 1 << 48 } else { 1 << 28 };
        if sectors == 0 || sectors > most {
            return Err(DeviceError::Protocol { what: "its number of sectors", value: sectors });
        }

        let sizes = valid(word(106));
        let sector = if sizes & 1 << 12 != 0 { long(117).saturating_mul(2) } else { 512 };
        if !sector.is_power_of_two() || sector < 512 {
            return Err(DeviceError::Protocol { what: "its sector size", value: sector });
        }
        if sector > BLOCK_SIZE as u64 {
            let what = "a disk with sectors of 4096 bytes or less";
            return Err(DeviceError::Unsupported { what, value: sector });
        }

        // Of each kind of DMA, the upper byte says which mode is selected.
        let simple = word(63) & 0x0700 != 0;
        let ultra = word(53) & 1 << 2 != 0 && word(88) & 0x7f00 != 0;
        let flush = match commands {
            _ if wide && commands & 1 << 13 != 0 => Some(FLUSH_EXT),
            _ if commands & 1 << 12 != 0 => Some(FLUSH),
            _ => None,
        };
        let multiple = u32::from(word(47) as u8).clamp(1, 16).ilog2();
        Ok(Terms {
            sectors,
            sector: sector as usize,
            wide,
            dma: word(49) & 1 << 8 != 0 && (simple || ultra),
            flush,
            multiple: 1_usize.checked_shl(multiple).unwrap_or(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(words: &[(usize, u16)]) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        let usual = [(49, 1 << 9), (60, 0x1000), (83, 0x4000)];
        for (at, value) in usual.iter().chain(words) {
            bytes[at * 2..][..2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn read(words: &[(usize, u16)]) -> Result<Terms, DeviceError> {
        Terms::read(&answer(words))
    }

    #[test]
    fn an_old_disk_has_28_bits_and_no_more_than_it_says() {
        let terms = Terms { sectors: 0x1000, sector: 512, wide: false, dma: false, flush: None, multiple: 1 };
        assert_eq!(read(&[]), Ok(terms));
        assert_eq!(read(&[(60, 0), (61, 0x1000)]), Ok(Terms { sectors: 1 << 28, ..terms }));
        // Bits 14 and 15 say whether words 83 and 106 mean anything.
        for odd in [0x3400_u16, 0x0400, 0x8400, 0xffff] {
            assert_eq!(read(&[(83, odd), (106, odd | 1 << 12), (117, 2048)]), Ok(terms), "{odd:#x}");
        }
    }

    #[test]
    fn sizes_beyond_28_and_32_bits_are_read_whole() {
        let wide = [(83, 0x7400), (100, 0x5678), (101, 0x1234), (102, 0x9)];
        let terms = read(&wide).unwrap();
        assert_eq!((terms.sectors, terms.wide, terms.flush), (0x9_1234_5678, true, Some(FLUSH_EXT)));
        let mut more = wide.to_vec();
        more.extend([(69, 1 << 3), (230, 7), (232, 1)]);
        assert_eq!(read(&more).unwrap().sectors, 0x1_0000_0007);
        assert_eq!(read(&[(83, 0x5000)]).unwrap().flush, Some(FLUSH));
    }

    #[test]
    fn without_a_long_size_there_are_no_long_addresses() {
        let terms = read(&[(83, 0x7400)]).unwrap();
        assert_eq!((terms.sectors, terms.wide, terms.flush), (0x1000, false, Some(FLUSH)));
    }

    #[test]
    fn a_mode_that_is_only_offered_is_not_selected() {
        let dma = |words: &[(usize, u16)]| read(words).unwrap().dma;
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
        assert!(matches!(read(&[(106, 0x5000), (117, 300)]), Err(DeviceError::Protocol { .. })));
        assert!(matches!(read(&[(106, 0x5000), (117, 0)]), Err(DeviceError::Protocol { .. })));
        assert!(matches!(read(&[(60, 0)]), Err(DeviceError::Protocol { .. })));
    }

    #[test]
    fn the_checksum_is_believed_where_there_is_one() {
        let mut bytes = answer(&[(255, 0xa5)]);
        assert!(matches!(
            Terms::read(&bytes),
            Err(DeviceError::Protocol { what: "its IDENTIFY checksum", .. })
        ));
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[511] = 0_u8.wrapping_sub(sum);
        assert!(Terms::read(&bytes).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_a_disk_answers_its_terms_are_sane(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            words in proptest::collection::vec((0_usize..256, any::<u16>()), 0..8),
        ) {
            for answer in [bytes, answer(&words)] {
                if let Ok(terms) = Terms::read(&answer) {
                    prop_assert!(terms.sectors > 0 && terms.sectors <= 1 << 48);
                    prop_assert!(terms.sector.is_power_of_two() && (512..=4096).contains(&terms.sector));
                    prop_assert!(terms.multiple.is_power_of_two() && (1..=16).contains(&terms.multiple));
                }
            }
        }
    }
}

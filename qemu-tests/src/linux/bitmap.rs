//! The pages contained in a compressed kdump file.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The pages contained in a kdump file: its second bitmap (makedumpfile, IMPLEMENTATION; `struct
/// disk_dump_header`).
pub(super) struct Bitmap {
    bits: Vec<u8>,
}

impl Bitmap {
    pub(super) fn read(core: &Path) -> Result<Bitmap> {
        let cannot = || format!("cannot read {} as a kdump", core.display());
        let file = fs::File::open(core).with_context(cannot)?;
        let mut head = [0; 444];
        file.read_exact_at(&mut head, 0).with_context(cannot)?;
        ensure!(head.starts_with(b"KDUMP   "), "{} is not a kdump file", core.display());
        let word = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).with_context(cannot)
        };
        // After the signature, a version, 390 bytes of names and a time.
        let (block, sub_header, blocks) = (word(428)?, word(432)?, word(436)?);
        let half = u64::from(blocks) / 2 * u64::from(block);
        let first = u64::from(1 + sub_header) * u64::from(block);
        let mut bits = vec![0; usize::try_from(half).with_context(cannot)?];
        file.read_exact_at(&mut bits, first + half).with_context(cannot)?;
        Ok(Bitmap { bits })
    }

    /// Whether it contains this page frame.
    pub(super) fn has(&self, pfn: u64) -> bool {
        let byte = usize::try_from(pfn / 8).ok().and_then(|index| self.bits.get(index));
        byte.is_some_and(|byte| byte >> (pfn % 8) & 1 == 1)
    }

    pub(super) fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Page frames that are in this one but not in the other.
    pub(super) fn without(&self, other: &Bitmap) -> Vec<u64> {
        let there = other.bits.iter().copied().chain(std::iter::repeat(0));
        let bytes = self.bits.iter().zip(there).enumerate();
        bytes
            .flat_map(|(index, (here, there))| {
                let only = here & !there;
                (0..8).filter(move |bit| only >> bit & 1 == 1).map(move |bit| index as u64 * 8 + bit)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_and_not_of_the_other() {
        let (one, other) = (Bitmap { bits: vec![0b1010, 1] }, Bitmap { bits: vec![0b0010] });
        assert_eq!(one.without(&other), [3, 8]);
        assert_eq!(other.without(&one), Vec::<u64>::new());
        assert_eq!(one.count(), 3);
        let there: Vec<u64> = (0..40).filter(|pfn| one.has(*pfn)).collect();
        assert_eq!(there, [1, 3, 8]);
    }
}

//! Keeps the disk busy while the next bytes are produced: a file's data does not stay in the cache until it
//! is complete.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;

use rustix::fs::{Advice, fadvise};

/// Bytes written before starting writeback.
const PIECE: u64 = 16 << 20;

/// The part of a file that was written but is not in writeback yet.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    /// The range that contains it.
    range: Range<u64>,
    /// Its size in bytes.
    bytes: u64,
}

impl Writeback {
    /// Records a write; once there is enough, makes the kernel start writing it to the disk. Does not wait
    /// for the disk, and makes nothing durable: syncing does.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64, length: usize) {
        if let Some(piece) = self.piece(offset, length as u64) {
            // The kernel starts writing the dirty pages, to be able to drop them (Linux, mm/fadvise.c). If it
            // does not, syncing takes longer.
            let length = NonZeroU64::new(piece.end - piece.start);
            let _ = fadvise(file, piece.start, length, Advice::DontNeed);
        }
    }

    /// Records a write; returns the range to write back once there is enough.
    fn piece(&mut self, offset: u64, length: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(length);
        self.range = match self.bytes {
            0 => offset..end,
            _ => self.range.start.min(offset)..self.range.end.max(end),
        };
        self.bytes += length;
        (self.bytes >= PIECE).then(|| {
            self.bytes = 0;
            self.range.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_pointed_out_but_for_less_than_a_piece(
            writes in prop::collection::vec((0..64 * PIECE, 1..2 * PIECE), 0..40)
        ) {
            let mut writeback = Writeback::default();
            let mut waiting: Vec<Range<u64>> = Vec::new();
            for (offset, length) in writes {
                waiting.push(offset..offset + length);
                if let Some(piece) = writeback.piece(offset, length) {
                    waiting.retain(|one| one.start < piece.start || one.end > piece.end);
                    prop_assert!(waiting.is_empty());
                }
                prop_assert!(waiting.iter().map(|one| one.end - one.start).sum::<u64>() < PIECE);
            }
        }
    }
}

//! The disk works while the next bytes are made: what a file was given is not left in the cache until all of it is there.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;

use rustix::fs::{Advice, fadvise};

/// Bytes that are written before the disk is told of them.
const PIECE: u64 = 16 << 20;

/// What of a file was written, and was not pointed out to the disk.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    /// All of it lies in here.
    range: Range<u64>,
    /// How much it is, in bytes.
    bytes: u64,
}

impl Writeback {
    /// Notes what was written; and has the kernel begin to write it to the disk, once it is a good piece. Does not wait for
    /// the disk, and makes nothing safe: syncing does.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64, length: usize) {
        if let Some(piece) = self.piece(offset, length as u64) {
            // The kernel begins to write what is dirty there, so that it need not keep it (Linux, mm/fadvise.c). Where it
            // does not, syncing takes longer.
            let length = NonZeroU64::new(piece.end - piece.start);
            let _ = fadvise(file, piece.start, length, Advice::DontNeed);
        }
    }

    /// Notes what was written; returns where a good piece of it lies.
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

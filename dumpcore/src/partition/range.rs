//! A range of blocks.

/// The blocks from `from` up to, not including, `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// The first block.
    pub from: u64,
    /// The first block after the range.
    pub to: u64,
}

impl BlockRange {
    /// No blocks.
    pub const EMPTY: BlockRange = BlockRange { from: 0, to: 0 };

    /// The `count` blocks from `first` on.
    pub fn of(first: u64, count: u64) -> BlockRange {
        BlockRange { from: first, to: first.saturating_add(count) }
    }

    /// Number of blocks; 0 if the range is backwards.
    pub fn count(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

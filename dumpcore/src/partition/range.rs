//! A row of blocks.

/// The blocks from one up to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// The first.
    pub from: u64,
    /// The first that is not among them.
    pub to: u64,
}

impl BlockRange {
    /// No blocks.
    pub const EMPTY: BlockRange = BlockRange { from: 0, to: 0 };

    /// The `count` blocks from `first` on.
    pub fn of(first: u64, count: u64) -> BlockRange {
        BlockRange { from: first, to: first.saturating_add(count) }
    }

    /// How many blocks; none if it ends before it begins.
    pub fn count(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

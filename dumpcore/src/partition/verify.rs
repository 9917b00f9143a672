//! How much of the pattern is checked before blocks are overwritten, and the progress of a check.

use crate::format::Uuid;
use crate::format::pattern;
use crate::limits::MAX_BUFFERS;
use crate::partition::range::BlockRange;
use crate::partition::unfit::Unfit;
use crate::partition::window::Window;
use crate::wait::Wait;

/// How much of the pattern is checked, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// Every free block of the partition, before the first write. This is the default, and what the 2004
    /// diskdump did. If it takes half of the time budget, the check continues as [`Ahead`](Verify::Ahead), so
    /// that time is left for writing.
    All,
    /// Every block, just ahead of its write, while others are being written. Writing starts at once.
    Ahead,
    /// Every `every`-th free block before the first write, and always the first and the last. Fast, but a
    /// risk that the user takes.
    Sample {
        /// The stride, at least 1.
        every: u64,
    },
}

/// A check of a range of blocks, with many reads in flight, which complete in any order.
#[derive(Debug)]
pub struct Checker {
    /// Blocks before this one hold their pattern.
    frontier: u64,
    /// The next block to read.
    next: u64,
    /// The first block not to be checked.
    end: u64,
    /// The first block known not to hold its pattern.
    bad: Option<u64>,
    /// Ranges after the frontier that hold their pattern; empty ones are free entries.
    good: [BlockRange; RANGES],
    /// Ranges that have to be read again.
    again: [BlockRange; RANGES],
}

/// More reads than can be in flight or with helpers at once.
const RANGES: usize = 2 * MAX_BUFFERS;

impl Checker {
    /// A check of the blocks from `from` up to, not including, `to`.
    pub fn new(from: u64, to: u64) -> Checker {
        let none = [BlockRange::EMPTY; RANGES];
        Checker { frontier: from, next: from, end: to, bad: None, good: none, again: none }
    }

    /// Begins another check of the blocks from `from` up to, not including, `to`. In place, because a checker
    /// is large for a small stack.
    pub fn begin(&mut self, from: u64, to: u64) {
        (self.frontier, self.next, self.end, self.bad) = (from, from, to, None);
        self.good.fill(BlockRange::EMPTY);
        self.again.fill(BlockRange::EMPTY);
    }

    /// The first block that has not been checked: all before it hold their pattern and may be written.
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Whether everything has been checked.
    pub fn is_done(&self) -> bool {
        self.frontier >= self.end
    }

    /// The next range to read, of at most `most` blocks, all of them below `limit`.
    pub fn next_read(&mut self, most: u64, limit: u64) -> Option<BlockRange> {
        if let Some(range) = self.again.iter_mut().find(|range| !range.is_empty()) {
            let next = BlockRange::of(range.from, range.count().min(most));
            range.from = next.to;
            return Some(next);
        }
        let end = self.end.min(limit);
        let next = BlockRange::of(self.next, end.saturating_sub(self.next).min(most));
        if next.is_empty() {
            return None;
        }
        self.next = next.to;
        Some(next)
    }

    /// Marks a range that was read but not checked, so that it is read again.
    pub fn read_again(&mut self, range: BlockRange) {
        if let Some(free) = self.again.iter_mut().find(|range| range.is_empty()) {
            *free = range;
        }
    }

    /// Marks a range that holds its pattern.
    pub fn is_good(&mut self, range: BlockRange) {
        if range.is_empty() {
            return;
        }
        // Adjacent ranges are joined, so there are never more ranges than gaps, and each gap is a read or
        // check in progress.
        let mut whole = range;
        for range in self.good.iter_mut().filter(|range| !range.is_empty()) {
            if range.to == whole.from {
                whole.from = range.from;
                *range = BlockRange::EMPTY;
            } else if range.from == whole.to {
                whole.to = range.to;
                *range = BlockRange::EMPTY;
            }
        }
        if let Some(free) = self.good.iter_mut().find(|range| range.is_empty()) {
            *free = whole;
        }
        // Each turn removes a range.
        while let Some(range) =
            self.good.iter_mut().find(|range| !range.is_empty() && range.from <= self.frontier)
        {
            self.frontier = self.frontier.max(range.to);
            *range = BlockRange::EMPTY;
        }
    }

    /// Marks a block that does not hold its pattern. The blocks after it need no check: no dump gets past it.
    pub fn is_bad(&mut self, block: u64) {
        let first = self.bad.map_or(block, |bad| bad.min(block));
        self.bad = Some(first);
        self.end = self.end.min(first);
    }

    /// The first block before `end` known not to hold its pattern.
    pub fn bad_before(&self, end: u64) -> Option<u64> {
        self.bad.filter(|bad| *bad < end)
    }

    /// Treats all blocks as holding their pattern.
    pub fn trust(&mut self) {
        self.begin(self.end, self.end);
    }

    /// Starts again at the frontier: reads in progress are forgotten, known bad blocks are not.
    pub fn restart(&mut self) {
        let bad = self.bad;
        self.begin(self.frontier, self.end);
        self.bad = bad;
    }
}

/// Checks every `every`-th block of a range, and the last one. Nothing may be in flight.
///
/// # Errors
/// A block that does not hold its pattern, a read that failed, or the end of the budget.
pub fn sample(
    window: &mut Window<'_>,
    uuid: &Uuid,
    range: BlockRange,
    every: u64,
    wait: &Wait<'_>,
) -> Result<u64, Unfit> {
    let BlockRange { from, to } = range;
    let last = to.saturating_sub(1);
    let mut at = from;
    let mut checked = 0_u64;
    // Each turn advances by at least one block.
    while at < to {
        if wait.expired() {
            return Err(Unfit::Budget);
        }
        let block = window.read(at, wait).map_err(|error| Unfit::Device { block: at, error })?;
        if !pattern::matches(block, uuid, at) {
            return Err(Unfit::Foreign { block: at });
        }
        checked = checked.saturating_add(1);
        wait.breathe();
        // The step after the last sample goes to the last block; the step after that ends the loop.
        let step = at.saturating_add(every.max(1));
        at = if at < last { step.min(last) } else { to };
    }
    Ok(checked)
}

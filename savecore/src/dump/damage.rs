//! Collects damaged blocks and missing pages, in lists of limited length.

use super::chunk::Condition;
use super::index::{Fate, PageRun};
use crate::partition::{Ending, Found};

/// Maximum number of damaged places, and of ranges of missing pages, to list; more are only counted.
const MAX_TOLD: usize = 4096;

/// Consecutive bad blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedBlocks {
    /// Their stripe, from 0.
    pub stripe: u32,
    /// The first, counted from the partition's start.
    pub block: u64,
    /// How many.
    pub count: u64,
    /// Their condition.
    pub condition: Condition,
}

/// Blocks too far after the last good one of an unfinished dump for its writer to have left them torn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// Their stripe, from 0.
    pub stripe: u32,
    /// The first, counted from the partition's start.
    pub first: u64,
    /// Number of blocks up to the dump's end; they need not be consecutive.
    pub count: u64,
}

/// Consecutive pages of RAM with unknown content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// Page frame number of the first.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// Their fate; `None` if the dump does not mention them.
    pub fate: Option<Fate>,
}

/// Collects bad blocks of one part of a dump.
pub(super) struct Damages {
    pub(super) told: Vec<DamagedBlocks>,
    pub(super) untold: u64,
    stripe: u32,
    /// The last block that the dump's writer is known to have reached.
    proven: u64,
    /// Maximum distance of a torn block after `proven`.
    window: u64,
    pub(super) foreign: Option<Foreign>,
    /// Whether there are bad blocks that an interrupted dump cannot explain.
    pub(super) unexplained: bool,
}

impl Damages {
    pub(super) fn new(found: &Found) -> Damages {
        let window = match found.ending {
            Ending::Open => u64::from(found.header.window_blocks.get()),
            // A back header proves everything before it; and if headers are lost, the window's size is
            // unknown.
            _ => u64::MAX,
        };
        Damages {
            told: Vec::new(),
            untold: 0,
            stripe: found.header.stripe.get(),
            proven: found.first,
            window,
            foreign: None,
            unexplained: false,
        }
    }

    /// The next block.
    pub(super) fn push(&mut self, block: u64, condition: Condition) {
        match condition {
            Condition::Good => {
                self.proven = block;
                // Blocks between proven ones were in flight with them.
                self.foreign = None;
                return;
            }
            Condition::NotWritten => {}
            Condition::Damaged if block > self.proven.saturating_add(self.window) => {
                let stripe = self.stripe;
                self.foreign.get_or_insert(Foreign { stripe, first: block, count: 0 }).count += 1;
            }
            Condition::Damaged => {}
            Condition::Unreadable | Condition::Tampered | Condition::Garbled | Condition::OtherVersion(_) => {
                self.unexplained = true
            }
        }
        if let Some(last) = self.told.last_mut()
            && last.condition == condition
            && last.block + last.count == block
        {
            last.count += 1;
        } else if self.told.len() < MAX_TOLD {
            self.told.push(DamagedBlocks { stripe: self.stripe, block, count: 1, condition });
        } else {
            self.untold += 1;
        }
    }

    /// Separates blocks that may be torn from foreign ones right after them, so that each is reported
    /// correctly.
    pub(super) fn split(&mut self) {
        let Some(Foreign { first, .. }) = self.foreign else { return };
        let across = |damage: &DamagedBlocks| damage.block < first && first < damage.block + damage.count;
        if let Some(index) = self.told.iter().position(across) {
            let mut behind = self.told[index];
            behind.count -= first - behind.block;
            behind.block = first;
            self.told[index].count -= behind.count;
            self.told.insert(index + 1, behind);
        }
    }
}

/// Collects missing pages.
#[derive(Default)]
pub(super) struct Missings {
    pub(super) list: Vec<Missing>,
    pub(super) untold: u64,
}

impl Missings {
    /// Adds the part of a run from `pfn` on, if it is missing.
    pub(super) fn push_run(&mut self, run: PageRun, pfn: u64) {
        if run.fate.is_missing() {
            self.push(Missing { pfn, count: run.end() - pfn, fate: Some(run.fate) });
        }
    }

    pub(super) fn push(&mut self, missing: Missing) {
        if let Some(last) = self.list.last_mut()
            && last.fate == missing.fate
            && last.pfn + last.count == missing.pfn
        {
            last.count += missing.count;
        } else if self.list.len() < MAX_TOLD {
            self.list.push(missing);
        } else {
            self.untold += missing.count;
        }
    }
}

/// The chunk indexes seen so far. At most one bit per block of the dump.
#[derive(Default)]
pub(super) struct Indices {
    seen: Vec<u64>,
    /// Maximum number of chunks.
    limit: u64,
    number: u64,
    /// Whether an index was repeated or impossible.
    pub(super) wrong: bool,
}

impl Indices {
    /// No chunk seen yet, of at most `limit`.
    pub(super) fn new(limit: u64) -> Indices {
        Indices { limit, ..Indices::default() }
    }

    pub(super) fn insert(&mut self, index: u64) {
        if index >= self.limit {
            self.wrong = true;
            return;
        }
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.wrong |= self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        self.number += 1;
    }

    /// Whether each index from 0 to the number of chunks was seen once.
    pub(super) fn complete(&self) -> bool {
        let met: u64 = self.seen.iter().map(|word| u64::from(word.count_ones())).sum();
        let highest = self
            .seen
            .last()
            .map_or(0, |word| (self.seen.len() as u64 * 64).saturating_sub(word.leading_zeros().into()));
        !self.wrong && met == self.number && highest == met
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_are_complete_if_each_index_came_once(mut indices in prop::collection::vec(0_u64..150, 0..12), whole: bool) {
            if whole {
                // A permutation of all numbers from 0 on.
                let length = indices.len() as u64;
                let turn = indices.first().copied().unwrap_or(0);
                indices = (0..length).map(|index| (index + turn) % length).collect();
            }
            let mut seen = Indices::new(100);
            for index in &indices {
                seen.insert(*index);
            }
            indices.sort_unstable();
            prop_assert_eq!(seen.complete(), indices.iter().copied().eq(0..indices.len() as u64));
        }
    }
}

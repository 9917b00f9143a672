//! Which page is where: runs of pages, 16 bytes each, sorted by page frame number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fate {
    /// Its bytes are in the dump.
    Data = 0,
    /// It held only zeros.
    Zero = 1,
    /// It belonged to the dump's own arena and was left out.
    Arena = 2,
    /// The kernel could not read it.
    Unreadable = 3,
    /// Its bytes were written and are damaged now.
    Damaged = 4,
    /// It was to be written, and the machine stopped before.
    NotWritten = 5,
}

impl Fate {
    /// Whether the page's content is known.
    pub fn is_present(self) -> bool {
        matches!(self, Fate::Data | Fate::Zero)
    }

    fn from_bits(bits: u128) -> Fate {
        match bits & 7 {
            0 => Fate::Data,
            1 => Fate::Zero,
            2 => Fate::Arena,
            3 => Fate::Unreadable,
            4 => Fate::Damaged,
            _ => Fate::NotWritten,
        }
    }
}

/// Consecutive pages with the same fate; if their bytes are somewhere, in consecutive blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// Page frame number of the first.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// What became of them.
    pub fate: Fate,
    /// The block of the first page's bytes; for pages without bytes, of the chunk header that speaks of them.
    pub block: u64,
}

impl PageRun {
    /// First page frame number behind the run.
    pub fn end(&self) -> u64 {
        self.pfn + self.count
    }

    /// Whether each page has a block of its own.
    fn has_blocks(&self) -> bool {
        matches!(self.fate, Fate::Data | Fate::Damaged | Fate::NotWritten)
    }

    /// The part of the run between two page frame numbers that lie within it.
    fn part(&self, from: u64, to: u64) -> PageRun {
        let block = if self.has_blocks() { self.block + (from - self.pfn) } else { self.block };
        PageRun { pfn: from, count: to - from, fate: self.fate, block }
    }

    /// Appends `next` if it goes on where this run ends.
    fn join(&mut self, next: &PageRun) -> bool {
        let joins = self.end() == next.pfn
            && self.fate == next.fate
            && (!self.has_blocks() || self.block + self.count == next.block)
            && self.count + next.count <= MAX_COUNT;
        if joins {
            self.count += next.count;
        }
        joins
    }
}

/// A run in 128 bits, ordered by page frame number, then by block: pfn 52, block 40, count 33, fate 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u128);

const PFN_BITS: u32 = 52;
const BLOCK_BITS: u32 = 40;
const COUNT_BITS: u32 = 33;
const FATE_BITS: u32 = 3;
const _: () = assert!(PFN_BITS + BLOCK_BITS + COUNT_BITS + FATE_BITS == u128::BITS);
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The largest partition that an index can speak of: 4 PiB.
pub(super) const MAX_BLOCKS: u64 = 1 << BLOCK_BITS;

impl Packed {
    fn new(run: PageRun) -> Packed {
        debug_assert!(run.pfn < 1 << PFN_BITS && run.block < MAX_BLOCKS && run.count <= MAX_COUNT);
        let bits = u128::from(run.pfn) << (BLOCK_BITS + COUNT_BITS + FATE_BITS)
            | u128::from(run.block) << (COUNT_BITS + FATE_BITS)
            | u128::from(run.count) << FATE_BITS
            | run.fate as u128;
        Packed(bits)
    }

    fn run(self) -> PageRun {
        PageRun {
            pfn: (self.0 >> (BLOCK_BITS + COUNT_BITS + FATE_BITS)) as u64,
            block: (self.0 >> (COUNT_BITS + FATE_BITS)) as u64 & (MAX_BLOCKS - 1),
            count: (self.0 >> FATE_BITS) as u64 & MAX_COUNT,
            fate: Fate::from_bits(self.0),
        }
    }
}

/// Collects runs as they come.
#[derive(Default)]
pub(super) struct Builder {
    runs: Vec<Packed>,
    last: Option<PageRun>,
    limit: usize,
    dropped: u64,
}

impl Builder {
    /// A builder that keeps `limit` runs at most.
    pub(super) fn new(limit: usize) -> Builder {
        Builder { limit, ..Builder::default() }
    }

    /// Takes a run in.
    pub(super) fn push(&mut self, run: PageRun) {
        if let Some(last) = &mut self.last
            && last.join(&run)
        {
            return;
        }
        if let Some(last) = self.last.replace(run) {
            self.keep(last);
        }
    }

    fn keep(&mut self, run: PageRun) {
        if self.runs.len() < self.limit && run.block < MAX_BLOCKS {
            self.runs.push(Packed::new(run));
        } else {
            self.dropped += run.count;
        }
    }

    /// Sorts the runs; of pages that were named twice, the first block with good bytes wins.
    pub(super) fn finish(mut self) -> Index {
        if let Some(last) = self.last.take() {
            self.keep(last);
        }
        let mut runs = self.runs;
        runs.sort_unstable();
        let overlaps = runs.windows(2).any(|pair| pair[0].run().end() > pair[1].run().pfn);
        let named: u64 = runs.iter().map(|run| run.run().count).fold(0, u64::saturating_add);
        let runs = if overlaps { resolve(&runs) } else { runs };
        let kept: u64 = runs.iter().map(|run| run.run().count).fold(0, u64::saturating_add);
        Index { runs, duplicates: named.saturating_sub(kept), dropped: self.dropped }
    }
}

/// Cuts overlapping runs so that each page is named once.
fn resolve(sorted: &[Packed]) -> Vec<Packed> {
    let mut resolved = Vec::with_capacity(sorted.len());
    let mut last: Option<PageRun> = None;
    // Runs that reach over `at`: those with known content first, then those in lower blocks.
    let mut open: BinaryHeap<Reverse<(bool, u64, usize)>> = BinaryHeap::new();
    let mut next = 0;
    let mut at = 0;
    loop {
        while open.peek().is_some_and(|Reverse((_, _, index))| sorted[*index].run().end() <= at) {
            open.pop();
        }
        if open.is_empty() {
            match sorted.get(next) {
                Some(run) => at = at.max(run.run().pfn),
                None => break,
            }
        }
        while let Some(run) = sorted.get(next).map(|run| run.run()).filter(|run| run.pfn <= at) {
            if run.end() > at {
                open.push(Reverse((!run.fate.is_present(), run.block, next)));
            }
            next += 1;
        }
        let Some(Reverse((_, _, index))) = open.peek() else { continue };
        let best = sorted[*index].run();
        let until = sorted.get(next).map_or(best.end(), |run| best.end().min(run.run().pfn));
        let part = best.part(at, until);
        at = until;
        if let Some(last) = &mut last
            && last.join(&part)
        {
            continue;
        }
        if let Some(done) = last.replace(part) {
            resolved.push(Packed::new(done));
        }
    }
    resolved.extend(last.map(Packed::new));
    resolved
}

/// Runs of pages without overlap, sorted by page frame number.
pub struct Index {
    runs: Vec<Packed>,
    /// Namings of pages that others had named before.
    pub duplicates: u64,
    /// Pages that there was no room for: the dump is more fragmented than any real one.
    pub dropped: u64,
}

impl Index {
    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs.iter().map(|run| run.run())
    }

    /// The run that holds a page.
    pub fn find(&self, pfn: u64) -> Option<PageRun> {
        let behind = self.runs.partition_point(|run| run.run().pfn <= pfn);
        let run = self.runs.get(behind.checked_sub(1)?)?.run();
        (pfn < run.end()).then_some(run)
    }

    /// The block of a page's bytes, if it has some.
    pub fn block_of(&self, pfn: u64) -> Option<u64> {
        let run = self.find(pfn)?;
        (run.fate == Fate::Data).then(|| run.block + (pfn - run.pfn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn run() -> impl Strategy<Value = (u64, u64, u8)> {
        (0_u64..60, 1_u64..12, 0_u8..6)
    }

    proptest! {
        #[test]
        fn each_page_is_named_once_and_the_first_known_content_wins(
            named in prop::collection::vec(run(), 0..40)
        ) {
            let mut builder = Builder::new(1000);
            let mut expected: BTreeMap<u64, (bool, u64, Fate)> = BTreeMap::new();
            for (number, (pfn, count, fate)) in named.iter().enumerate() {
                let fate = Fate::from_bits(u128::from(*fate));
                let run = PageRun { pfn: *pfn, count: *count, fate, block: 1 + number as u64 * 100 };
                builder.push(run);
                for page in 0..*count {
                    let block = if run.has_blocks() { run.block + page } else { run.block };
                    let order = (!fate.is_present(), block, fate);
                    let known = expected.entry(pfn + page).or_insert(order);
                    // Compared by the run's first block, as runs are; a hundred apart, so pages agree with that.
                    if (order.0, order.1 / 100) < (known.0, known.1 / 100) {
                        *known = order;
                    }
                }
            }
            let index = builder.finish();
            let mut before = 0;
            for run in index.runs() {
                prop_assert!(run.pfn >= before);
                before = run.end();
            }
            for pfn in 0..80 {
                match (index.find(pfn), expected.get(&pfn)) {
                    (None, None) => {}
                    (Some(run), Some((_, block, fate))) => {
                        prop_assert_eq!(run.fate, *fate);
                        if run.has_blocks() {
                            prop_assert_eq!(run.block + pfn - run.pfn, *block);
                        }
                    }
                    (found, known) => prop_assert!(false, "page {}: {:?}, expected {:?}", pfn, found, known),
                }
            }
        }

        #[test]
        fn packing_loses_nothing(
            pfn in 0_u64..1 << 52, count in 1_u64..=1 << 32, block in 0_u64..1 << 40, fate in 0_u8..6
        ) {
            let run = PageRun { pfn, count, fate: Fate::from_bits(u128::from(fate)), block };
            prop_assert_eq!(Packed::new(run).run(), run);
        }
    }

    #[test]
    fn runs_beyond_the_limit_are_counted_not_kept() {
        let mut builder = Builder::new(2);
        for number in 0..5 {
            builder.push(PageRun { pfn: number * 10, count: 3, fate: Fate::Zero, block: 1 });
        }
        let index = builder.finish();
        assert_eq!((index.runs().count(), index.dropped), (2, 9));
    }
}

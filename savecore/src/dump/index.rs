//! The index of pages: runs of pages, 16 bytes each, sorted by page frame number, and the chunks that contain
//! them.
//!
//! A page's place is its number among the pages with data in the dump, in the order of its chunks. So pages
//! that are consecutive in memory and in the dump form one run, however they are compressed.
//!
//! One file: the index is built, sorted and searched by code that knows how it is packed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dumpcore::format::chunk::RunKind;
use dumpcore::format::class::PageClass;

/// The fate of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fate {
    /// Its bytes are in the dump.
    Data = 0,
    /// It held only zeros.
    Zero = 1,
    /// It belonged to the dump's own arena and was excluded.
    Arena = 2,
    /// The kernel had no way to read it.
    Unreadable = 3,
    /// Its bytes were written but are damaged.
    Damaged = 4,
    /// The machine stopped before writing it.
    NotWritten = 5,
    /// Reading it faulted.
    Faulted = 6,
    /// Excluded by the dump level: page cache without private data.
    Cache = 7,
    /// Excluded by the dump level: page cache with private data.
    CachePrivate = 8,
    /// Excluded by the dump level: memory of user processes.
    User = 9,
    /// Excluded by the dump level: free memory.
    Free = 10,
    /// Excluded by the dump level: not known to be the kernel's.
    NotKernel = 11,
    /// Never read: device memory.
    Device = 12,
    /// Its bytes are in the dump, encrypted, and there is no identity to decrypt it.
    Encrypted = 13,
}

impl Fate {
    /// All fates, in the order of their numbers.
    pub const ALL: [Fate; 14] = [
        Fate::Data,
        Fate::Zero,
        Fate::Arena,
        Fate::Unreadable,
        Fate::Damaged,
        Fate::NotWritten,
        Fate::Faulted,
        Fate::Cache,
        Fate::CachePrivate,
        Fate::User,
        Fate::Free,
        Fate::NotKernel,
        Fate::Device,
        Fate::Encrypted,
    ];

    /// Whether the page's content is known.
    pub fn is_present(self) -> bool {
        matches!(self, Fate::Data | Fate::Zero)
    }

    /// Whether the page was excluded on purpose.
    pub fn is_left_out(self) -> bool {
        matches!(
            self,
            Fate::Arena
                | Fate::Cache
                | Fate::CachePrivate
                | Fate::User
                | Fate::Free
                | Fate::NotKernel
                | Fate::Device
        )
    }

    /// Whether the page is missing although it should be known.
    pub fn is_missing(self) -> bool {
        matches!(self, Fate::Unreadable | Fate::Faulted | Fate::Damaged | Fate::NotWritten)
    }

    /// The fate of a run's pages according to a chunk's header; for data, it is not final yet.
    pub(super) fn of(kind: RunKind) -> Fate {
        match kind {
            RunKind::Data => Fate::Data,
            RunKind::Zero => Fate::Zero,
            RunKind::Arena => Fate::Arena,
            RunKind::Unreadable => Fate::Unreadable,
            RunKind::Faulted => Fate::Faulted,
            RunKind::Cache => Fate::Cache,
            RunKind::CachePrivate => Fate::CachePrivate,
            RunKind::User => Fate::User,
            RunKind::Free => Fate::Free,
            RunKind::NotKernel => Fate::NotKernel,
            RunKind::Device => Fate::Device,
        }
    }

    /// Priority for a page that occurs twice: the fate with the lower rank counts, known content first, lost
    /// last.
    fn rank(self) -> u8 {
        match self {
            Fate::Data | Fate::Zero => 0,
            Fate::Damaged | Fate::NotWritten => 2,
            _ => 1,
        }
    }

    fn from_bits(bits: u128) -> Fate {
        Fate::ALL.get((bits & FATE_MASK) as usize).copied().unwrap_or(Fate::Damaged)
    }
}

/// Consecutive pages of one class with the same fate; if they have data, also in consecutive places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// Page frame number of the first.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// Their fate.
    pub fate: Fate,
    /// Their class.
    pub class: PageClass,
    /// The place of the first page's data; for pages without data, of the next data.
    pub place: u64,
}

impl PageRun {
    /// First page frame number after the run.
    pub fn end(&self) -> u64 {
        self.pfn + self.count
    }

    /// The part of the run between two page frame numbers inside it.
    fn part(&self, from: u64, to: u64) -> PageRun {
        let place = if self.fate == Fate::Data { self.place + (from - self.pfn) } else { self.place };
        PageRun { pfn: from, count: to - from, place, ..*self }
    }

    /// Appends `next` if it continues where this run ends.
    pub(super) fn join(&mut self, next: &PageRun) -> bool {
        let joins = self.end() == next.pfn
            && self.fate == next.fate
            && self.class == next.class
            && (self.fate != Fate::Data || self.place + self.count == next.place)
            && self.count + next.count <= MAX_COUNT;
        if joins {
            self.count += next.count;
        }
        joins
    }
}

/// A run in 128 bits, ordered by page frame number, then by place: pfn 52, place 40, count 28, fate 4, class
/// 4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u128);

const PFN_BITS: u32 = 52;
const PLACE_BITS: u32 = 40;
const COUNT_BITS: u32 = 28;
const FATE_BITS: u32 = 4;
const CLASS_BITS: u32 = 4;
const _: () = assert!(PFN_BITS + PLACE_BITS + COUNT_BITS + FATE_BITS + CLASS_BITS == u128::BITS);
const _: () = assert!(Fate::ALL.len() <= 1 << FATE_BITS);
const _: () = assert!(PageClass::ALL.len() <= 1 << CLASS_BITS);
const FATE_MASK: u128 = (1 << FATE_BITS) - 1;
const CLASS_MASK: u16 = (1 << CLASS_BITS) - 1;
/// Maximum number of pages per run: 1 TiB. Longer ones are split.
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Positions of the fields.
const FATE_AT: u32 = CLASS_BITS;
const COUNT_AT: u32 = FATE_AT + FATE_BITS;
const PLACE_AT: u32 = COUNT_AT + COUNT_BITS;
const PFN_AT: u32 = PLACE_AT + PLACE_BITS;

/// Maximum number of pages with data in an index: 4 PiB.
const MAX_PLACES: u64 = 1 << PLACE_BITS;

/// Maximum number of runs and chunks in memory. A dump from a machine with as much memory as this one never
/// has more, however fragmented; and a malicious partition with the maximum takes at most half of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Runs of pages: 16 bytes each, and up to 56 more while resolving duplicate pages.
    pub(super) runs: usize,
    /// Chunks with pages: 24 bytes each.
    pub(super) chunks: usize,
}

/// Bytes of the machine's memory required per run, and per chunk. Every run and every chunk with pages covers
/// at least one page, which is 16 times as much.
const MEMORY_FOR_EACH: u64 = 256;

/// Minimum limit of runs, whatever the memory: 512 MiB. Enough for a dump of 4 TiB with runs of 128 KiB.
const LEAST_RUNS: usize = 32 << 20;

/// Minimum limit of chunks: 192 MiB. As many full ones hold 4 TiB.
const LEAST_CHUNKS: usize = 8 << 20;

impl Limits {
    /// The limits on a machine with this many bytes of memory.
    pub(super) fn with(memory: u64) -> Limits {
        let most = usize::try_from(memory / MEMORY_FOR_EACH).unwrap_or(usize::MAX);
        Limits { runs: most.max(LEAST_RUNS), chunks: most.max(LEAST_CHUNKS) }
    }

    /// The limits on this machine.
    pub(super) fn here() -> Limits {
        let info = rustix::system::sysinfo();
        Limits::with(info.totalram.saturating_mul(info.mem_unit.into()))
    }
}

impl Packed {
    fn new(run: PageRun) -> Packed {
        debug_assert!(run.pfn < 1 << PFN_BITS && run.place < MAX_PLACES && run.count <= MAX_COUNT);
        let bits = u128::from(run.pfn) << PFN_AT
            | u128::from(run.place) << PLACE_AT
            | u128::from(run.count) << COUNT_AT
            | (run.fate as u128) << FATE_AT
            | run.class as u128;
        Packed(bits)
    }

    fn run(self) -> PageRun {
        PageRun {
            pfn: (self.0 >> PFN_AT) as u64,
            place: (self.0 >> PLACE_AT) as u64 & (MAX_PLACES - 1),
            count: (self.0 >> COUNT_AT) as u64 & MAX_COUNT,
            fate: Fate::from_bits(self.0 >> FATE_AT),
            class: PageClass::from_number(self.0 as u16 & CLASS_MASK).unwrap_or(PageClass::Unknown),
        }
    }
}

/// A chunk with page data in its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkPlace {
    /// The place of its first page.
    pub(super) first: u64,
    /// The block of its header.
    pub(super) block: u64,
    /// Index of its part of the dump.
    pub(super) part: u32,
    /// The checksum of its header, which tells whether it has changed.
    pub(super) crc: u32,
}

/// Collects runs.
pub(super) struct Builder {
    runs: Vec<Packed>,
    last: Option<PageRun>,
    chunks: Vec<ChunkPlace>,
    places: u64,
    limits: Limits,
    dropped: u64,
}

impl Builder {
    /// A builder with these limits.
    pub(super) fn new(limits: Limits) -> Builder {
        Builder { runs: Vec::new(), last: None, chunks: Vec::new(), places: 0, limits, dropped: 0 }
    }

    /// Adds a chunk with `pages` pages in its payload. Returns the place of the first; `None` if there are
    /// too many chunks.
    pub(super) fn chunk(&mut self, part: u32, block: u64, crc: u32, pages: u64) -> Option<u64> {
        let first = self.places;
        let end = first.checked_add(pages).filter(|end| *end < MAX_PLACES)?;
        if pages > 0 {
            if self.chunks.len() >= self.limits.chunks {
                return None;
            }
            self.chunks.push(ChunkPlace { first, block, part, crc });
            self.places = end;
        }
        Some(first)
    }

    /// Counts pages dropped for lack of memory.
    pub(super) fn drop_pages(&mut self, pages: u64) {
        self.dropped = self.dropped.saturating_add(pages);
    }

    /// Adds a run.
    pub(super) fn push(&mut self, run: PageRun) {
        let mut from = run.pfn;
        // A chunk's run has at most 2^32 - 1 pages, which are 17 runs here.
        while run.end() - from > MAX_COUNT {
            self.push_part(run.part(from, from + MAX_COUNT));
            from += MAX_COUNT;
        }
        self.push_part(run.part(from, run.end()));
    }

    fn push_part(&mut self, run: PageRun) {
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
        if self.runs.len() < self.limits.runs {
            self.runs.push(Packed::new(run));
        } else {
            self.drop_pages(run.count);
        }
    }

    /// Sorts the runs; for duplicate pages, the first with known content wins.
    pub(super) fn finish(mut self) -> Index {
        if let Some(last) = self.last.take() {
            self.keep(last);
        }
        let mut runs = self.runs;
        runs.sort_unstable();
        let overlaps = runs.windows(2).any(|pair| pair[0].run().end() > pair[1].run().pfn);
        let named: u64 = runs.iter().map(|run| run.run().count).fold(0, u64::saturating_add);
        let runs = if overlaps { resolve(&runs) } else { joined(runs) };
        let kept: u64 = runs.iter().map(|run| run.run().count).fold(0, u64::saturating_add);
        let duplicates = named.saturating_sub(kept);
        let (chunks, places) = (self.chunks, self.places);
        Index { runs, chunks, places, duplicates, dropped: self.dropped }
    }
}

/// Joins runs that continue the one before: passes over memory interleave.
fn joined(mut sorted: Vec<Packed>) -> Vec<Packed> {
    sorted.dedup_by(|next, last| {
        let mut run = last.run();
        let joins = run.join(&next.run());
        *last = Packed::new(run);
        joins
    });
    sorted
}

/// Cuts overlapping runs so that each page occurs once.
fn resolve(sorted: &[Packed]) -> Vec<Packed> {
    let mut resolved = Vec::with_capacity(sorted.len());
    let mut last: Option<PageRun> = None;
    // Runs that extend beyond `at`: those with known content first, then those in lower places.
    let mut open: BinaryHeap<Reverse<(u8, u64, usize)>> = BinaryHeap::new();
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
                open.push(Reverse((run.fate.rank(), run.place, next)));
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
    pub(super) chunks: Vec<ChunkPlace>,
    /// The place after the last chunk.
    places: u64,
    /// Number of duplicate pages.
    pub duplicates: u64,
    /// Pages dropped for lack of memory: the dump is from a machine with much more memory than this one. The
    /// index has nothing about them, and no core can be made.
    pub dropped: u64,
}

impl Index {
    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs.iter().map(|run| run.run())
    }

    /// The run that contains a page.
    pub fn find(&self, pfn: u64) -> Option<PageRun> {
        let behind = self.runs.partition_point(|run| run.run().pfn <= pfn);
        let run = self.runs.get(behind.checked_sub(1)?)?.run();
        (pfn < run.end()).then_some(run)
    }

    /// Number of places from this one to the end of its chunk.
    pub(crate) fn left_in_chunk(&self, place: u64) -> u64 {
        self.chunk_of(place).map_or(0, |(_, end)| end - place)
    }

    /// The chunk of a place, and the first place after the chunk.
    pub(super) fn chunk_of(&self, place: u64) -> Option<(ChunkPlace, u64)> {
        let behind = self.chunks.partition_point(|chunk| chunk.first <= place);
        let end = self.chunks.get(behind).map_or(self.places, |next| next.first);
        let chunk = self.chunks.get(behind.checked_sub(1)?).copied()?;
        (place < end).then_some((chunk, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SMALL: Limits = Limits { runs: 1000, chunks: 10 };

    fn classes() -> impl Strategy<Value = PageClass> {
        prop::sample::select(PageClass::ALL.to_vec())
    }

    fn run() -> impl Strategy<Value = (u64, u64, u8, PageClass)> {
        (0_u64..60, 1_u64..12, 0_u8..14, classes())
    }

    proptest! {
        #[test]
        fn each_page_is_named_once_and_the_first_known_content_wins(
            named in prop::collection::vec(run(), 0..40)
        ) {
            let mut builder = Builder::new(SMALL);
            let mut expected: BTreeMap<u64, (u8, u64, Fate, PageClass)> = BTreeMap::new();
            for (number, (pfn, count, fate, class)) in named.iter().enumerate() {
                let fate = Fate::from_bits(u128::from(*fate));
                let place = 1 + number as u64 * 100;
                let run = PageRun { pfn: *pfn, count: *count, fate, class: *class, place };
                builder.push(run);
                for page in 0..*count {
                    let place = if fate == Fate::Data { run.place + page } else { run.place };
                    let order = (fate.rank(), place, fate, *class);
                    let known = expected.entry(pfn + page).or_insert(order);
                    // Compare by the run's first place, as runs are compared; the places are a hundred apart,
                    // so this holds for pages too.
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
                    (Some(run), Some((_, place, fate, class))) => {
                        prop_assert_eq!((run.fate, run.class), (*fate, *class));
                        if run.fate == Fate::Data {
                            prop_assert_eq!(run.place + pfn - run.pfn, *place);
                        }
                    }
                    (found, known) => prop_assert!(false, "page {}: {:?}, expected {:?}", pfn, found, known),
                }
            }
        }

        #[test]
        fn packing_loses_nothing(
            pfn in 0_u64..1 << 52, count in 1_u64..1 << 28, place in 0_u64..1 << 40, fate in 0_u8..14,
            class in classes(),
        ) {
            let run = PageRun { pfn, count, fate: Fate::from_bits(u128::from(fate)), class, place };
            prop_assert_eq!(Packed::new(run).run(), run);
        }
    }

    #[test]
    fn runs_beyond_the_limit_are_counted_not_kept() {
        let mut builder = Builder::new(Limits { runs: 2, chunks: 1 });
        for number in 0..5 {
            let class = PageClass::Unknown;
            builder.push(PageRun { pfn: number * 10, count: 3, fate: Fate::Zero, class, place: 1 });
        }
        let index = builder.finish();
        assert_eq!((index.runs().count(), index.dropped), (2, 9));
    }

    #[test]
    fn runs_of_passes_that_interleave_are_joined() {
        let mut builder = Builder::new(SMALL);
        for first in [0, 4, 2, 6, 12, 8] {
            let class = PageClass::Free;
            builder.push(PageRun { pfn: first, count: 2, fate: Fate::Free, class, place: 0 });
        }
        let index = builder.finish();
        let runs: Vec<(u64, u64)> = index.runs().map(|run| (run.pfn, run.count)).collect();
        assert_eq!((runs, index.duplicates, index.dropped), (vec![(0, 10), (12, 2)], 0, 0));
    }

    #[test]
    fn a_machine_has_room_for_any_dump_of_its_own_memory_and_nobody_takes_more_than_half_of_it() {
        for memory in (20..50).flat_map(|bits| [1_u64 << bits, (1 << bits) + (3 << (bits - 3))]) {
            let limits = Limits::with(memory);
            let pages = memory / dumpcore::format::PAGE_BYTES;
            assert!(limits.runs as u64 >= pages && limits.chunks as u64 >= pages, "{memory:#x}");
            let taken = 72 * limits.runs as u64 + 24 * limits.chunks as u64;
            let anyway = 72 * (32 << 20) + 24 * (8 << 20);
            assert!(taken <= memory / 2 + anyway, "{memory:#x}: {taken:#x}");
        }
    }

    #[test]
    fn a_run_longer_than_an_index_can_say_is_several() {
        for (fate, count) in
            [(Fate::Free, u64::from(u32::MAX)), (Fate::Zero, MAX_COUNT + 1), (Fate::Zero, MAX_COUNT)]
        {
            let mut builder = Builder::new(SMALL);
            let (first, class) =
                (PageRun { pfn: 5, count, fate, class: PageClass::Free, place: 9 }, PageClass::Free);
            builder.push(first);
            let index = builder.finish();
            assert_eq!(index.runs().map(|run| run.count).sum::<u64>(), count);
            assert!(index.runs().all(|run| (run.fate, run.class, run.place) == (fate, class, 9)));
            assert_eq!(index.runs().last().map(|run| run.end()), Some(5 + count));
        }
    }

    #[test]
    fn every_place_is_found_in_its_chunk() {
        let mut builder = Builder::new(SMALL);
        let sizes = [3, 0, 1, 128, 5];
        for (block, pages) in (1..).zip(sizes) {
            builder.chunk(0, block, 7, pages).unwrap();
        }
        let index = builder.finish();
        let expected: Vec<u64> =
            (1..).zip(sizes).flat_map(|(block, pages)| (0..pages).map(move |_| block)).collect();
        let found: Vec<u64> =
            (0..137).map(|place| index.chunk_of(place).map_or(0, |(chunk, _)| chunk.block)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_beyond_the_last_place_have_none() {
        let mut builder = Builder::new(SMALL);
        assert_eq!(builder.chunk(0, 1, 7, MAX_PLACES - 2), Some(0));
        assert_eq!(builder.chunk(0, 2, 7, 2), None);
        assert_eq!(builder.chunk(0, 3, 7, 1), Some(MAX_PLACES - 2));
    }
}

//! The known pages of a dump in address order, read on several threads.
//!
//! The pages are divided into pieces. A thread reads a piece's pages, wherever they are in the dump, checks
//! and decompresses them, and processes them for the writer of a core, for example by compressing. The writer
//! takes the results in order. The output does not depend on the number of threads, but the division into
//! pieces does.
//!
//! A chunk with pages of several pieces is read once for each: for a real dump that is a few blocks, since
//! pieces end at chunk ends, and for any other at most as often as the chunk has runs, and pieces in them.

use std::sync::Arc;

use dumpcore::format::Block;

use crate::Error;
use crate::dump::{Bulk, Dump, Fate, PageRun, Want};
use crate::parallel::{Line, Pool, under_way};
use crate::source::Progress;

/// Maximum number of threads: with more, pieces would be small or take much memory.
const MAX_THREADS: usize = 32;

/// Memory for the pages of all pieces in progress, in pages: 64 MiB.
const PAGES_UNDER_WAY: usize = 16 << 10;

/// Minimum and maximum number of pages with data per piece (4 MiB).
const MIN_PAGES: usize = 256;
const MAX_PAGES: usize = 1024;

/// Maximum number of pages per piece, including zeros: bounds a writer's output per piece.
const MAX_KNOWN: u64 = 16 << 10;

/// Consecutive pages of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Part<'p> {
    /// Page frame number of the first.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// Their bytes; `None` for zeros.
    pub bytes: Option<&'p [Block]>,
}

/// Known pages in ascending address order, possibly with gaps.
pub struct Piece {
    spans: Vec<Span>,
    pages: Vec<Block>,
    pool: Arc<Pool>,
}

#[derive(Clone, Copy)]
struct Span {
    pfn: u64,
    count: u64,
    /// Index of the first among the piece's pages; `None` for zeros.
    at: Option<usize>,
}

impl Piece {
    /// The pages: parts with data and parts of zeros, in ascending order. At most 16384 pages in total.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.spans.iter().map(|span| {
            let bytes = span.at.map(|at| self.pages.get(at..at + span.count as usize).unwrap_or_default());
            Part { pfn: span.pfn, count: span.count, bytes }
        })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.pages));
    }
}

/// Passes `runs`, which must be known pages in ascending order, piece by piece to `work` on several threads;
/// `take` gets the results in order, on the caller's thread. Each thread has its own state. `progress`
/// advances for each page with data; the caller starts and ends it.
/// bytes; the caller begins and ends it.
///
/// [`Error::Unsteady`] if a page has changed since the dump was opened, and the first error of `take`.
/// [`Error::Unsteady`] if a page is no longer as it was when the dump was opened, and the first error of
/// `take`.
pub fn for_each<S, T: Send>(
    dump: &Dump<'_>,
    runs: &mut (dyn Iterator<Item = PageRun> + Send),
    threads: usize,
    state: &(dyn Fn() -> S + Sync),
    work: &(dyn Fn(&mut S, Piece) -> T + Sync),
    progress: &mut dyn Progress,
    take: &mut dyn FnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = threads.clamp(1, MAX_THREADS);
    let limit = (PAGES_UNDER_WAY / under_way(threads)).clamp(MIN_PAGES, MAX_PAGES);
    let mut cutter = Cutter { dump, runs, rest: None, limit };
    let pool = Arc::new(Pool::default());
    let line = Line {
        state: &|| (Bulk::new(), state()),
        next: &mut |_| cutter.next(),
        work: &|(bulk, state): &mut (Bulk, S), plan: Plan| {
            let Plan { spans, mut wants, pages } = plan;
            let mut piece = Piece { spans, pages: pool.take(pages), pool: Arc::clone(&pool) };
            bulk.read(dump, &mut wants, &mut piece.pages)?;
            Ok((pages as u64, work(state, piece)))
        },
    };
    line.run(threads, &mut |done: Result<_, Error>| {
        let (pages, done) = done?;
        take(done)?;
        progress.advance(pages);
        Ok(())
    })
}

/// The contents of a piece.
#[derive(Default)]
struct Plan {
    spans: Vec<Span>,
    /// The reads; none of them crosses the end of a chunk.
    wants: Vec<Want>,
    /// Pages with data.
    pages: usize,
}

/// Divides runs into pieces.
struct Cutter<'a, 's> {
    dump: &'a Dump<'s>,
    runs: &'a mut (dyn Iterator<Item = PageRun> + Send),
    /// The rest of a run.
    rest: Option<PageRun>,
    /// Maximum number of pages with data per piece.
    limit: usize,
}

impl Cutter<'_, '_> {
    fn next(&mut self) -> Option<Plan> {
        let mut plan = Plan::default();
        let mut known = 0;
        while known < MAX_KNOWN && plan.pages < self.limit {
            let Some(mut run) = self.rest.take().or_else(|| self.runs.next()) else { break };
            let mut count = run.count.min(MAX_KNOWN - known);
            let mut ends_chunk = false;
            let mut at = None;
            if run.fate == Fate::Data {
                let left = self.dump.index().left_in_chunk(run.place);
                count = count.min((self.limit - plan.pages) as u64).min(left.max(1));
                ends_chunk = count == left;
                at = Some(plan.pages);
                plan.wants.push(Want { place: run.place, count: count as usize, at: plan.pages });
                plan.pages += count as usize;
                run.place += count;
            }
            match plan.spans.last_mut() {
                Some(last) if last.pfn + last.count == run.pfn && last.at.is_some() == at.is_some() => {
                    last.count += count;
                }
                _ => plan.spans.push(Span { pfn: run.pfn, count, at }),
            }
            known += count;
            run.pfn += count;
            run.count -= count;
            self.rest = (run.count > 0).then_some(run);
            // Otherwise the rest of the piece would be the start of a chunk that continues in the next piece.
            if ends_chunk && plan.pages > self.limit / 2 {
                break;
            }
        }
        (known > 0).then_some(plan)
    }
}

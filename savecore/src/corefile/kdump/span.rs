//! The fate of the machine's pages in the file, in address order.

use dumpcore::format::note::RangeKind;

use crate::corefile::Selection;
use crate::dump::{Dump, Fate, PageRun, Range};

/// The fate of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Its bytes are known.
    Data,
    /// It is known to be zeros.
    Zero,
    /// It is missing although it should be known.
    Lost,
    /// It was excluded on purpose.
    LeftOut,
}

impl What {
    fn of(fate: Fate) -> What {
        match fate {
            Fate::Data => What::Data,
            Fate::Zero => What::Zero,
            fate if fate.is_left_out() => What::LeftOut,
            _ => What::Lost,
        }
    }
}

/// Consecutive pages with the same fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// Page frame number of the first.
    pub(super) pfn: u64,
    /// How many.
    pub(super) count: u64,
    pub(super) what: What,
}

/// All pages that the dump mentions, and the others in its memory map.
pub(super) fn spans<'d>(dump: &'d Dump<'_>, selection: &Selection) -> impl Iterator<Item = Span> + 'd {
    merge(selection.fates(dump), dump.facts().memory.iter().copied())
}

/// Both are in ascending order and have no overlaps.
fn merge(
    runs: impl Iterator<Item = PageRun>,
    memory: impl Iterator<Item = Range>,
) -> impl Iterator<Item = Span> {
    let mut runs = runs.peekable();
    let mut memory = memory.peekable();
    // Everything up to here has been reported.
    let mut at = 0;
    std::iter::from_fn(move || {
        while memory.next_if(|range| range.end <= at).is_some() {}
        let next = runs.peek().map_or(u64::MAX, |run| run.pfn);
        if let Some(range) = memory.peek()
            && range.pfn.max(at) < next
        {
            let (pfn, end) = (range.pfn.max(at), range.end.min(next));
            let what = if range.kind == RangeKind::Arena { What::LeftOut } else { What::Lost };
            at = end;
            return Some(Span { pfn, count: end - pfn, what });
        }
        let run = runs.next()?;
        at = run.end();
        Some(Span { pfn: run.pfn, count: run.count, what: What::of(run.fate) })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dumpcore::format::class::PageClass;
    use proptest::prelude::*;

    use super::*;

    fn gaps() -> impl Strategy<Value = Vec<(u64, u64, usize)>> {
        prop::collection::vec((0..9_u64, 1..9_u64, 0..Fate::ALL.len()), 0..12)
    }

    proptest! {
        #[test]
        fn each_page_of_runs_and_memory_is_told_once_in_order(runs in gaps(), memory in gaps()) {
            let mut expected = BTreeMap::new();
            let mut at = 0;
            let memory: Vec<Range> = memory.into_iter().map(|(gap, count, kind)| {
                let pfn = at + gap;
                at = pfn + count;
                let kind = if kind % 3 == 0 { RangeKind::Arena } else { RangeKind::Ram };
                let what = if kind == RangeKind::Arena { What::LeftOut } else { What::Lost };
                expected.extend((pfn..at).map(|pfn| (pfn, what)));
                Range { pfn, end: at, kind }
            }).collect();
            at = 0;
            let runs: Vec<PageRun> = runs.into_iter().map(|(gap, count, fate)| {
                let (pfn, fate) = (at + gap, Fate::ALL[fate]);
                at = pfn + count;
                expected.extend((pfn..at).map(|pfn| (pfn, What::of(fate))));
                PageRun { pfn, count, fate, class: PageClass::Unknown, place: 0 }
            }).collect();
            let spans = merge(runs.into_iter(), memory.into_iter());
            let told: Vec<(u64, What)> =
                spans.flat_map(|span| (span.pfn..span.pfn + span.count).map(move |pfn| (pfn, span.what))).collect();
            prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
        }
    }
}

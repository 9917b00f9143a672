//! Places of pages in a core file: all selected pages, in address order, one after another.

use dumpcore::format::PAGE_SIZE;

use super::pagetable::Mapping;
use super::select::Selection;
use crate::dump::Dump;

/// Consecutive pages in the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// Page frame number of the first.
    pub(super) pfn: u64,
    /// How many.
    pub(super) count: u64,
    /// Number of pages before them in the core.
    pub(super) rank: u64,
}

/// A part of an address space that is contiguous in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    /// Virtual address.
    pub(super) virt: u64,
    /// Page frame number.
    pub(super) pfn: u64,
    /// Pages.
    pub(super) count: u64,
    /// Number of pages before it in the file.
    pub(super) rank: u64,
}

pub(super) struct Layout {
    pub(super) extents: Vec<Extent>,
    /// Total number of pages.
    pub(super) pages: u64,
}

impl Layout {
    pub(super) fn new(dump: &Dump<'_>, selection: &Selection) -> Layout {
        let mut extents: Vec<Extent> = Vec::new();
        let mut pages = 0;
        for run in selection.runs(dump) {
            match extents.last_mut() {
                Some(last) if last.pfn + last.count == run.pfn => last.count += run.count,
                _ => extents.push(Extent { pfn: run.pfn, count: run.count, rank: pages }),
            }
            pages += run.count;
        }
        Layout { extents, pages }
    }

    /// Number of pages before this one; `None` if it is not in the core.
    pub(super) fn rank(&self, pfn: u64) -> Option<u64> {
        let behind = self.extents.partition_point(|extent| extent.pfn <= pfn);
        let extent = self.extents.get(behind.checked_sub(1)?)?;
        let inside = pfn - extent.pfn;
        (inside < extent.count).then(|| extent.rank + inside)
    }

    /// The parts of a mapping whose pages are in the core.
    pub(super) fn clip(&self, mapping: Mapping) -> impl Iterator<Item = Segment> + '_ {
        let pfn = mapping.phys / PAGE_SIZE as u64;
        let end = pfn + mapping.length / PAGE_SIZE as u64;
        let first = self.extents.partition_point(|extent| extent.pfn + extent.count <= pfn);
        let extents = self.extents[first..].iter().take_while(move |extent| extent.pfn < end);
        extents.map(move |extent| {
            let from = extent.pfn.max(pfn);
            let to = (extent.pfn + extent.count).min(end);
            Segment {
                virt: mapping.virt.wrapping_add((from - pfn) * PAGE_SIZE as u64),
                pfn: from,
                count: to - from,
                rank: extent.rank + (from - extent.pfn),
            }
        })
    }
}

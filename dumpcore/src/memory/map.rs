//! The RAM map: sorted, in whole pages, without overlaps, and copied into the arena so that the crash cannot
//! change it.

use crate::arena::{Arena, OutOfArena};
use crate::format::PAGE_BYTES;
use crate::platform::{Platform, RamRange};

/// A range of page frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PfnRange {
    /// First page frame number.
    pub start: u64,
    /// First page frame number after the range.
    pub end: u64,
}

impl PfnRange {
    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range contains a page frame.
    pub fn contains(&self, pfn: u64) -> bool {
        self.start <= pfn && pfn < self.end
    }
}

/// The whole pages in a range of bytes; `None` if there are none or the range is backwards.
pub fn whole_pages(range: RamRange) -> Option<PfnRange> {
    let start = range.start.div_ceil(PAGE_BYTES);
    let end = range.end / PAGE_BYTES;
    (start < end).then_some(PfnRange { start, end })
}

/// Copies the platform's RAM map into the arena.
///
/// # Errors
/// If the arena is too small for it.
pub fn take<'a>(platform: &dyn Platform, arena: &mut Arena<'a>) -> Result<&'a [PfnRange], OutOfArena> {
    let mut count = 0_usize;
    platform.ram(&mut |range| {
        if whole_pages(range).is_some() {
            count = count.saturating_add(1);
        }
    });
    let bytes = count.checked_mul(size_of::<PfnRange>()).ok_or(OutOfArena { bytes: usize::MAX })?;
    let memory = arena.bytes(bytes, align_of::<PfnRange>())?;
    // SAFETY: the bytes are ours alone, aligned, and long enough for `count` ranges. They are zero, which is
    // a valid pair of numbers.
    let ranges = unsafe { core::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<PfnRange>(), count) };
    let mut slots = ranges.iter_mut();
    platform.ram(&mut |range| {
        if let Some(pages) = whole_pages(range)
            && let Some(slot) = slots.next()
        {
            *slot = pages;
        }
    });
    Ok(normalise(ranges))
}

/// Sorts ranges and joins those that touch or overlap, in place; returns the resulting ranges.
pub fn normalise(ranges: &mut [PfnRange]) -> &[PfnRange] {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut kept = 0_usize;
    for at in 0..ranges.len() {
        let Some(range) = ranges.get(at).copied() else { break };
        if range.pages() == 0 {
            continue;
        }
        let last = kept.checked_sub(1).and_then(|last| ranges.get_mut(last));
        match last {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => {
                if let Some(slot) = ranges.get_mut(kept) {
                    *slot = range;
                    kept = kept.saturating_add(1);
                }
            }
        }
    }
    ranges.get(..kept).unwrap_or_default()
}

//! Ranges of RAM.

use dumpcore::platform::RamRange;

/// Maximum number of ranges in a map.
const RANGES: usize = 128;
/// Size of a frame in bytes.
pub(crate) const FRAME: u64 = 4096;

/// Ranges of RAM, page-aligned, ascending.
#[derive(Clone)]
pub(crate) struct RamMap {
    ranges: [RamRange; RANGES],
    count: usize,
}

impl RamMap {
    /// No RAM.
    pub(crate) const fn new() -> RamMap {
        RamMap { ranges: [RamRange { start: 0, end: 0 }; RANGES], count: 0 }
    }

    /// Adds a range, rounded inwards to whole pages.
    pub(crate) fn add(&mut self, range: RamRange) -> Result<(), &'static str> {
        let range = RamRange { start: range.start.next_multiple_of(FRAME), end: range.end & !(FRAME - 1) };
        if range.start >= range.end {
            return Ok(());
        }
        let place = self.iter().take_while(|other| other.start < range.start).count();
        let last = self.count;
        *self.ranges.get_mut(last).ok_or("the memory map has too many ranges")? = range;
        self.count += 1;
        self.ranges[place..=last].rotate_right(1);
        Ok(())
    }

    /// The ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RamRange> {
        self.ranges[..self.count].iter()
    }

    /// Removes a range, which may be anywhere.
    pub(crate) fn remove(&mut self, hole: RamRange) -> Result<(), &'static str> {
        let before = self.clone();
        self.count = 0;
        for range in before.iter() {
            self.add(RamRange { start: range.start, end: range.end.min(hole.start).max(range.start) })?;
            self.add(RamRange { start: range.start.max(hole.end).min(range.end), end: range.end })?;
        }
        Ok(())
    }
}

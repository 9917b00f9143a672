//! Frames: which are free, and the classes of the others.

use core::sync::atomic::{AtomicU8, Ordering};

use dumpcore::PageClass;
use dumpcore::platform::{ClassRun, RamRange};
use spin::{Mutex, Once};

use super::ram::{FRAME, RamMap};

/// All RAM reported by the machine. Fixed after boot, and read without a lock by the dump.
static RAM: Once<RamMap> = Once::new();
/// The free part of it.
static FREE: Mutex<RamMap> = Mutex::new(RamMap::new());

/// The class of each frame: one byte per frame, an index into [`CLASSES`]. A kernel with a structure for each
/// page would store it there.
///
/// A byte is always a valid class, so the dump reads it without a lock, even if a CPU died while changing it.
static USES: Once<&'static [AtomicU8]> = Once::new();
/// The classes of frames; unmarked frames have the first one.
const CLASSES: [PageClass; 10] = [
    PageClass::Unknown,
    PageClass::Free,
    PageClass::KernelText,
    PageClass::KernelData,
    PageClass::Stack,
    PageClass::PageTable,
    PageClass::Slab,
    PageClass::User,
    PageClass::Cache,
    PageClass::CachePrivate,
];
/// The names of the classes on the console.
const NAMES: [&str; CLASSES.len()] =
    ["unknown", "free", "text", "data", "stack", "pagetable", "slab", "user", "cache", "cacheprivate"];
/// Runs of frames of one class are counted up to this many (16 MiB), so that an answer does not take long.
const LONGEST_RUN: usize = 4096;

/// Sets all RAM, and its free part.
pub(super) fn set_ram(ram: RamMap, free: RamMap) {
    *FREE.lock() = free;
    RAM.call_once(|| ram);
}

/// Provides the memory for the classes.
pub(super) fn set_uses(uses: &'static [AtomicU8]) {
    USES.call_once(|| uses);
}

/// Sets the class of a range.
pub(super) fn mark(range: RamRange, class: PageClass) {
    let number = CLASSES.iter().position(|other| *other == class).unwrap_or(0) as u8;
    let uses = USES.get().copied().unwrap_or_default();
    let frames = (range.start / FRAME) as usize..(range.end / FRAME) as usize;
    for slot in uses.get(frames).unwrap_or_default() {
        slot.store(number, Ordering::Relaxed);
    }
}

/// The class of a frame, and how many from it on share it. For the dump: takes no lock, and cannot panic.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn class(pfn: u64) -> ClassRun {
    let uses = USES.get().copied().unwrap_or_default();
    let row = usize::try_from(pfn).ok().and_then(|first| uses.get(first..)).unwrap_or_default();
    let mut numbers = row.iter().take(LONGEST_RUN).map(|slot| slot.load(Ordering::Relaxed));
    let first = numbers.next().unwrap_or(0);
    let class = CLASSES.get(usize::from(first)).copied().unwrap_or(PageClass::Unknown);
    let more = numbers.take_while(|number| *number == first).count();
    ClassRun { class, pages: (more as u64).saturating_add(1) }
}

/// All RAM.
pub(crate) fn ram() -> &'static RamMap {
    static NONE: RamMap = RamMap::new();
    RAM.get().unwrap_or(&NONE)
}

/// Number of pages in each class, with its name.
pub(crate) fn classes() -> [(&'static str, u64); CLASSES.len()] {
    let mut counts = NAMES.map(|name| (name, 0));
    let uses = USES.get().copied().unwrap_or_default();
    for range in ram().iter() {
        let frames = (range.start / FRAME) as usize..(range.end / FRAME) as usize;
        for slot in uses.get(frames).unwrap_or_default() {
            if let Some((_, count)) = counts.get_mut(usize::from(slot.load(Ordering::Relaxed))) {
                *count += 1;
            }
        }
    }
    counts
}

/// Takes `frames` contiguous frames, the lowest free ones, aligned to `align` frames. Returns the physical
/// address.
pub(crate) fn take(frames: u64, align: u64, class: PageClass) -> Option<u64> {
    let mut free = FREE.lock();
    let length = frames * FRAME;
    let start = free.iter().find_map(|range| {
        let start = range.start.next_multiple_of(align * FRAME);
        (start + length <= range.end).then_some(start)
    })?;
    let taken = RamRange { start, end: start + length };
    free.remove(taken).ok()?;
    mark(taken, class);
    Some(start)
}

/// Takes the free frame at `part` of `parts` of all free memory, so that frames taken with different parts
/// are scattered over all of RAM.
pub(crate) fn take_scattered(part: u64, parts: u64, class: PageClass) -> Option<u64> {
    let mut free = FREE.lock();
    let total: u64 = free.iter().map(|range| range.end - range.start).sum();
    let mut offset = (total / parts * part) & !(FRAME - 1);
    let start = free.iter().find_map(|range| {
        let length = range.end - range.start;
        if offset < length {
            return Some(range.start + offset);
        }
        offset -= length;
        None
    })?;
    let taken = RamRange { start, end: start + FRAME };
    free.remove(taken).ok()?;
    mark(taken, class);
    Some(start)
}

/// Takes up to `frames` frames, as many as are free, and calls `visit` with the physical address of each.
/// Returns their number.
pub(crate) fn take_many(frames: u64, class: PageClass, mut visit: impl FnMut(u64)) -> u64 {
    let mut left = frames;
    while left > 0 {
        let piece = {
            let mut free = FREE.lock();
            let Some(range) = free.iter().next().copied() else { break };
            let piece = RamRange { start: range.start, end: range.end.min(range.start + left * FRAME) };
            if free.remove(piece).is_err() {
                break;
            }
            mark(piece, class);
            piece
        };
        for frame in (piece.start..piece.end).step_by(FRAME as usize) {
            visit(frame);
        }
        left -= (piece.end - piece.start) / FRAME;
    }
    frames - left
}

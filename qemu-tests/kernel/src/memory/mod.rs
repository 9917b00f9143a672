//! RAM: what there is, what of it is free, and what the rest is used for. Frames are taken, and never given back.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

use dumpcore::PageClass;
use dumpcore::platform::{ClassRun, RamRange};
use spin::{Mutex, Once};

use crate::arch::paging::{self, Access};
use crate::arch::stack;

/// Ranges of RAM that a map holds.
const RANGES: usize = 128;
/// Bytes in a frame.
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

    /// Takes a part out, which may lie anywhere.
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

/// All RAM, as the machine gave it to us. Fixed after boot, and read without a lock by the dump.
static RAM: Once<RamMap> = Once::new();
/// The part of it that nobody uses.
static FREE: Mutex<RamMap> = Mutex::new(RamMap::new());

/// What each frame is used for: a byte for each, the place of its class in [`CLASSES`]. A kernel that has a structure for
/// each page would keep this there.
///
/// A byte is always one class or another, so the dump reads it without a lock, whoever died while changing it.
static USES: Once<&'static [AtomicU8]> = Once::new();
/// The classes that frames have here, those that nobody has marked first.
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
/// What they are called on the console.
const NAMES: [&str; CLASSES.len()] =
    ["unknown", "free", "text", "data", "stack", "pagetable", "slab", "user", "cache", "cacheprivate"];
/// Frames in a row of one class are counted up to this many (16 MiB), so that an answer does not take long.
const LONGEST_RUN: usize = 4096;

/// A part of the kernel's image.
pub(crate) struct ImagePart {
    /// First virtual address.
    pub(crate) start: u64,
    /// First virtual address behind it.
    pub(crate) end: u64,
    /// How it is mapped.
    pub(crate) access: Access,
    /// What it is used for.
    pub(crate) class: PageClass,
}

/// Address of a symbol of image.ld.
macro_rules! linker_symbol {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        &raw const $name as u64
    }};
}
pub(crate) use linker_symbol;

impl ImagePart {
    /// Where it lies in RAM.
    pub(crate) fn physical(&self) -> RamRange {
        physical(self.start..self.end)
    }
}

/// Where a part of the kernel's image lies in RAM.
fn physical(part: Range<u64>) -> RamRange {
    let start = paging::physical(part.start as *const u8);
    RamRange { start, end: start + (part.end - part.start) }
}

/// The kernel's image, in parts.
pub(crate) fn kernel_image() -> [ImagePart; 3] {
    let text = linker_symbol!(__text_start);
    let rodata = linker_symbol!(__rodata_start);
    let data = linker_symbol!(__data_start);
    let end = linker_symbol!(__kernel_end);
    [
        ImagePart { start: text, end: rodata, access: Access::Execute, class: PageClass::KernelText },
        ImagePart { start: rodata, end: data, access: Access::Read, class: PageClass::KernelText },
        ImagePart { start: data, end, access: Access::Write, class: PageClass::KernelData },
    ]
}

/// Makes all RAM known, and all of it free but the kernel and what is `taken`. On the boot page tables, which show the first GiB
/// of RAM.
pub(crate) fn init(ram: RamMap, taken: &RamMap) -> Result<(), &'static str> {
    let mut free = ram.clone();
    taken.iter().try_for_each(|range| free.remove(*range))?;
    let [first, _, last] = kernel_image();
    free.remove(RamRange { start: first.physical().start, end: last.physical().end })?;
    let frames = ram.iter().last().map_or(0, |last| last.end / FRAME);
    *FREE.lock() = free.clone();
    RAM.call_once(|| ram);

    let bytes =
        take_bytes(frames as usize, 1, PageClass::KernelData).ok_or("no memory for the map of uses")?;
    let own = paging::physical(bytes.as_ptr());
    // SAFETY: an AtomicU8 is laid out as a u8, and the bytes are ours for ever.
    let uses = unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), frames as usize) };
    USES.call_once(|| uses);
    free.iter().for_each(|range| mark(*range, PageClass::Free));
    mark(RamRange { start: own, end: own + bytes.len() as u64 }, PageClass::KernelData);
    for part in kernel_image() {
        mark(part.physical(), part.class);
    }
    for stacks in stack::all() {
        mark(physical(stacks), PageClass::Stack);
    }
    Ok(())
}

/// Says what a range is used for from now on.
fn mark(range: RamRange, class: PageClass) {
    let number = CLASSES.iter().position(|other| *other == class).unwrap_or(0) as u8;
    let uses = USES.get().copied().unwrap_or_default();
    let frames = (range.start / FRAME) as usize..(range.end / FRAME) as usize;
    for slot in uses.get(frames).unwrap_or_default() {
        slot.store(number, Ordering::Relaxed);
    }
}

/// What a frame and those behind it are used for. For the dump: takes no lock, and cannot panic.
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

/// Pages of RAM in each class, with its name.
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

/// Takes `frames` frames in a row, the lowest that are free, aligned to `align` frames. Gives the physical address.
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

/// Takes the free frame that comes after `part` of `parts` of all free memory, so that frames taken with
/// different parts lie scattered over all of RAM.
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

/// Takes as many frames as there are, up to `frames`, and calls `visit` with the physical address of each.
/// Returns how many there were.
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

/// Takes frames in a row and gives them as bytes, zeroed, in the direct map.
pub(crate) fn take_bytes(bytes: usize, align: u64, class: PageClass) -> Option<&'static mut [u8]> {
    let bytes = bytes.next_multiple_of(FRAME as usize);
    let start = paging::direct(take(bytes as u64 / FRAME, align, class)?);
    // SAFETY: the frames are ours alone, RAM, and in the direct map for ever.
    unsafe {
        start.write_bytes(0, bytes);
        Some(core::slice::from_raw_parts_mut(start, bytes))
    }
}

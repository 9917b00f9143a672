//! RAM: what there is, and what of it is free. Frames are taken, and never given back.

use dumpcore::platform::RamRange;
use spin::{Mutex, Once};

use crate::arch::paging::{self, Access, KERNEL_BASE};

/// Ranges of RAM that a map holds.
const RANGES: usize = 128;
/// Bytes in a frame.
pub(crate) const FRAME: u64 = 4096;
/// The kernel takes no frame below this: the first MiB belongs to firmware tables and to the startup of CPUs.
const FIRST_FREE: u64 = 1 << 20;

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
    fn remove(&mut self, hole: RamRange) -> Result<(), &'static str> {
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

/// A part of the kernel's image.
pub(crate) struct ImagePart {
    /// First virtual address.
    pub(crate) start: u64,
    /// First virtual address behind it.
    pub(crate) end: u64,
    /// How it is mapped.
    pub(crate) access: Access,
}

/// Address of a symbol of linker.ld.
macro_rules! linker_symbol {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        &raw const $name as u64
    }};
}
pub(crate) use linker_symbol;

/// The kernel's image, in parts.
pub(crate) fn kernel_image() -> [ImagePart; 3] {
    let text = linker_symbol!(__text_start);
    let rodata = linker_symbol!(__rodata_start);
    let data = linker_symbol!(__data_start);
    let end = linker_symbol!(__kernel_end);
    [
        ImagePart { start: text, end: rodata, access: Access::Execute },
        ImagePart { start: rodata, end: data, access: Access::Read },
        ImagePart { start: data, end, access: Access::Write },
    ]
}

/// Makes all RAM known, and all of it free but the kernel and the first MiB.
pub(crate) fn init(ram: RamMap) -> Result<(), &'static str> {
    let mut free = ram.clone();
    free.remove(RamRange { start: 0, end: FIRST_FREE })?;
    let [first, _, last] = kernel_image();
    free.remove(RamRange { start: first.start - KERNEL_BASE, end: last.end - KERNEL_BASE })?;
    *FREE.lock() = free;
    RAM.call_once(|| ram);
    Ok(())
}

/// All RAM.
pub(crate) fn ram() -> &'static RamMap {
    static NONE: RamMap = RamMap::new();
    RAM.get().unwrap_or(&NONE)
}

/// Takes `frames` frames in a row, the lowest that are free, aligned to `align` frames. Gives the physical address.
pub(crate) fn take(frames: u64, align: u64) -> Option<u64> {
    let mut free = FREE.lock();
    let length = frames * FRAME;
    let start = free.iter().find_map(|range| {
        let start = range.start.next_multiple_of(align * FRAME);
        (start + length <= range.end).then_some(start)
    })?;
    free.remove(RamRange { start, end: start + length }).ok()?;
    Some(start)
}

/// Takes the free frame that comes after `part` of `parts` of all free memory, so that frames taken with
/// different parts lie scattered over all of RAM.
pub(crate) fn take_scattered(part: u64, parts: u64) -> Option<u64> {
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
    free.remove(RamRange { start, end: start + FRAME }).ok()?;
    Some(start)
}

/// Takes as many frames as there are, up to `frames`, and calls `visit` with the physical address of each.
/// Returns how many there were.
pub(crate) fn take_many(frames: u64, mut visit: impl FnMut(u64)) -> u64 {
    let mut left = frames;
    while left > 0 {
        let piece = {
            let mut free = FREE.lock();
            let Some(range) = free.iter().next().copied() else { break };
            let piece = RamRange { start: range.start, end: range.end.min(range.start + left * FRAME) };
            if free.remove(piece).is_err() {
                break;
            }
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
pub(crate) fn take_bytes(bytes: usize, align: u64) -> Option<&'static mut [u8]> {
    let bytes = bytes.next_multiple_of(FRAME as usize);
    let start = paging::direct(take(bytes as u64 / FRAME, align)?);
    // SAFETY: the frames are ours alone, RAM, and in the direct map for ever.
    unsafe {
        start.write_bytes(0, bytes);
        Some(core::slice::from_raw_parts_mut(start, bytes))
    }
}

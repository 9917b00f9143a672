//! RAM: its extent, the free part, and the classes of the rest. Frames are taken and never returned.

mod frames;
mod image;
mod ram;

use core::ops::Range;

use dumpcore::PageClass;
use dumpcore::platform::RamRange;

pub(crate) use frames::{class, classes, ram, take, take_many, take_scattered};
pub(crate) use image::{Access, kernel_image, linker_symbol};
pub(crate) use ram::{FRAME, RamMap};

use crate::arch::{paging, stack};

/// The physical range of a part of the kernel's image.
fn physical(part: Range<u64>) -> RamRange {
    let start = paging::physical(part.start as *const u8);
    RamRange { start, end: start + (part.end - part.start) }
}

/// Registers all RAM. All of it is free, except the kernel and what is `taken`. On the boot page tables,
/// which map the first GiB of RAM.
pub(crate) fn init(ram: RamMap, taken: &RamMap) -> Result<(), &'static str> {
    let mut free = ram.clone();
    taken.iter().try_for_each(|range| free.remove(*range))?;
    let [first, _, last] = kernel_image();
    free.remove(RamRange {
        start: physical(first.start..first.end).start,
        end: physical(last.start..last.end).end,
    })?;
    let count = ram.iter().last().map_or(0, |last| last.end / FRAME);
    frames::set_ram(ram, free.clone());

    let bytes =
        take_bytes(count as usize, 1, PageClass::KernelData).ok_or("no memory for the map of uses")?;
    let own = paging::physical(bytes.as_ptr());
    // SAFETY: an AtomicU8 has the layout of a u8, and the bytes are ours for good.
    let uses = unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), count as usize) };
    frames::set_uses(uses);
    free.iter().for_each(|range| frames::mark(*range, PageClass::Free));
    frames::mark(RamRange { start: own, end: own + bytes.len() as u64 }, PageClass::KernelData);
    for part in kernel_image() {
        frames::mark(physical(part.start..part.end), part.class);
    }
    for stacks in stack::all() {
        frames::mark(physical(stacks), PageClass::Stack);
    }
    Ok(())
}

/// Takes contiguous frames and returns them as zeroed bytes in the direct map.
pub(crate) fn take_bytes(bytes: usize, align: u64, class: PageClass) -> Option<&'static mut [u8]> {
    let bytes = bytes.next_multiple_of(FRAME as usize);
    let start = paging::direct(take(bytes as u64 / FRAME, align, class)?);
    // SAFETY: the frames are ours alone, are RAM, and stay in the direct map.
    unsafe {
        start.write_bytes(0, bytes);
        Some(core::slice::from_raw_parts_mut(start, bytes))
    }
}

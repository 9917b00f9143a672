//! Damages the dump, one bit at a time before it begins, or while it runs.

use alloc::vec::Vec;

use dump_drivers::bus::pci::Command;
use dump_drivers::virtio::blk;

use crate::arch::{paging, pci, power};
use crate::arm::Armed;
use crate::log::log;
use crate::memory;
use crate::scenario::sabotage::SABOTAGE;

/// Flips one bit in the dump path's code, through the direct map, because the code itself is mapped
/// read-only. The bit is in the function that switches the machine off, which runs after the check or never.
pub(crate) fn code() -> Result<(), &'static str> {
    let address = paging::physical(power::power_off as *const u8);
    flip(address + 4);
    log!("testkernel: flipped a bit of code at {address:#x}");
    Ok(())
}

/// Flips one bit in the armed state, `offset` bytes after the beginning of the memory map that arm() has
/// made. The map is found in the arena by its content.
pub(crate) fn state(armed: &Armed, offset: u64) -> Result<(), &'static str> {
    // Frames of the first ranges; a machine may have only one.
    let begin: Vec<u64> = memory::ram()
        .iter()
        .flat_map(|range| [range.start, range.end])
        .map(|address| address / memory::FRAME)
        .take(3)
        .collect();
    let words = ((armed.arena_end - armed.arena_start) / 8) as usize;
    // SAFETY: the arena is RAM in the direct map, and does not change while the kernel is healthy.
    let arena =
        unsafe { core::slice::from_raw_parts(paging::direct(armed.arena_start).cast::<u64>(), words) };
    let map = arena.windows(begin.len()).position(|window| window == begin.as_slice());
    let map = map.ok_or("nothing is armed, or the memory map is not in the arena")?;
    let address = armed.arena_start + 8 * map as u64 + offset;
    if address >= armed.arena_end {
        return Err("state-offset= is outside of the arena");
    }
    flip(address);
    log!("testkernel: flipped a bit of state at {address:#x}");
    Ok(())
}

fn flip(physical: u64) {
    let byte = paging::direct(physical);
    // SAFETY: RAM in the direct map. Its owner is meant to be damaged.
    unsafe { byte.write_volatile(byte.read_volatile() ^ 0x10) };
}

/// Makes the virtio disk with this number stop decoding its registers, as if the crash had happened in the
/// middle of its reset.
pub(crate) fn send_to_sleep(number: usize) -> Result<(), &'static str> {
    let function = blk::find(&pci::config(), number).ok_or("there is no such disk")?;
    function
        .change_command(&pci::config(), Command::empty(), Command::MEMORY)
        .map_err(|_| "its PCI command cannot be changed")
}

/// Makes the dump panic at its first line on the console, before it has written a block.
pub(crate) fn before_write() {
    SABOTAGE.set_console();
}

/// Makes the dump panic when it reads its `page`th page of memory.
pub(crate) fn after_write(page: u32) {
    SABOTAGE.set_pages(page.max(1));
}

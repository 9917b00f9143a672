//! Harm done to the dump before it begins, one bit at a time, or while it runs.

use crate::arch::{paging, power};
use crate::arm::Armed;
use crate::log::log;
use crate::platform::SABOTAGE;

/// Flips one bit in the dump path's code, through the direct map, as the code itself is mapped read-only: in
/// the function that switches the machine off, which runs after the check or never.
pub(crate) fn code() -> Result<(), &'static str> {
    let address = paging::physical(power::power_off as *const u8);
    flip(address + 4);
    log!("testkernel: flipped a bit of code at {address:#x}");
    Ok(())
}

/// Flips one bit in the sealed armed state: `offset` bytes behind the driver's part of the arena. At 0 stands the
/// memory map that arm() has made.
pub(crate) fn state(armed: &Armed, offset: u64) -> Result<(), &'static str> {
    let address = armed.arena_start + armed.state_offset + offset;
    if address >= armed.arena_end {
        return Err("state-offset= is outside of the arena");
    }
    flip(address);
    log!("testkernel: flipped a bit of state at {address:#x}");
    Ok(())
}

fn flip(physical: u64) {
    let byte = paging::direct(physical);
    // SAFETY: RAM in the direct map. Whoever owns it is to be harmed.
    unsafe { byte.write_volatile(byte.read_volatile() ^ 0x10) };
}

/// The dump panics with its first line on the console, before it has written a block.
pub(crate) fn before_write() {
    SABOTAGE.set_console();
}

/// The dump panics when it looks at its `page`th page of memory.
pub(crate) fn after_write(page: u32) {
    SABOTAGE.set_pages(page.max(1));
}

//! Cache maintenance by address (Arm ARM, D7.5.9), to the point of coherency. According to QEMU's device tree
//! its devices are coherent (`dma-coherent`); doing it anyway is harmless.

use core::arch::asm;

/// Bytes of the smallest line of all data caches.
fn line() -> usize {
    let types: u64;
    // SAFETY: reads the cache type register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    4 << (types >> 16 & 15)
}

/// Waits until maintenance is done.
fn finish() {
    // SAFETY: a barrier only affects order.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes data written to these bytes visible to devices, and invalidates their cache lines.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(start: *const u8, length: usize) {
    let line = line();
    let mut at = start as usize & !line.wrapping_sub(1);
    let end = (start as usize).saturating_add(length);
    // Each turn takes a line, and the bytes have an end.
    while at < end {
        // SAFETY: memory contents do not change; the caller has mapped the bytes.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at = at.saturating_add(line);
    }
    finish();
}

/// Makes data that a device wrote to these bytes visible to the CPUs. A line that is only partly within them
/// is written back first.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(start: *const u8, length: usize) {
    let line = line();
    let mut at = start as usize & !line.wrapping_sub(1);
    let end = (start as usize).saturating_add(length);
    // Each turn takes a line, and the bytes have an end.
    while at < end {
        let next = at.saturating_add(line);
        if at < start as usize || next > end {
            // SAFETY: memory contents do not change; the caller has mapped the bytes.
            unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: the line contains only these bytes, which a device wrote: no CPU write is lost.
            unsafe { asm!("dc ivac, {}", in(reg) at, options(nostack, preserves_flags)) };
        }
        at = next;
    }
    finish();
}

//! Cache maintenance by address (Arm ARM, D7.5.9), to where all of the system sees it. The device tree of QEMU says that its devices
//! look into the CPUs' caches (`dma-coherent`); it is done all the same, as it is right either way.

use core::arch::asm;

/// Bytes of the smallest line of all data caches.
fn line() -> usize {
    let types: u64;
    // SAFETY: reads which caches there are.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    4 << (types >> 16 & 15)
}

/// Waits until maintenance is done.
fn finish() {
    // SAFETY: a barrier changes nothing but order.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes what was written to these bytes visible to devices, and drops the lines that hold them.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(start: *const u8, length: usize) {
    let line = line();
    let mut at = start as usize & !line.wrapping_sub(1);
    let end = (start as usize).saturating_add(length);
    // Each turn takes a line, and the bytes have an end.
    while at < end {
        // SAFETY: what memory holds does not change; the caller has mapped the bytes.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at = at.saturating_add(line);
    }
    finish();
}

/// Makes what a device wrote to these bytes visible to the CPUs. A line that is only partly within them is written back first.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(start: *const u8, length: usize) {
    let line = line();
    let mut at = start as usize & !line.wrapping_sub(1);
    let end = (start as usize).saturating_add(length);
    // Each turn takes a line, and the bytes have an end.
    while at < end {
        let next = at.saturating_add(line);
        if at < start as usize || next > end {
            // SAFETY: what memory holds does not change; the caller has mapped the bytes.
            unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: the line holds nothing but these bytes, which a device wrote: no write of a CPU is lost.
            unsafe { asm!("dc ivac, {}", in(reg) at, options(nostack, preserves_flags)) };
        }
        at = next;
    }
    finish();
}

//! Cache maintenance for devices that are not coherent.
//!
//! RISC-V orders memory and device accesses only on request (Unprivileged ISA, 2.7, FENCE), so a barrier is
//! always needed. If the CPUs have the extension Zicbom according to the device tree, cache blocks are also
//! written back or invalidated. Without it, the firmware or a driver for the cache controller would have to
//! do that; QEMU's DMA is coherent.
//!
//! Specification: RISC-V Base Cache Management Operation ISA Extensions 1.0.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu;
use crate::arch::virt::device_tree;

/// Size in bytes of the block that the instructions work on; 0 if the CPUs do not have them.
static BLOCK: AtomicU64 = AtomicU64::new(0);

/// Finds out whether all CPUs have the instructions.
pub(super) fn init() {
    let mut block = None;
    device_tree::each_cpu(|node, _| {
        let size = device_tree::number(node, "riscv,cbom-block-size").filter(|size| size.is_power_of_two());
        // The smallest size, so that no block is skipped.
        block = [block, size].into_iter().flatten().min();
    });
    let block = block.filter(|_| cpu::all_have("zicbom")).map_or(0, u64::from);
    BLOCK.store(block, Ordering::Relaxed);
}

/// Executes a cache operation on each block of a range.
macro_rules! for_each_block {
    ($start:expr, $length:expr, $operation:literal) => {
        let block = BLOCK.load(Ordering::Relaxed);
        if block != 0 {
            let start = $start as u64;
            let end = start.saturating_add($length as u64);
            let mut at = start & !block.wrapping_sub(1);
            // Each turn takes the next block of the range.
            while at < end {
                // SAFETY: the CPUs have the instruction (CBO: opcode 0x0f, function 2). It does not change
                // memory, and only makes earlier writes visible.
                unsafe { asm!(concat!(".insn i 0x0f, 2, x0, {}, ", $operation), in(reg) at, options(nostack)) };
                at = at.saturating_add(block);
            }
        }
    };
}

/// Makes the CPU's writes visible to devices that are notified after this.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(start: *const u8, length: usize) {
    // cbo.clean.
    for_each_block!(start, length, "1");
    // SAFETY: a barrier, which orders the writes before accesses to device registers.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
}

/// Makes a device's writes visible to this CPU. Blocks are written back before they are invalidated, so that
/// data next to the range is kept.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(start: *const u8, length: usize) {
    // SAFETY: a barrier, which orders the device's completion before reads of its data.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
    // cbo.flush: the device has written to memory directly, so blocks without writes by the CPU are clean.
    for_each_block!(start, length, "2");
    // SAFETY: a barrier.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
}

//! Caches, for devices that do not look into them.
//!
//! RISC-V orders memory and device registers only where it is told to (Unprivileged ISA, 2.7, FENCE), so a barrier is due in any
//! case. Where the device tree says that the CPUs have the extension Zicbom, what lies in the caches is written back or dropped too.
//! Without it the firmware or a driver of the cache controller would have to; QEMU's DMA is coherent.
//!
//! Specification: RISC-V Base Cache Management Operation ISA Extensions 1.0.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu;
use crate::arch::virt::device_tree;

/// Bytes of a block that the instructions work on; 0 if the CPUs do not have them.
static BLOCK: AtomicU64 = AtomicU64::new(0);

/// Learns whether the CPUs can, all of them.
pub(super) fn init() {
    let mut block = None;
    device_tree::each_cpu(|node, _| {
        let size = device_tree::number(node, "riscv,cbom-block-size").filter(|size| size.is_power_of_two());
        // The smallest, so that none is left out.
        block = [block, size].into_iter().flatten().min();
    });
    let block = block.filter(|_| cpu::all_have("zicbom")).map_or(0, u64::from);
    BLOCK.store(block, Ordering::Relaxed);
}

/// What is to be done to a block.
macro_rules! for_each_block {
    ($start:expr, $length:expr, $operation:literal) => {
        let block = BLOCK.load(Ordering::Relaxed);
        if block != 0 {
            let start = $start as u64;
            let end = start.saturating_add($length as u64);
            let mut at = start & !block.wrapping_sub(1);
            // Each turn takes the next block of the range.
            while at < end {
                // SAFETY: the CPUs have the instruction (CBO: opcode 0x0f, function 2), and it changes no memory but makes
                // visible what was written to it.
                unsafe { asm!(concat!(".insn i 0x0f, 2, x0, {}, ", $operation), in(reg) at, options(nostack)) };
                at = at.saturating_add(block);
            }
        }
    };
}

/// Makes what the CPU has written visible to devices that are told of it from now on.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(start: *const u8, length: usize) {
    // cbo.clean.
    for_each_block!(start, length, "1");
    // SAFETY: a barrier. What was written comes before what is done to device registers.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
}

/// Makes what a device has written visible to this CPU. Blocks are written back before they are dropped, so that what lies beside
/// the range stays.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(start: *const u8, length: usize) {
    // SAFETY: a barrier. What the device has said comes before what is read of its data.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
    // cbo.flush: the device has written past the caches, so a block that the CPU has not written to meanwhile is clean.
    for_each_block!(start, length, "2");
    // SAFETY: a barrier.
    unsafe { asm!("fence iorw, iorw", options(nostack)) };
}

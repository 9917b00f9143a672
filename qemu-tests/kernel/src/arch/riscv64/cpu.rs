//! Which CPU is this, and how many are there.
//!
//! The number comes from sscratch, not from memory or a general register: a crashed kernel may have lost those. There boot.s has
//! put the end of the CPU's emergency stack.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::stack;
pub(crate) use crate::arch::MAX_CPUS;
use crate::arch::virt::device_tree;

/// In sstatus: interrupts are let in.
const STATUS_INTERRUPTS: usize = 1 << 1;
/// In sie and sip: the interrupt that another hart sends.
const SOFTWARE: usize = 1 << 1;
/// A device's.
const EXTERNAL: usize = 1 << 9;

/// The firmware's number of each CPU: harts come in any order, and need not begin at 0.
static HARTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How many of them are known.
static KNOWN: AtomicUsize = AtomicUsize::new(1);
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Says which CPU boots: it becomes number 0.
pub(super) fn set_boot_hart(hart: u64) {
    HARTS[0].store(hart, Ordering::Relaxed);
}

/// Makes the other CPUs known, in the order of the device tree. Not yet counted as in use.
pub(super) fn init() {
    let mut known = 1;
    device_tree::each_cpu(|_, hart| {
        if hart != self::hart(0)
            && let Some(slot) = HARTS.get(known)
        {
            slot.store(hart, Ordering::Relaxed);
            known += 1;
        }
    });
    KNOWN.store(known, Ordering::Relaxed);
}

/// Whether all CPUs have an extension, by its name in lower case.
pub(super) fn all_have(extension: &str) -> bool {
    let mut all = true;
    device_tree::each_cpu(|node, _| {
        let isa = device_tree::text(node, "riscv,isa").unwrap_or_default();
        all &= isa.split('_').any(|part| part == extension);
    });
    all
}

/// How many CPUs there are, of those that the kernel serves.
pub(super) fn known() -> usize {
    KNOWN.load(Ordering::Relaxed)
}

/// Counts this many CPUs as in use.
pub(crate) fn set_count(count: usize) {
    COUNT.store(count, Ordering::Release);
}

/// How many CPUs are in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// The firmware's number of a CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn hart(cpu: usize) -> u64 {
    HARTS.get(cpu).map_or(0, |hart| hart.load(Ordering::Relaxed))
}

/// Number of the CPU that this runs on.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn number() -> usize {
    let end: u64;
    // SAFETY: reading the register changes nothing.
    unsafe { asm!("csrr {}, sscratch", out(reg) end, options(nomem, nostack)) };
    stack::owner(end)
}

/// No interrupts on this CPU from now on.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn disable_interrupts() {
    // SAFETY: interrupts are off then, which harms nobody.
    unsafe { asm!("csrc sstatus, {}", in(reg) STATUS_INTERRUPTS, options(nostack)) };
}

/// Lets interrupts of other CPUs in on this one.
pub(super) fn enable_interrupts() {
    // SAFETY: there is a handler for each.
    unsafe {
        asm!("csrs sie, {}", in(reg) SOFTWARE, options(nostack));
        asm!("csrs sstatus, {}", in(reg) STATUS_INTERRUPTS, options(nostack));
    }
}

/// Lets those of devices in too.
pub(super) fn enable_device_interrupts() {
    // SAFETY: there is a handler.
    unsafe { asm!("csrs sie, {}", in(reg) EXTERNAL, options(nostack)) };
    enable_interrupts();
}

/// Ends the interrupt that another CPU has sent.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn end_software_interrupt() {
    // SAFETY: only that interrupt's bit; who has sent it looks for what came of it in memory.
    unsafe { asm!("csrc sip, {}", in(reg) SOFTWARE, options(nostack)) };
}

/// Waits for ever, without interrupts.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn halt() -> ! {
    loop {
        disable_interrupts();
        // SAFETY: waits.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

//! The number of the current CPU, and the number of CPUs.
//!
//! The number comes from sscratch, not from memory or a general register, which a crashed kernel may have
//! lost. boot.s stores the end of the CPU's emergency stack there.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::stack;
pub(crate) use crate::arch::MAX_CPUS;
use crate::arch::virt::device_tree;

/// In sstatus: interrupts enabled.
const STATUS_INTERRUPTS: usize = 1 << 1;
/// In sie and sip: the interrupt sent by another hart.
const SOFTWARE: usize = 1 << 1;
/// In sie and sip: device interrupts.
const EXTERNAL: usize = 1 << 9;

/// The firmware's number of each CPU: harts come in any order and need not begin at 0.
static HARTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Number of known CPUs.
static KNOWN: AtomicUsize = AtomicUsize::new(1);
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Sets the boot CPU, which becomes number 0.
pub(super) fn set_boot_hart(hart: u64) {
    HARTS[0].store(hart, Ordering::Relaxed);
}

/// Registers the other CPUs, in the order of the device tree. They are not yet counted as in use.
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

/// Whether all CPUs have an extension, given by its name in lower case.
pub(super) fn all_have(extension: &str) -> bool {
    let mut all = true;
    device_tree::each_cpu(|node, _| {
        let isa = device_tree::text(node, "riscv,isa").unwrap_or_default();
        all &= isa.split('_').any(|part| part == extension);
    });
    all
}

/// Number of CPUs, up to the maximum that the kernel supports.
pub(super) fn known() -> usize {
    KNOWN.load(Ordering::Relaxed)
}

/// Sets the number of CPUs in use.
pub(crate) fn set_count(count: usize) {
    COUNT.store(count, Ordering::Release);
}

/// Number of CPUs in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// The firmware's number of a CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn hart(cpu: usize) -> u64 {
    HARTS.get(cpu).map_or(0, |hart| hart.load(Ordering::Relaxed))
}

/// Number of the current CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn number() -> usize {
    let end: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("csrr {}, sscratch", out(reg) end, options(nomem, nostack)) };
    stack::owner(end)
}

/// Disables interrupts on this CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn disable_interrupts() {
    // SAFETY: disabling interrupts is harmless.
    unsafe { asm!("csrc sstatus, {}", in(reg) STATUS_INTERRUPTS, options(nostack)) };
}

/// Enables interrupts from other CPUs on this CPU.
pub(super) fn enable_interrupts() {
    // SAFETY: each has a handler.
    unsafe {
        asm!("csrs sie, {}", in(reg) SOFTWARE, options(nostack));
        asm!("csrs sstatus, {}", in(reg) STATUS_INTERRUPTS, options(nostack));
    }
}

/// Enables device interrupts too.
pub(super) fn enable_device_interrupts() {
    // SAFETY: it has a handler.
    unsafe { asm!("csrs sie, {}", in(reg) EXTERNAL, options(nostack)) };
    enable_interrupts();
}

/// Acknowledges an interrupt from another CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn end_software_interrupt() {
    // SAFETY: only clears that interrupt's bit; the sender checks memory for the effect.
    unsafe { asm!("csrc sip, {}", in(reg) SOFTWARE, options(nostack)) };
}

/// Halts this CPU for good, without interrupts.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn halt() -> ! {
    loop {
        disable_interrupts();
        // SAFETY: only waits.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

//! The number of the current CPU, and the number of CPUs.
//!
//! The number comes from the CPU's own APIC id (CPUID leaf 1), not from memory or a segment base: a crashed
//! kernel may have lost both.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

pub(crate) use crate::arch::MAX_CPUS;

static APIC_IDS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

fn own_apic_id() -> u8 {
    (core::arch::x86_64::__cpuid(1).ebx >> 24) as u8
}

/// Registers the CPUs: this one becomes number 0, the others follow in the order of ACPI. They are not yet
/// counted as in use.
pub(crate) fn init(apic_ids: &[u8]) {
    let own = own_apic_id();
    let others = apic_ids.iter().copied().filter(|id| *id != own);
    for (slot, id) in APIC_IDS.iter().zip(core::iter::once(own).chain(others)) {
        slot.store(id, Ordering::Relaxed);
    }
}

/// Sets the number of CPUs in use.
pub(crate) fn set_count(count: usize) {
    COUNT.store(count, Ordering::Release);
}

/// Number of CPUs in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// APIC id of a CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn apic_id(cpu: usize) -> u8 {
    APIC_IDS.get(cpu).map_or(0, |id| id.load(Ordering::Relaxed))
}

/// Number of the current CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn number() -> usize {
    let own = own_apic_id();
    APIC_IDS.iter().take(MAX_CPUS).position(|id| id.load(Ordering::Relaxed) == own).unwrap_or(0)
}

/// Disables interrupts on this CPU.
pub(crate) fn disable_interrupts() {
    x86_64::instructions::interrupts::disable();
}

/// Halts this CPU for good, without interrupts; an NMI still gets through.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn halt() -> ! {
    loop {
        disable_interrupts();
        x86_64::instructions::hlt();
    }
}

//! x86_64: the PC as emulated by QEMU (machines `pc` and `q35`).

mod acpi;
mod apic;
pub(crate) mod boot;
pub(crate) mod cache;
pub(crate) mod clock;
pub(crate) mod cpu;
mod frame;
pub(crate) mod guard;
pub(crate) mod hotplug;
pub(crate) mod idle;
pub(crate) mod interrupts;
pub(crate) mod irq;
pub(crate) mod paging;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod random;
pub(crate) mod registers;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod stack;
mod tables;

use super::BootInfo;

/// A PC has everything that can be requested.
pub(crate) const MISSING: &[&str] = &[];

/// A PC has none.
pub(crate) fn virtio_mmio() -> &'static [u64] {
    &[]
}

/// Switches to the final page tables and starts the other CPUs, which call `others` with their numbers.
///
/// # Safety
/// Once, on the boot CPU, after `memory::init`.
pub(crate) unsafe fn bring_up(boot: &BootInfo, others: fn(usize) -> !) -> Result<(), &'static str> {
    // SAFETY: once and in this order, on the boot CPU, while no other runs.
    let acpi = unsafe {
        paging::init()?;
        apic::init()?;
        acpi::read(boot.tables)?
    };
    apic::mask_legacy();
    apic::enable();
    apic::connect_nmi();
    interrupts::enable_machine_checks();
    clock::init();
    cpu::init(&acpi.apic_ids[..acpi.cpus]);
    // SAFETY: the first MiB stays mapped at 0 until the next line; by then all CPUs have left it.
    unsafe {
        smp::start_others(acpi.cpus, others);
        paging::forget_identity();
    }
    Ok(())
}

//! riscv64: QEMU's `virt` machine, started in supervisor mode by the firmware OpenSBI.
//!
//! The compiled kernel uses neither floating point (the unit is off, so that a trap need not save its
//! registers) nor the register gp, which is reserved for the trap entry.

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
pub(crate) mod power;
pub(crate) mod random;
pub(crate) mod registers;
mod sbi;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod stack;

pub(crate) use super::virt::pci;
use super::{BootInfo, virt};

/// There is no non-maskable interrupt, so neither a button nor a watchdog reaches a hanging kernel; and no
/// hotplug without ACPI.
pub(crate) const MISSING: &[&str] =
    &["scenario=nmi", "scenario=watchdog", "scenario=unplug", "scenario=device-gone", "nmi"];

/// The devices in the device tree.
pub(crate) fn virtio_mmio() -> &'static [u64] {
    virt::device_tree::virtio_mmio()
}

/// Switches to the final page tables and starts the other CPUs, which call `others` with their numbers.
///
/// # Safety
/// Once, on the boot CPU, after `memory::init`.
pub(crate) unsafe fn bring_up(_: &BootInfo, others: fn(usize) -> !) -> Result<(), &'static str> {
    // SAFETY: once and in this order, on the boot CPU, while no other runs.
    unsafe {
        paging::init(serial::map)?;
        power::init()?;
        clock::init()?;
        cpu::init();
        cache::init();
        irq::init()?;
        pci::init()?;
        smp::start_others(cpu::known(), others);
    }
    cpu::enable_interrupts();
    Ok(())
}

//! riscv64: QEMU's machine `virt`, started in supervisor mode by the firmware OpenSBI.
//!
//! The compiled kernel uses no floating point (its unit is off, so that a trap need not store its registers), and not the register
//! gp, which belongs to the entry of traps.

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

/// There is no interrupt that cannot be masked, so neither a button nor the bite of a watchdog reaches a kernel that hangs; and no hotplug
/// without ACPI.
pub(crate) const MISSING: &[&str] =
    &["scenario=nmi", "scenario=watchdog", "scenario=unplug", "scenario=device-gone", "nmi"];

/// What the device tree tells of.
pub(crate) fn virtio_mmio() -> &'static [u64] {
    virt::device_tree::virtio_mmio()
}

/// Goes over to the final page tables, and starts the other CPUs, which call `others` with their numbers.
///
/// # Safety
/// Once, on the boot CPU, behind `memory::init`.
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

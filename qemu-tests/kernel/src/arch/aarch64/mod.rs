//! aarch64: QEMU's `virt` machine with GICv3. The kernel runs at EL1, on SP_EL0; exceptions have a stack of
//! their own.

pub(crate) mod boot;
pub(crate) mod cache;
pub(crate) mod clock;
pub(crate) mod cpu;
mod frame;
mod gic;
pub(crate) mod guard;
pub(crate) mod hotplug;
pub(crate) mod idle;
pub(crate) mod interrupts;
pub(crate) mod irq;
pub(crate) mod paging;
pub(crate) mod power;
mod psci;
pub(crate) mod random;
pub(crate) mod registers;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod stack;

use super::BootInfo;
pub(crate) use super::virt::device_tree::virtio_mmio;
pub(crate) use super::virt::pci;

/// Neither a button nor a watchdog can interrupt a hanging kernel from outside, and there is no hotplug
/// without ACPI.
pub(crate) const MISSING: &[&str] =
    &["scenario=nmi", "scenario=watchdog", "scenario=unplug", "scenario=device-gone", "nmi"];

/// Switches to the final page tables and starts the other CPUs, which call `others` with their numbers.
///
/// # Safety
/// Once, on the boot CPU, after `memory::init`.
pub(crate) unsafe fn bring_up(_: &BootInfo, others: fn(usize) -> !) -> Result<(), &'static str> {
    // SAFETY: once and in this order, on the boot CPU, while no other runs.
    unsafe {
        paging::init(serial::map)?;
        psci::init()?;
        clock::init()?;
        let count = cpu::init();
        gic::init()?;
        gic::enable()?;
        pci::init()?;
        smp::start_others(count, others);
    }
    Ok(())
}

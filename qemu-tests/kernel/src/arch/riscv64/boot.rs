//! Boot information: from the device tree that the firmware passes.

use super::cpu;
use crate::arch::BootInfo;
use crate::arch::virt::device_tree;

core::arch::global_asm!(include_str!("boot.s"));

unsafe extern "C" {
    /// In start.rs.
    safe fn kernel_start(handed_over: u64, boot_cpu: u64) -> !;
}

/// Entry from boot.s, on the boot CPU's own stack, with the boot page tables. Arguments: the firmware's
/// number of this CPU, and the physical address of the device tree.
#[unsafe(no_mangle)]
extern "C" fn first_steps(hart: u64, tree: u64) -> ! {
    // Without the tree, not even the console is known.
    // SAFETY: once, on the boot CPU; by the firmware's protocol, the tree is there.
    let result = unsafe { device_tree::read(tree) };
    if let Err(why) = result {
        super::sbi::write("testkernel: error: ");
        super::sbi::write(why);
        super::power::power_off()
    }
    kernel_start(tree, hart)
}

/// Reads the device tree.
///
/// # Safety
/// Once, on the boot CPU, with the value from boot.s.
pub(crate) unsafe fn read(tree: u64, hart: u64) -> Result<BootInfo, &'static str> {
    cpu::set_boot_hart(hart);
    Ok(BootInfo {
        command_line: device_tree::command_line(),
        ram: device_tree::ram()?,
        taken: device_tree::taken()?,
        tables: tree,
    })
}

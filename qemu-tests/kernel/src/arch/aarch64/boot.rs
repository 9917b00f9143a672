//! Boot information: from the device tree that the firmware passes.

use crate::arch::BootInfo;
use crate::arch::virt::device_tree;

core::arch::global_asm!(include_str!("boot.s"), stack = const super::stack::SIZE);

/// Reads the device tree.
///
/// # Safety
/// Once, on the boot CPU, with the value from boot.s, before anything is written to RAM outside the kernel.
pub(crate) unsafe fn read(tree: u64, _: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: the boot tables map the GiB of RAM that contains it; the tree is reported as taken.
    unsafe { device_tree::read(tree)? };
    Ok(BootInfo {
        command_line: device_tree::command_line(),
        ram: device_tree::ram()?,
        taken: device_tree::taken()?,
        tables: tree,
    })
}

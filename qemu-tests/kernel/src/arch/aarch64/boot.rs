//! The entry, and what the machine handed over there: a device tree.

use crate::arch::BootInfo;
use crate::arch::virt::device_tree;

core::arch::global_asm!(include_str!("boot.s"), stack = const super::stack::SIZE);

/// Reads the device tree.
///
/// # Safety
/// Once, on the boot CPU, with what boot.s has passed on, and nothing has been written to RAM outside of the kernel since.
pub(crate) unsafe fn read(tree: u64, _: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: the boot tables show the GiB of RAM that it lies in; it says that it is taken.
    unsafe { device_tree::read(tree)? };
    Ok(BootInfo {
        command_line: device_tree::command_line(),
        ram: device_tree::ram()?,
        taken: device_tree::taken()?,
        tables: tree,
    })
}

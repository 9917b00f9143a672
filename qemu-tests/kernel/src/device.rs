//! What the drivers of devices need of this kernel.

use core::ptr::NonNull;

use dump_drivers::Mmio;
use dump_drivers::bus::pci::Function;
use dumpcore::DumpDevice;

use crate::arch::paging::{self, Access};

/// A disk, opened by its driver in the arena, and which PCI function it is, if it is one.
pub(crate) type Opened = (Option<Function>, &'static mut dyn DumpDevice);

/// Makes device registers visible.
pub(crate) fn map_device(physical: u64, length: usize) -> Option<Mmio> {
    // SAFETY: a driver asks for its device's registers, while the kernel boots.
    let start = unsafe { paging::map_physical(physical, length as u64, Access::Device) }.ok()?;
    // SAFETY: mapped just now, uncached, for ever.
    Some(unsafe { Mmio::new(NonNull::new(start)?, length) })
}

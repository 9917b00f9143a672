//! Services for device drivers.

use core::ptr::NonNull;

use dump_drivers::Mmio;
use dump_drivers::bus::pci::Function;
use dumpcore::DumpDevice;

use crate::arch::paging::{self, Access};

/// A disk, opened by its driver in the arena, with its PCI function, if it has one.
pub(crate) type Opened = (Option<Function>, &'static mut dyn DumpDevice);

/// Maps device registers.
pub(crate) fn map_device(physical: u64, length: usize) -> Option<Mmio> {
    // SAFETY: a driver requests its device's registers, while the kernel boots.
    let start = unsafe { paging::map_physical(physical, length as u64, Access::Device) }.ok()?;
    // SAFETY: just mapped, uncached, for good.
    Some(unsafe { Mmio::new(NonNull::new(start)?, length) })
}

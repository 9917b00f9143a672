//! The disks that can receive a dump, and their drivers.

use core::ptr::NonNull;

use dump_drivers::bus::pci::Function;
use dump_drivers::virtio::{blk, scsi};
use dump_drivers::{Mmio, VirtioBlk, VirtioBlkMmio, VirtioScsi, VirtioScsiMmio};
use dumpcore::device::DeviceError;
use dumpcore::{Arena, DumpDevice};

use crate::arch::paging::{self, Access};
use crate::arch::{pci, virtio_mmio};

/// A disk, opened by its driver in the arena, and which PCI function it is, if it is one.
pub(crate) type Opened = (Option<Function>, &'static mut dyn DumpDevice);

/// Opens the disk with this number among those that the driver finds.
type Open = fn(usize, u64, &mut Arena<'static>) -> Result<Opened, DeviceError>;

/// A driver.
pub(crate) struct Driver {
    /// Its name on the command line (`disk.on=`).
    pub(crate) name: &'static str,
    open: Open,
}

/// All drivers; the first is the one that is used if nothing is said.
pub(crate) static DRIVERS: [Driver; 4] = [
    Driver { name: "virtio-blk", open: virtio_blk },
    Driver { name: "virtio-blk-mmio", open: virtio_blk_mmio },
    Driver { name: "virtio-scsi", open: virtio_scsi },
    Driver { name: "virtio-scsi-mmio", open: virtio_scsi_mmio },
];

impl Driver {
    /// Opens the disk with this number, counted from 0 in the order of the bus among the disks that the driver finds.
    /// Reads only: another driver may be using it. `timeout` is for one request, in nanoseconds.
    pub(crate) fn open(
        &self,
        number: usize,
        timeout: u64,
        arena: &mut Arena<'static>,
    ) -> Result<Opened, DeviceError> {
        (self.open)(number, timeout, arena)
    }
}

/// Makes device registers visible.
pub(crate) fn map_device(physical: u64, length: usize) -> Option<Mmio> {
    // SAFETY: a driver asks for its device's registers, while the kernel boots.
    let start = unsafe { paging::map_physical(physical, length as u64, Access::Device) }.ok()?;
    // SAFETY: mapped just now, uncached, for ever.
    Some(unsafe { Mmio::new(NonNull::new(start)?, length) })
}

/// The error of a driver that does not find so many disks.
fn none(what: &'static str) -> DeviceError {
    DeviceError::Unsupported { what, value: 0 }
}

fn virtio_blk(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = blk::find(&pci::config(), number).ok_or(none("a virtio disk"))?;
    let disk = VirtioBlk::open(pci::config(), function, map_device, arena, timeout)?;
    Ok((Some(function), arena.place(disk)?))
}

fn virtio_blk_mmio(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let slot = blk::find_mmio(windows(), map_device, number).ok_or(none("a virtio disk"))?;
    let disk = VirtioBlkMmio::open_mmio(slot, arena, timeout)?;
    Ok((None, arena.place(disk)?))
}

fn virtio_scsi(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = scsi::find(&pci::config(), number).ok_or(none("a virtio SCSI host"))?;
    let disk = VirtioScsi::open(pci::config(), function, None, map_device, arena, timeout)?;
    Ok((Some(function), arena.place(disk)?))
}

fn virtio_scsi_mmio(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let slot = scsi::find_mmio(windows(), map_device, number).ok_or(none("a virtio SCSI host"))?;
    let disk = VirtioScsiMmio::open_mmio(slot, None, arena, timeout)?;
    Ok((None, arena.place(disk)?))
}

/// Where the machine has virtio registers that are on no bus.
fn windows() -> impl Iterator<Item = u64> {
    virtio_mmio().iter().map(|window| window.address)
}

//! The disks that can receive a dump, and their drivers.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dump_drivers::ahci::{self, hba::Hba};
use dump_drivers::bus::pci::{Address, Function};
use dump_drivers::virtio::{blk, scsi};
use dump_drivers::{
    Access, AhciDisk, Mmio, NvmeDisk, VirtioBlk, VirtioBlkMmio, VirtioScsi, VirtioScsiMmio, nvme,
};
#[cfg(target_arch = "x86_64")]
use dump_drivers::{AtaDisk, PortWindow, Ram, ata};
use dumpcore::device::DeviceError;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::locate::{self, By, Polled};
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{Arena, DumpDevice};

use crate::arch::{pci, virtio_mmio};
use crate::device::{Opened, map_device};
use crate::dump;
#[cfg(target_arch = "x86_64")]
use crate::memory;
use crate::scenario::live;

/// Opens the driver's disk with this number.
type Open = fn(usize, u64, &mut Arena<'static>) -> Result<Opened, DeviceError>;

/// A driver.
pub(crate) struct Driver {
    /// Its name on the command line (`disk.on=`).
    pub(crate) name: &'static str,
    /// The PCI function of the disk with this number, for a driver with PCI disks.
    function: Option<fn(usize) -> Option<Function>>,
    open: Open,
}

/// All drivers; the first one is the default.
pub(crate) static DRIVERS: &[Driver] = &[
    Driver::on_pci("virtio-blk", |number| blk::find(&pci::config(), number), virtio_blk),
    Driver::on_no_bus("virtio-blk-mmio", virtio_blk_mmio),
    Driver::on_pci("virtio-scsi", |number| scsi::find(&pci::config(), number), virtio_scsi),
    Driver::on_no_bus("virtio-scsi-mmio", virtio_scsi_mmio),
    Driver::on_pci("ahci", |number| ahci_place(number).map(|(function, _)| function), ahci_disk),
    Driver::on_pci("nvme", |number| nvme::disk::find(&pci::config(), number), nvme_disk),
    #[cfg(target_arch = "x86_64")]
    Driver::on_pci("ata", |number| ata::disk::find(&pci::config(), number / IDE_DISKS), ata_disk),
    // The driver that keeps its own code through a dump.
    Driver::on_pci("nvme-2004", live::nvme::find, live::nvme::open),
];

impl Driver {
    const fn on_pci(name: &'static str, function: fn(usize) -> Option<Function>, open: Open) -> Driver {
        Driver { name, function: Some(function), open }
    }

    const fn on_no_bus(name: &'static str, open: Open) -> Driver {
        Driver { name, function: None, open }
    }

    /// The number of the disk at this place on the bus.
    pub(crate) fn number_at(&self, address: Address) -> Option<usize> {
        let function = self.function?;
        (0..).map_while(function).position(|function| function.address == address)
    }

    /// Opens the disk with this number, counted from 0 in bus order among the driver's disks. Only reads:
    /// another driver may be using it. `timeout` is for one request, in nanoseconds.
    pub(crate) fn open(
        &self,
        number: usize,
        timeout: u64,
        arena: &mut Arena<'static>,
    ) -> Result<Opened, DeviceError> {
        (self.open)(number, timeout, arena)
    }
}

/// Maps a device's registers.
type Map = fn(u64, usize) -> Option<Mmio>;

/// Access to a PCI device.
fn access(timeout: u64) -> Access<pci::Config, Map> {
    Access { config: pci::config(), map: map_device, timeout }
}

/// The error for a disk number that does not exist.
fn none(what: &'static str) -> DeviceError {
    DeviceError::Unsupported { what, value: 0 }
}

/// Finds the dump partition on an unused disk with the dump's own driver, and shuts the disk down afterwards.
/// Returns its first block and its number of blocks.
pub(crate) fn locate(
    device: &mut dyn DumpDevice,
    by: &By<'_>,
    arena: &mut Arena<'static>,
) -> Result<(u64, u64), String> {
    let wait = Wait::new(dump::platform(), None, u64::MAX);
    let buffer = arena.dma(BLOCK_SIZE, BLOCK_SIZE).map_err(|_| "the arena is too small".to_owned())?;
    device.quiesce(&wait).map_err(|error| error.to_string())?;
    let mut scratch = Box::new([0; BLOCK_SIZE]);
    let found = locate::find(&mut Polled::new(device, &wait, buffer), by, &mut scratch);
    device.shutdown(&wait).map_err(|error| error.to_string())?;
    found.map(|found| (found.first_block, found.blocks)).map_err(|error| error.to_string())
}

fn virtio_blk(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = blk::find(&pci::config(), number).ok_or(none("a virtio disk"))?;
    let disk = VirtioBlk::open(access(timeout), function, arena)?;
    Ok((Some(function), arena.place(disk)?))
}

fn virtio_blk_mmio(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let slot = blk::find_mmio(windows(), map_device, number).ok_or(none("a virtio disk"))?;
    let disk = VirtioBlkMmio::open_mmio(slot, arena, timeout)?;
    Ok((None, arena.place(disk)?))
}

fn virtio_scsi(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = scsi::find(&pci::config(), number).ok_or(none("a virtio SCSI host"))?;
    let disk = VirtioScsi::open(access(timeout), function, None, arena)?;
    Ok((Some(function), arena.place(disk)?))
}

fn virtio_scsi_mmio(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let slot = scsi::find_mmio(windows(), map_device, number).ok_or(none("a virtio SCSI host"))?;
    let disk = VirtioScsiMmio::open_mmio(slot, None, arena, timeout)?;
    Ok((None, arena.place(disk)?))
}

/// The addresses of virtio register windows that are not on a bus.
fn windows() -> impl Iterator<Item = u64> {
    virtio_mmio().iter().copied()
}

/// The first namespace of a controller.
fn nvme_disk(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = nvme::disk::find(&pci::config(), number).ok_or(none("an NVMe controller"))?;
    let disk = NvmeDisk::open(access(timeout), function, None, arena)?;
    Ok((Some(function), arena.place(disk)?))
}

/// Maximum number of disks on an IDE controller.
#[cfg(target_arch = "x86_64")]
const IDE_DISKS: usize = 4;

/// The disks of the first IDE controller have the numbers 0 to 3, whether they exist or not.
#[cfg(target_arch = "x86_64")]
fn ata_disk(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let function = ata::disk::find(&pci::config(), number / IDE_DISKS).ok_or(none("an IDE controller"))?;
    // SAFETY: the kernel runs in ring 0, and only this driver uses these ports: they belong to its device.
    let ports = |first, length| Some(unsafe { PortWindow::new(first, length) });
    let access = Access { config: pci::config(), map: ports, timeout };
    let low = memory::ram().iter().all(|range| range.end <= 1 << 32);
    let ram = if low { Ram::Low } else { Ram::Anywhere };
    let place = Some((number % IDE_DISKS) as u8);
    let disk = AtaDisk::open(access, function, place, ram, arena)?;
    Ok((Some(function), arena.place(disk)?))
}

/// The HBA and the port of the AHCI disk with this number.
fn ahci_place(number: usize) -> Option<(Function, u8)> {
    let functions = (0..).map_while(|index| ahci::find(&pci::config(), index));
    // An HBA that cannot be opened, for example because it is not in AHCI mode, has no usable disks.
    let hbas = functions.filter_map(|function| Some((function, Hba::open(access(SECOND), function).ok()?)));
    hbas.flat_map(|(function, hba)| hba.disks().map(move |port| (function, port)).collect::<Vec<_>>())
        .nth(number)
}

fn ahci_disk(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let (function, port) = ahci_place(number).ok_or(none("a disk on an AHCI port"))?;
    let disk = AhciDisk::open(access(timeout), function, Some(port), arena)?;
    Ok((Some(function), arena.place(disk)?))
}

//! Opens our own polled driver for a block device that the kernel uses.

use dump_drivers::bus::pci::{Address, ConfigSpace, Function, PortIo};
use dump_drivers::virtio::scsi::Lun;
use dump_drivers::{Access, AhciDisk, Mmio, NvmeDisk, VirtioBlk, VirtioScsi};
use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::{Arena, DumpDevice, crashdump_mode};

use core::ptr::NonNull;

use crate::kernel::{self, RawTarget};

/// Drivers, by C's numbers (`enum dd_driver`).
mod driver {
    pub(super) const VIRTIO_BLK: u32 = 1;
    pub(super) const VIRTIO_SCSI: u32 = 2;
    pub(super) const AHCI: u32 = 3;
    pub(super) const NVME: u32 = 4;
}

/// The name of a driver.
pub(crate) fn name(number: u32) -> &'static str {
    match number {
        driver::VIRTIO_BLK => "virtio-blk",
        driver::VIRTIO_SCSI => "virtio-scsi",
        driver::AHCI => "ahci",
        driver::NVME => "nvme",
        _ => "unknown",
    }
}

/// Maximum number of register mappings: each driver maps a few windows.
const MAPPINGS: usize = 32;

/// The register mappings of the armed disks.
pub(crate) struct Mappings([Option<NonNull<u8>>; MAPPINGS]);

// SAFETY: addresses, used under the lock that covers all arming.
unsafe impl Send for Mappings {}

impl Mappings {
    /// No mappings.
    pub(crate) const fn new() -> Mappings {
        Mappings([None; MAPPINGS])
    }

    fn map(&mut self, physical: u64, length: usize) -> Option<Mmio> {
        let slot = self.0.iter_mut().find(|slot| slot.is_none())?;
        let start = kernel::map_registers(physical, length)?;
        *slot = Some(start);
        // SAFETY: just mapped, uncached, on every CPU, until nothing is armed any more.
        Some(unsafe { Mmio::new(start, length) })
    }

    /// Unmaps all of them.
    ///
    /// # Safety
    /// Nothing is armed.
    pub(crate) unsafe fn give_back(&mut self) {
        for slot in &mut self.0 {
            if let Some(start) = slot.take() {
                // SAFETY: from map(), and nothing uses it when nothing is armed.
                unsafe { kernel::unmap_registers(start) }
            }
        }
    }
}

/// Configuration space: through the kernel while it is healthy; through the two ports after the crash,
/// because the kernel's access takes a lock that a stopped CPU may hold.
struct Space(PortIo);

impl Space {
    fn new() -> Space {
        // SAFETY: ring 0 of a PC; only used when all other CPUs are stopped.
        Space(unsafe { PortIo::new() })
    }
}

impl ConfigSpace for Space {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        if crashdump_mode() {
            self.0.read32(address, offset)
        } else {
            kernel::pci_read(address.bits().into(), offset.into())
        }
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        // Never write to a device that the kernel uses.
        if crashdump_mode() {
            self.0.write16(address, offset, value);
        }
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if crashdump_mode() {
            self.0.write32(address, offset, value);
        }
    }

    fn integrity(&self, digest: &mut Digest) {
        self.0.integrity(digest);
    }
}

/// Opens the polled driver of a target. Only reads from the device.
pub(crate) fn open(
    target: &RawTarget,
    timeout: u64,
    mappings: &mut Mappings,
    arena: &mut Arena<'static>,
) -> Result<&'static mut dyn DumpDevice, DeviceError> {
    if target.address >> 16 != 0 {
        let value = u64::from(target.address >> 16);
        return Err(DeviceError::Unsupported { what: "a device in PCI segment 0", value });
    }
    let [_, _, bus, rest] = target.address.to_be_bytes();
    let address = Address::new(bus, rest >> 3, rest & 7).ok_or(DeviceError::Gone)?;
    let function = Function::at(&Space::new(), address).ok_or(DeviceError::Gone)?;
    let map = |physical, length| mappings.map(physical, length);
    let access = Access { config: Space::new(), map, timeout };
    Ok(match target.driver {
        driver::VIRTIO_BLK => {
            let disk = VirtioBlk::open(access, function, arena)?;
            arena.place(disk)?
        }
        driver::VIRTIO_SCSI => {
            let lun = u8::try_from(target.unit).ok().zip(u16::try_from(target.lun).ok());
            let lun = lun.and_then(|(target, lun)| Lun::new(target, lun));
            let lun =
                lun.ok_or(DeviceError::Unsupported { what: "a SCSI unit", value: target.lun.into() })?;
            let disk = VirtioScsi::open(access, function, Some(lun), arena)?;
            arena.place(disk)?
        }
        driver::AHCI => {
            let port = u8::try_from(target.unit).ok();
            let disk = AhciDisk::open(access, function, port, arena)?;
            arena.place(disk)?
        }
        driver::NVME => {
            let disk = NvmeDisk::open(access, function, Some(target.unit), arena)?;
            arena.place(disk)?
        }
        value => {
            return Err(DeviceError::Unsupported {
                what: "a disk with a polled driver",
                value: value.into(),
            });
        }
    })
}

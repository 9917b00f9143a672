//! Opens our own polled driver for a block device that the kernel uses.

use dump_drivers::bus::pci::{Address, ConfigSpace, Function, PortIo};
use dump_drivers::disk::{Place, Site, Unit};
use dump_drivers::{Machine, Mmio, PortWindow, table};
use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::{Arena, DumpDevice, crashdump_mode};

use core::ptr::NonNull;

use crate::kernel::{self, Target};

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

/// What drivers reach their devices by.
struct Linux<'a> {
    mappings: &'a mut Mappings,
    timeout: Nanoseconds,
}

impl Machine for Linux<'_> {
    type Config = Space;
    type Registers = Mmio;
    /// None are lent: on Linux, IDE disks are not taken over.
    type Ports = PortWindow;

    fn config(&self) -> Space {
        Space::new()
    }

    fn map(&mut self, physical: u64, length: usize) -> Option<Mmio> {
        self.mappings.map(physical, length)
    }

    fn timeout(&self) -> Nanoseconds {
        self.timeout
    }
}

/// Opens the polled driver of a target. Only reads from the device.
pub(crate) fn open(
    target: &Target,
    timeout: Nanoseconds,
    mappings: &mut Mappings,
    arena: &mut Arena<'static>,
) -> Result<&'static mut dyn DumpDevice, DeviceError> {
    let place = target.place();
    if place.address >> 16 != 0 {
        let value = u64::from(place.address >> 16);
        return Err(DeviceError::Unsupported { what: "a device in PCI segment 0", value });
    }
    let [_, _, bus, rest] = place.address.to_be_bytes();
    let address = Address::new(bus, rest >> 3, rest & 7).ok_or(DeviceError::Gone)?;
    let function = Function::at(&Space::new(), address).ok_or(DeviceError::Gone)?;
    let unit = Some(Unit { number: place.unit, lun: place.lun });
    let site = Site { place: Place::Pci(function), unit };
    table::open(target.driver(), &mut Linux { mappings, timeout }, &site, arena)
}

//! A block device that the kernel uses becomes one that a dump takes over.

use dump_drivers::bus::pci::{Address, ConfigSpace, Function, PortIo};
use dump_drivers::disk::{Place, Site, Unit};
use dump_drivers::{Machine, Mmio, PortWindow, table};
use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::{Arena, DumpDevice, crashdump_mode};

use core::ptr::NonNull;

use crate::kernel::{self, Target};

/// Registers that are mapped at once, at most: each driver maps a few windows.
const MAPPINGS: usize = 32;

/// What is mapped for the armed disks.
pub(crate) struct Mappings([Option<NonNull<u8>>; MAPPINGS]);

// SAFETY: addresses, used under the lock that all arming is under.
unsafe impl Send for Mappings {}

impl Mappings {
    /// None.
    pub(crate) const fn new() -> Mappings {
        Mappings([None; MAPPINGS])
    }

    fn map(&mut self, physical: u64, length: usize) -> Option<Mmio> {
        let slot = self.0.iter_mut().find(|slot| slot.is_none())?;
        let start = kernel::map_registers(physical, length)?;
        *slot = Some(start);
        // SAFETY: mapped just now, uncached, on every CPU, until nothing is armed any more.
        Some(unsafe { Mmio::new(start, length) })
    }

    /// Gives all of them back.
    ///
    /// # Safety
    /// Nothing is armed.
    pub(crate) unsafe fn give_back(&mut self) {
        for slot in &mut self.0 {
            if let Some(start) = slot.take() {
                // SAFETY: of map(), and with nothing armed nobody uses it.
                unsafe { kernel::unmap_registers(start) }
            }
        }
    }
}

/// Configuration space: the kernel's way while it is healthy, the two ports when it has crashed, since its way takes a lock
/// that a stopped CPU may have.
struct Space(PortIo);

impl Space {
    fn new() -> Space {
        // SAFETY: ring 0 of a PC; used only when all other CPUs have stopped.
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
        // Nothing is written to a device that the kernel uses.
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

/// Opens the polled driver of a target. Reads only.
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

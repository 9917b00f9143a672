//! The disks that can receive a dump, and their drivers.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};

#[cfg(target_arch = "x86_64")]
use dump_drivers::PortWindow;
use dump_drivers::bus::pci::Address;
use dump_drivers::disk::{Place, Site};
use dump_drivers::{DRIVERS, Machine, Mmio, Ram, table};
use dumpcore::device::DeviceError;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::locate::{self, By, Polled};
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{Arena, DumpDevice};

use crate::arch::{pci, virtio_mmio};
use crate::device::{Opened, map_device};
use crate::dump;
use crate::memory;
use crate::scenario::live;

/// A driver: one of [`dump_drivers::DRIVERS`], or [`KEPT`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    /// Its name on the command line (`disk.on=`).
    pub(crate) name: &'static str,
}

/// The one that keeps its own code through a dump.
const KEPT: &str = "nvme-2004";

impl Driver {
    /// The one that is used if nothing is said.
    pub(crate) const USUAL: Driver = Driver { name: DRIVERS[0].name };

    /// The driver of this name.
    pub(crate) fn named(name: &str) -> Option<Driver> {
        let names = DRIVERS.iter().map(|driver| driver.name).chain([KEPT]);
        names.into_iter().find(|known| *known == name).map(|name| Driver { name })
    }

    /// Where the disk with this number is, counted from 0 in the order of the bus among those that the driver finds.
    fn find(self, number: usize, timeout: u64) -> Option<Site> {
        if self.name == KEPT {
            let function = live::nvme::find(number)?;
            return Some(Site { place: Place::Pci(function), unit: None });
        }
        table::find(self.name, &mut Kernel { timeout }, number)
    }

    /// The number of the disk at this place on the bus.
    pub(crate) fn number_at(self, address: Address) -> Option<usize> {
        let functions = (0..).map_while(|number| self.find(number, SECOND)?.function());
        functions.into_iter().position(|function| function.address == address)
    }

    /// Opens the disk with this number. Reads only: another driver may be using it. `timeout` is for one request, in
    /// nanoseconds.
    pub(crate) fn open(
        self,
        number: usize,
        timeout: u64,
        arena: &mut Arena<'static>,
    ) -> Result<Opened, DeviceError> {
        if self.name == KEPT {
            return live::nvme::open(number, timeout, arena);
        }
        let none = DeviceError::Unsupported { what: "a disk with this number", value: number as u64 };
        let site = self.find(number, timeout).ok_or(none)?;
        let device = table::open(self.name, &mut Kernel { timeout }, &site, arena)?;
        Ok((site.function(), device))
    }
}

/// What this kernel lends drivers.
struct Kernel {
    timeout: u64,
}

impl Machine for Kernel {
    type Config = pci::Config;
    type Registers = Mmio;
    #[cfg(target_arch = "x86_64")]
    type Ports = PortWindow;
    /// There are none.
    #[cfg(not(target_arch = "x86_64"))]
    type Ports = Mmio;

    fn config(&self) -> pci::Config {
        pci::config()
    }

    fn map(&mut self, physical: u64, length: usize) -> Option<Mmio> {
        map_device(physical, length)
    }

    #[cfg(target_arch = "x86_64")]
    fn ports(&mut self, first: u16, count: u16) -> Option<PortWindow> {
        // SAFETY: the kernel runs in ring 0, and nobody else uses these ports: a driver asks for its device's.
        Some(unsafe { PortWindow::new(first, count) })
    }

    fn windows(&self) -> &'static [u64] {
        virtio_mmio()
    }

    fn ram(&self) -> Ram {
        let is_low = memory::ram().iter().all(|range| range.end <= 1 << 32);
        if is_low { Ram::Low } else { Ram::Anywhere }
    }

    fn timeout(&self) -> u64 {
        self.timeout
    }
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

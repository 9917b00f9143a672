//! What all drivers look like from outside: how a disk is found and opened, on any machine.

use dumpcore::Arena;
use dumpcore::device::{DeviceError, DumpDevice};
use dumpcore::platform::Nanoseconds;

use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;

/// Where the RAM is that extents name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ram {
    /// All of it below 4 GiB, and devices see it at its physical addresses: it is written from where it is.
    Low,
    /// Anywhere: where the CPU moves the data, it is copied into buffers of the arena first.
    Anywhere,
}

/// What a kernel lends drivers so that they reach their devices.
pub trait Machine {
    /// A way to configuration space.
    type Config: ConfigSpace + 'static;
    /// Registers in memory.
    type Registers: Registers + 'static;
    /// Registers behind ports.
    type Ports: Registers + 'static;

    /// A way to configuration space.
    fn config(&self) -> Self::Config;

    /// Maps registers, as [`Access::map`] has to.
    fn map(&mut self, physical: u64, length: usize) -> Option<Self::Registers>;

    /// Gives access to `count` ports, starting with `first`; `None` if the machine has no ports.
    fn ports(&mut self, first: u16, count: u16) -> Option<Self::Ports> {
        let _ = (first, count);
        None
    }

    /// Where device registers may be that are on no bus, physical addresses.
    fn windows(&self) -> &'static [u64] {
        &[]
    }

    /// Where the RAM is that is to be dumped.
    fn ram(&self) -> Ram {
        Ram::Anywhere
    }

    /// How many nanoseconds a request may take: see [`Access::timeout`].
    fn timeout(&self) -> Nanoseconds;
}

/// How a driver whose registers are in memory is given its device.
pub fn access<M: Machine>(
    machine: &mut M,
) -> Access<M::Config, impl FnMut(u64, usize) -> Option<M::Registers> + '_> {
    let (config, timeout) = (machine.config(), machine.timeout());
    Access { config, map: |physical, length| machine.map(physical, length), timeout }
}

/// Where a controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A function on PCI.
    Pci(Function),
    /// A window of registers that is on no bus, a physical address.
    Window(u64),
}

/// Which disk of a controller, as the driver counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// A namespace, a port, a target.
    pub number: u32,
    /// Which logical unit of a target.
    pub lun: u32,
}

/// Where a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its controller.
    pub place: Place,
    /// `None`: the first that the controller has when it is taken over.
    pub unit: Option<Unit>,
}

impl Site {
    /// The first disk of the `index`th of the functions on PCI that a driver is for, counted from 0 in the order of the bus.
    pub fn on_pci<C: ConfigSpace>(
        config: &C,
        index: usize,
        is_mine: impl Fn(&Function) -> bool,
    ) -> Option<Site> {
        let function = functions(config).filter(|function| is_mine(function)).nth(index)?;
        Some(Site { place: Place::Pci(function), unit: None })
    }

    /// The function on PCI, if it is one.
    pub fn function(&self) -> Option<Function> {
        match self.place {
            Place::Pci(function) => Some(function),
            Place::Window(_) => None,
        }
    }

    /// The function on PCI.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is none.
    pub fn need_function(&self) -> Result<Function, DeviceError> {
        match self.place {
            Place::Pci(function) => Ok(function),
            Place::Window(value) => {
                Err(DeviceError::Unsupported { what: "a controller that is on PCI", value })
            }
        }
    }

    /// The number of the disk, of a controller that counts its disks by a byte.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is larger.
    pub fn small_number(&self, what: &'static str) -> Result<Option<u8>, DeviceError> {
        let Some(Unit { number, .. }) = self.unit else { return Ok(None) };
        let wrong = DeviceError::Unsupported { what, value: number.into() };
        u8::try_from(number).map(Some).map_err(|_| wrong)
    }
}

/// A driver for the disks of one kind of controller, as the [table](crate::table) names it.
pub trait Driver<M: Machine> {
    /// A disk, open.
    type Disk: DumpDevice + 'static;

    /// Where the disk with this number is, counted from 0 in the order of the bus among those that the driver finds. Reads
    /// only: another driver may be using it.
    fn find(machine: &mut M, number: usize) -> Option<Site>;

    /// Looks at a disk and carves what it needs from the arena. Does not write to the device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not a disk that the driver knows, or cannot be reached;
    /// [`DeviceError::Gone`]; [`DeviceError::Protocol`] if what it says makes no sense; [`DeviceError::OutOfArena`].
    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError>;
}

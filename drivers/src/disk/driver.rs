//! The interface of all drivers: how to find and open a disk, on any machine.

use dumpcore::Arena;
use dumpcore::device::{DeviceError, DumpDevice};
use dumpcore::platform::Nanoseconds;

use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;

/// Where in physical memory the data of a write may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ram {
    /// Below 4 GiB, and devices see it at its physical address: data is written from where it is.
    Low,
    /// Anywhere: a driver whose device reaches less copies the data into buffers in the arena first.
    Anywhere,
}

/// A kernel's services for drivers that open their devices.
pub trait Machine {
    /// Access to PCI configuration space.
    type Config: ConfigSpace + 'static;
    /// Memory-mapped registers.
    type Registers: Registers + 'static;
    /// I/O ports.
    type Ports: Registers + 'static;

    /// Access to PCI configuration space.
    fn config(&self) -> Self::Config;

    /// Maps registers. The contract is that of [`Access::map`].
    fn map(&mut self, physical: u64, length: usize) -> Option<Self::Registers>;

    /// Gives access to `count` ports, starting with `first`; `None` if the machine has no ports.
    fn ports(&mut self, first: u16, count: u16) -> Option<Self::Ports> {
        let _ = (first, count);
        None
    }

    /// Physical addresses at which there may be registers of devices that are on no bus.
    fn windows(&self) -> &'static [u64] {
        &[]
    }

    /// Where the memory to dump is.
    fn ram(&self) -> Ram {
        Ram::Anywhere
    }

    /// Nanoseconds that a request may take: see [`Access::timeout`].
    fn timeout(&self) -> Nanoseconds;
}

/// A machine's services in the form that drivers with memory-mapped registers take.
pub fn access<M: Machine>(
    machine: &mut M,
) -> Access<M::Config, impl FnMut(u64, usize) -> Option<M::Registers> + '_> {
    let (config, timeout) = (machine.config(), machine.timeout());
    Access { config, map: |physical, length| machine.map(physical, length), timeout }
}

/// Where a controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A PCI function.
    Pci(Function),
    /// The physical address of registers that are on no bus.
    Window(u64),
}

/// One of a controller's disks, by the driver's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// A namespace, a port, a target.
    pub number: u32,
    /// The logical unit of a target.
    pub lun: u32,
}

/// Where a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its controller.
    pub place: Place,
    /// `None`: the first disk that the controller has when the driver takes it over.
    pub unit: Option<Unit>,
}

impl Site {
    /// The first disk of a PCI function: the `index`th that `is_mine` accepts, counted from 0 in bus order.
    pub fn on_pci<C: ConfigSpace>(
        config: &C,
        index: usize,
        is_mine: impl Fn(&Function) -> bool,
    ) -> Option<Site> {
        let function = functions(config).filter(|function| is_mine(function)).nth(index)?;
        Some(Site { place: Place::Pci(function), unit: None })
    }

    /// The PCI function, if the controller is on PCI.
    pub fn function(&self) -> Option<Function> {
        match self.place {
            Place::Pci(function) => Some(function),
            Place::Window(_) => None,
        }
    }

    /// The PCI function.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the controller is not on PCI.
    pub fn need_function(&self) -> Result<Function, DeviceError> {
        match self.place {
            Place::Pci(function) => Ok(function),
            Place::Window(value) => {
                Err(DeviceError::Unsupported { what: "a controller that is on PCI", value })
            }
        }
    }

    /// The disk's number, for a controller that numbers its disks with a byte.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the number does not fit.
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

    /// Where the disk with this number is. The driver's disks are counted from 0, in bus order. Only reads,
    /// as another driver may be using the disk.
    fn find(machine: &mut M, number: usize) -> Option<Site>;

    /// Examines a disk and takes the memory that it needs from the arena. Does not write to the device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the driver does not know this kind of disk or cannot reach it;
    /// [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its answers make no sense;
    /// [`DeviceError::OutOfArena`].
    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError>;
}

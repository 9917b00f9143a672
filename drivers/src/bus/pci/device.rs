//! A PCI function held by a driver: its place when armed, its isolation, and its bus mastering.

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, Wait};

use super::{
    Address, Assigned, BARS, Bar, CAPABILITY_EXPRESS, CAPABILITY_MSI, CAPABILITY_MSI_X, CAPABILITY_POWER,
    Command, ConfigSpace, Function,
};

/// Recovery time after waking a function (PCI Power Management 1.2, 5.6.1).
const WAKE: Nanoseconds = 10 * MILLISECOND;

/// PCI Express device control: its value and location.
#[derive(Clone, Copy)]
struct DeviceControl {
    /// Offset of the capability.
    at: u8,
    /// Packet sizes and other settings that must match the bridges above.
    value: u16,
}

/// The driver's record of its function before the crash, and the operations on it afterwards.
pub struct PciDevice<C> {
    config: C,
    function: Function,
    /// The accesses that its registers decode: [`Command::MEMORY`] or [`Command::IO`].
    decodes: Command,
    /// Its base address registers at open.
    bars: [Option<Bar>; BARS as usize],
    power: Option<u8>,
    express: Option<DeviceControl>,
    msi: Option<u8>,
    msi_x: Option<u8>,
}

impl<C: ConfigSpace> PciDevice<C> {
    /// Reads configuration space only, and writes nothing: another driver may be using the device. `decodes`
    /// is the kind of its registers: [`Command::MEMORY`], or [`Command::IO`] for ports, or both.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::Unsupported`] if its registers are not decoded,
    /// [`DeviceError::Protocol`] if its capability list is corrupt.
    pub fn open(config: C, function: Function, decodes: Command) -> Result<PciDevice<C>, DeviceError> {
        function.check_present(&config)?;
        let command = function.command(&config);
        if !command.contains(decodes) {
            let memory = "memory decoding on in its PCI command";
            let ports = "port decoding on in its PCI command";
            let what = if decodes.contains(Command::IO) { ports } else { memory };
            return Err(DeviceError::Unsupported { what, value: command.bits().into() });
        }
        let mut bars = [None; BARS as usize];
        let mut upper = false;
        for (index, bar) in (0..BARS).zip(&mut bars) {
            // The upper half of a 64-bit BAR is not a register of its own, though it may look like one.
            *bar = if upper { None } else { function.bar(&config, index) };
            upper = matches!(bar, Some(Bar::Memory { wide: true, .. }));
        }
        let (mut power, mut express, mut msi, mut msi_x) = (None, None, None, None);
        for capability in function.capabilities(&config) {
            let capability = capability?;
            let slot = match capability.id {
                CAPABILITY_POWER => &mut power,
                CAPABILITY_EXPRESS => &mut express,
                CAPABILITY_MSI => &mut msi,
                CAPABILITY_MSI_X => &mut msi_x,
                _ => continue,
            };
            // The first of each kind counts.
            *slot = slot.or(Some(capability.at));
        }
        let express = express.map(|at| DeviceControl { at, value: function.device_control(&config, at) });
        Ok(PciDevice { config, function, decodes, bars, power, express, msi, msi_x })
    }

    /// The function.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Its bus address.
    pub fn address(&self) -> Address {
        self.function.address
    }

    /// A number unique to this function, for
    /// [`DumpDevice::controller`](dumpcore::device::DumpDevice::controller).
    pub fn number(&self) -> u64 {
        self.function.address.bits().into()
    }

    /// Configuration space.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// The value of a base address register, 0 to 5, at open.
    pub fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index)).copied().flatten()
    }

    /// Maps `length` bytes of registers at `offset` of a memory BAR. `map` maps a number of bytes at a
    /// physical address, uncached, readable and writable.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the BAR is not a memory BAR, or cannot be mapped.
    pub fn map<R>(
        &self,
        index: u8,
        offset: u64,
        length: usize,
        map: &mut impl FnMut(u64, usize) -> Option<R>,
    ) -> Result<R, DeviceError> {
        let Some(Bar::Memory { address, .. }) = self.bar(index) else {
            return Err(DeviceError::Unsupported { what: "registers in a memory BAR", value: index.into() });
        };
        let place = address.checked_add(offset);
        place
            .and_then(|place| map(place, length))
            .ok_or(DeviceError::Unsupported { what: "a BAR that can be mapped", value: address })
    }

    /// Feeds everything that must not change.
    pub fn integrity(&self, digest: &mut Digest) {
        self.config.integrity(digest);
        self.function.integrity(digest);
        digest.number(self.decodes.bits().into());
        for bar in &self.bars {
            match *bar {
                Some(Bar::Memory { address, wide }) => digest.number(address).number(wide.into()),
                Some(Bar::Io { port }) => digest.number(port.into()).number(2),
                None => digest.number(0).number(3),
            };
        }
        for capability in [self.power, self.msi, self.msi_x] {
            digest.number(capability.unwrap_or(0).into());
        }
        let express = self.express.unwrap_or(DeviceControl { at: 0, value: 0 });
        digest.number(express.at.into()).number(express.value.into());
    }

    /// Checks, without changing anything, that the function and its BARs are where they were. A reset clears
    /// the BARs.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if a BAR moved.
    pub fn check_place(&self) -> Result<Assigned, DeviceError> {
        self.function.check_present(&self.config)?;
        let mut all = Assigned::AsBefore;
        for (index, was) in self.assigned() {
            if self.function.compare_bar(&self.config, index, was)? == Assigned::Nothing {
                all = Assigned::Nothing;
            }
        }
        Ok(all)
    }

    /// The base address registers that were assigned at open.
    fn assigned(&self) -> impl Iterator<Item = (u8, Bar)> + '_ {
        (0..BARS).zip(&self.bars).filter_map(|(index, bar)| Some((index, (*bar)?)))
    }

    /// The PCI power state; 0 if the function is awake or has no power management.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the capability is not where it was.
    pub fn power_state(&self) -> Result<u8, DeviceError> {
        self.power.map_or(Ok(0), |power| self.function.power_state(&self.config, power))
    }

    /// The PCI command register.
    pub fn command(&self) -> Command {
        self.function.command(&self.config)
    }

    /// The health of the device without reading its registers; these are readable only if this is healthy.
    pub fn health(&self) -> Health {
        let place = match self.check_place() {
            Ok(place) => place,
            Err(error) => return Health::Unusable(self.explain(error)),
        };
        match self.power_state() {
            // Its registers do not answer while it sleeps, but it can be woken.
            Ok(0) => {}
            Ok(state) => {
                return Health::Risky(DeviceError::Protocol { what: "its power state", value: state.into() });
            }
            Err(error) => return Health::Unusable(error),
        }
        if place == Assigned::Nothing {
            // The function was reset. Its BARs can be restored.
            return Health::Risky(DeviceError::Protocol { what: "its base address", value: 0 });
        }
        let command = self.command();
        if !command.contains(self.decodes) {
            return Health::Risky(odd(command));
        }
        Health::Healthy
    }

    /// The health of a device in use by another driver: risky unless it is a bus master.
    pub fn health_in_use(&self) -> Health {
        let command = self.command();
        if command.contains(Command::BUS_MASTER) { Health::Healthy } else { Health::Risky(odd(command)) }
    }

    /// Replaces an error by a better one if the function no longer answers.
    pub fn explain(&self, error: DeviceError) -> DeviceError {
        match self.function.check_present(&self.config) {
            Err(DeviceError::Gone) => DeviceError::Gone,
            _ => error,
        }
    }

    /// Wakes the function, clears Bus Master Enable, and disables its interrupts (INTx, MSI and MSI-X), so
    /// that the old driver's DMA no longer reaches memory. Its registers are decoded afterwards. Next comes
    /// the reset of the controller, then [`enable_bus_master`](PciDevice::enable_bus_master).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::Protocol`] if something has moved or a write has no effect.
    pub fn isolate(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.function.check_present(&self.config)?;
        if let Some(power) = self.power
            && self.function.wake(&self.config, power)?
        {
            wait.pause(WAKE);
            self.function.check_present(&self.config)?;
            match self.function.power_state(&self.config, power)? {
                0 => {}
                state => {
                    return Err(DeviceError::Protocol { what: "its power state", value: state.into() });
                }
            }
        }
        // If no register is at a BAR, only the command register shows a reset.
        if self.check_place()? == Assigned::Nothing || !self.command().contains(self.decodes) {
            self.assign_again()?;
        }
        let quiet = self.decodes | Command::INTERRUPT_DISABLE;
        self.function.change_command(&self.config, quiet, Command::BUS_MASTER)?;
        self.function.mask_interrupts(&self.config, self.msi, self.msi_x)
    }

    /// Restores the configuration of a function that was reset. Most are reset when they wake from D3 (PCI
    /// Power Management 1.2, 5.4), and the old driver may have died during a reset. The caller has checked
    /// that no BAR points elsewhere.
    #[inline(never)]
    fn assign_again(&self) -> Result<(), DeviceError> {
        // A BAR with only half of its address set must not be decoded.
        let decoding = Command::IO | Command::MEMORY;
        self.function.change_command(&self.config, Command::empty(), decoding | Command::BUS_MASTER)?;
        for (index, bar) in self.assigned() {
            self.function.assign_bar(&self.config, index, bar)?;
        }
        // If the function accepted only the smallest packets, larger ones from the bridge above would be
        // errors.
        if let Some(control) = self.express {
            self.function.set_device_control(&self.config, control.at, control.value)?;
        }
        Ok(())
    }

    /// Sets Bus Master Enable: the function may access memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the write has no effect.
    pub fn enable_bus_master(&self) -> Result<(), DeviceError> {
        self.function.change_command(&self.config, Command::BUS_MASTER, Command::empty())
    }

    /// Clears Bus Master Enable: the function cannot access memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the write has no effect.
    pub fn disable_bus_master(&self) -> Result<(), DeviceError> {
        self.function.change_command(&self.config, Command::empty(), Command::BUS_MASTER)
    }
}

fn odd(command: Command) -> DeviceError {
    DeviceError::Protocol { what: "its PCI command", value: command.bits().into() }
}

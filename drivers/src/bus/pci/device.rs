//! A PCI function that a driver holds: where it was when armed, and how it is silenced and let go.

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, Wait};

use super::{
    Address, BARS, Bar, CAPABILITY_MSI, CAPABILITY_MSI_X, CAPABILITY_POWER, Command, ConfigSpace, Function,
};

/// A function that was asleep may be touched after so long (PCI Power Management 1.2, 5.6.1).
const WAKE: Nanoseconds = 10 * MILLISECOND;

/// What a driver needs to know of its function before the crash, and may do to it afterwards.
pub struct PciDevice<C> {
    config: C,
    function: Function,
    /// What its registers take: [`Command::MEMORY`] or [`Command::IO`].
    decodes: Command,
    /// Its base address registers when it was opened.
    bars: [Option<Bar>; BARS as usize],
    power: Option<u8>,
    msi: Option<u8>,
    msi_x: Option<u8>,
}

impl<C: ConfigSpace> PciDevice<C> {
    /// Reads configuration space only, changes nothing: another driver may be using the device. `decodes` is how its
    /// registers are reached: [`Command::MEMORY`], or [`Command::IO`] for ports, or both.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::Unsupported`] if its registers are not decoded, [`DeviceError::Protocol`] if
    /// its capability list makes no sense.
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
        for (index, bar) in (0..BARS).zip(&mut bars) {
            *bar = function.bar(&config, index);
        }
        let (mut power, mut msi, mut msi_x) = (None, None, None);
        for capability in function.capabilities(&config) {
            let capability = capability?;
            let slot = match capability.id {
                CAPABILITY_POWER => &mut power,
                CAPABILITY_MSI => &mut msi,
                CAPABILITY_MSI_X => &mut msi_x,
                _ => continue,
            };
            // The first of each kind counts.
            *slot = slot.or(Some(capability.at));
        }
        Ok(PciDevice { config, function, decodes, bars, power, msi, msi_x })
    }

    /// The function.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Where it is on the bus.
    pub fn address(&self) -> Address {
        self.function.address
    }

    /// A number that no other function has, for [`DumpDevice::controller`](dumpcore::device::DumpDevice::controller).
    pub fn number(&self) -> u64 {
        self.function.address.bits().into()
    }

    /// Configuration space.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Where a base address register, 0 to 5, pointed when the device was opened.
    pub fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index)).copied().flatten()
    }

    /// Maps `length` bytes of registers at `offset` of a memory BAR. `map` maps so many bytes at a physical address,
    /// uncached, for reading and writing.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the register is not one of memory, or it cannot be mapped.
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

    /// Feeds everything that stays.
    pub fn seal(&self, digest: &mut Digest) {
        self.config.seal(digest);
        self.function.seal(digest);
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
    }

    /// Looks, without changing anything, whether function and registers are where they were.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if a BAR moved.
    pub fn check_place(&self) -> Result<(), DeviceError> {
        self.function.check_present(&self.config)?;
        for (index, was) in (0..BARS).zip(&self.bars) {
            let now = self.function.bar(&self.config, index);
            if was.is_some() && now != *was {
                let value = match now {
                    Some(Bar::Memory { address, .. }) => address,
                    Some(Bar::Io { port }) => port.into(),
                    None => 0,
                };
                return Err(DeviceError::Protocol { what: "its base address", value });
            }
        }
        Ok(())
    }

    /// The PCI power state, 0 if it is awake or does not say.
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

    /// What can be said of the device without reading its registers, which can be only if this is healthy.
    pub fn health(&self) -> Health {
        if let Err(error) = self.check_place() {
            return Health::Unusable(self.explain(error));
        }
        match self.power_state() {
            // Its registers do not answer, but it can be woken.
            Ok(0) => {}
            Ok(state) => {
                return Health::Risky(DeviceError::Protocol { what: "its power state", value: state.into() });
            }
            Err(error) => return Health::Unusable(error),
        }
        let command = self.command();
        if !command.contains(self.decodes) {
            return Health::Risky(odd(command));
        }
        Health::Healthy
    }

    /// For a device that is in use by somebody: odd, unless it may access memory.
    pub fn health_in_use(&self) -> Health {
        let command = self.command();
        if command.contains(Command::BUS_MASTER) { Health::Healthy } else { Health::Risky(odd(command)) }
    }

    /// A better reason for an error, if there is one: the function no longer answers.
    pub fn explain(&self, error: DeviceError) -> DeviceError {
        match self.function.check_present(&self.config) {
            Err(DeviceError::Gone) => DeviceError::Gone,
            _ => error,
        }
    }

    /// Wakes and silences the function: it raises no interrupt, and nothing of the old driver's reaches memory any
    /// more. Its registers are decoded. The reset of what is behind it comes next, then
    /// [`let_access_memory`](PciDevice::let_access_memory).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::Protocol`] if something is not where it was or does not take.
    pub fn silence(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.function.check_present(&self.config)?;
        if let Some(power) = self.power
            && self.function.wake(&self.config, power)?
        {
            wait.pause(WAKE);
        }
        self.check_place()?;
        let quiet = self.decodes | Command::INTERRUPT_DISABLE;
        self.function.change_command(&self.config, quiet, Command::BUS_MASTER)?;
        self.function.mask_interrupts(&self.config, self.msi, self.msi_x)
    }

    /// Lets the function access memory of its own accord.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if it does not take.
    pub fn let_access_memory(&self) -> Result<(), DeviceError> {
        self.function.change_command(&self.config, Command::BUS_MASTER, Command::empty())
    }

    /// Keeps the function from memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if it does not take.
    pub fn keep_from_memory(&self) -> Result<(), DeviceError> {
        self.function.change_command(&self.config, Command::empty(), Command::BUS_MASTER)
    }
}

fn odd(command: Command) -> DeviceError {
    DeviceError::Protocol { what: "its PCI command", value: command.bits().into() }
}

//! PCI: configuration space, the functions on the bus, base address registers, capabilities.
//!
//! Offsets and bits are those of the PCI Local Bus Specification 3.0, chapter 6, and PCI Express Base 5.0,
//! chapter 7.
//!
//! One file: the parts are a few lines each, and all of them are views of one function's configuration
//! space.

mod device;
mod ecam;
#[cfg(target_arch = "x86_64")]
mod port_io;

use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;

pub use device::PciDevice;
pub use ecam::Ecam;
#[cfg(target_arch = "x86_64")]
pub use port_io::PortIo;

/// Vendor and device id, 16 bits each.
const ID: u16 = 0x00;
/// Command register, 16 bits.
const COMMAND: u16 = 0x04;
/// Status register, 16 bits.
const STATUS: u16 = 0x06;
/// Status: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Revision and class code.
const CLASS: u16 = 0x08;
/// Header type.
const HEADER_TYPE: u16 = 0x0e;
/// Header type: multi-function device.
const HEADER_MULTI_FUNCTION: u8 = 1 << 7;
/// First base address register.
const BAR: u16 = 0x10;
/// Number of base address registers of an ordinary function.
const BARS: u8 = 6;
/// Offset of the first capability.
const CAPABILITIES: u16 = 0x34;
/// Lowest offset of a capability.
const FIRST_CAPABILITY: u8 = 0x40;

/// In the power management capability: control and status, 16 bits, the state in the lowest two.
const POWER_CONTROL: u16 = 4;

/// In the PCI Express capability: device control, 16 bits.
const EXPRESS_CONTROL: u16 = 8;
/// Device control: writing 1 resets the function. Reads as 0.
const EXPRESS_RESET: u16 = 1 << 15;

/// Capability: power management.
pub const CAPABILITY_POWER: u8 = 0x01;
/// Capability: MSI.
pub const CAPABILITY_MSI: u8 = 0x05;
/// Capability: vendor-specific.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability: PCI Express.
pub const CAPABILITY_EXPRESS: u8 = 0x10;
/// Capability: MSI-X.
pub const CAPABILITY_MSI_X: u8 = 0x11;

bitflags::bitflags! {
    /// The command register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Command: u16 {
        /// Port accesses are decoded.
        const IO = 1 << 0;
        /// Memory accesses are decoded.
        const MEMORY = 1 << 1;
        /// The function may access memory.
        const BUS_MASTER = 1 << 2;
        /// The function does not raise its interrupt line.
        const INTERRUPT_DISABLE = 1 << 10;
        // The other bits are preserved.
        const _ = !0;
    }
}

/// The address of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// Bus 0 to 255, device 0 to 31, function 0 to 7; `None` if out of range.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Address> {
        if device < 32 && function < 8 { Some(Address { bus, device, function }) } else { None }
    }

    /// Bus, 0 to 255.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device, 0 to 31.
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.function
    }

    /// Bus in bits 8 to 15, device in 3 to 7, function in 0 to 2.
    pub const fn bits(self) -> u16 {
        (self.bus as u16) << 8 | (self.device as u16) << 3 | self.function as u16
    }

    /// Parses text like `00:04.0`: bus and device in hexadecimal, function; `None` if malformed.
    pub fn from_text(text: &str) -> Option<Address> {
        let (bus, rest) = text.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let number = |digits: &str| u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
        Address::new(number(bus)?, number(device)?, number(function)?)
    }

    /// As text: `00:04.0`.
    pub const fn text(self) -> [u8; 7] {
        [
            hex_digit(self.bus >> 4),
            hex_digit(self.bus),
            b':',
            hex_digit(self.device >> 4),
            hex_digit(self.device),
            b'.',
            hex_digit(self.function),
        ]
    }
}

const fn hex_digit(value: u8) -> u8 {
    let value = value & 0xf;
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_sub(10).wrapping_add(value) }
}

/// Access to configuration space. Offsets are in bytes, aligned to the width. Unreachable registers read as
/// all ones, as on the bus, and writes to them are dropped.
pub trait ConfigSpace: Send {
    /// Reads 32 bits.
    fn read32(&self, address: Address, offset: u16) -> u32;

    /// Writes 16 bits.
    fn write16(&self, address: Address, offset: u16, value: u16);

    /// Writes 32 bits.
    fn write32(&self, address: Address, offset: u16, value: u32);

    /// Feeds everything that must not change while armed.
    fn integrity(&self, digest: &mut Digest);

    /// Reads 16 bits.
    fn read16(&self, address: Address, offset: u16) -> u16 {
        let shift = u32::from(offset & 2).wrapping_mul(8);
        (self.read32(address, offset & !3) >> shift) as u16
    }

    /// Reads 8 bits.
    fn read8(&self, address: Address, offset: u16) -> u8 {
        let shift = u32::from(offset & 3).wrapping_mul(8);
        (self.read32(address, offset & !3) >> shift) as u8
    }
}

/// A decoded base address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// Memory at a physical address.
    Memory {
        /// First byte. Never 0, which means not assigned.
        address: u64,
        /// A 64-bit BAR: the next register has the upper half.
        wide: bool,
    },
    /// Ports.
    Io {
        /// First port.
        port: u32,
    },
}

/// Whether a base address register is assigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assigned {
    /// The same address as before.
    AsBefore,
    /// Cleared, as after a reset of the function.
    Nothing,
}

/// A function found on the bus. Small, and usable after the crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its address.
    pub address: Address,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, subclass, programming interface in bits 16 to 23, 8 to 15, 0 to 7.
    pub class: u32,
}

impl Function {
    /// Returns the function at an address, if there is one.
    pub fn at<C: ConfigSpace + ?Sized>(config: &C, address: Address) -> Option<Function> {
        let id = config.read32(address, ID);
        let vendor = id as u16;
        if vendor == 0xffff || vendor == 0 {
            return None;
        }
        Some(Function {
            address,
            vendor,
            device: (id >> 16) as u16,
            class: config.read32(address, CLASS) >> 8,
        })
    }

    /// Checks that it is still the same function.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] if nothing answers, [`DeviceError::Protocol`] if another device does.
    pub fn check_present<C: ConfigSpace + ?Sized>(&self, config: &C) -> Result<(), DeviceError> {
        let id = config.read32(self.address, ID);
        if id == u32::MAX {
            return Err(DeviceError::Gone);
        }
        if id != u32::from(self.device) << 16 | u32::from(self.vendor) {
            return Err(DeviceError::Protocol { what: "its PCI vendor and device id", value: id.into() });
        }
        Ok(())
    }

    /// The command register.
    pub fn command<C: ConfigSpace + ?Sized>(&self, config: &C) -> Command {
        Command::from_bits_retain(config.read16(self.address, COMMAND))
    }

    /// Sets and clears bits of the command register, and checks the result.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or, if the bits did not change, [`DeviceError::Protocol`].
    pub fn change_command<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        set: Command,
        clear: Command,
    ) -> Result<(), DeviceError> {
        let old = self.command(config);
        if old.bits() == u16::MAX {
            return Err(DeviceError::Gone);
        }
        let new = old.union(set).difference(clear);
        config.write16(self.address, COMMAND, new.bits());
        let now = self.command(config);
        if now.bits() == u16::MAX {
            return Err(DeviceError::Gone);
        }
        // A function without an interrupt line may keep that bit at 0.
        let wanted = set.difference(Command::INTERRUPT_DISABLE);
        if !now.contains(wanted) || now.intersects(clear) {
            return Err(DeviceError::Protocol { what: "its PCI command", value: now.bits().into() });
        }
        Ok(())
    }

    /// Decodes a base address register, 0 to 5, without changing it; `None` if it is unused, unassigned or
    /// reserved.
    pub fn bar<C: ConfigSpace + ?Sized>(&self, config: &C, index: u8) -> Option<Bar> {
        let offset = bar_offset(index)?;
        let low = config.read32(self.address, offset);
        if low == u32::MAX {
            return None;
        }
        if low & 1 == 1 {
            let port = low & !0x3;
            return (port != 0).then_some(Bar::Io { port });
        }
        let (high, wide) = match low >> 1 & 0x3 {
            0 => (0, false),
            2 => (config.read32(self.address, bar_offset(index.wrapping_add(1))?), true),
            _ => return None,
        };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        (address != 0).then_some(Bar::Memory { address, wide })
    }

    /// Compares a base address register with its earlier value `was`.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if it points elsewhere.
    pub fn compare_bar<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        index: u8,
        was: Bar,
    ) -> Result<Assigned, DeviceError> {
        let (low, high) = self.bar_halves(config, index, was);
        let is_io = matches!(was, Bar::Io { .. });
        let address = u64::from(high) << 32 | u64::from(low & !if is_io { 0x3 } else { 0xf });
        let (expected, kind) = match was {
            Bar::Memory { address, wide } => (address, if wide { 4 } else { 0 }),
            Bar::Io { port } => (port.into(), 1),
        };
        // A reset does not change the kind of a BAR.
        let same_kind = low & if is_io { 0x1 } else { 0x7 } == kind;
        match address {
            _ if !same_kind => Err(DeviceError::Protocol { what: "its base address", value: low.into() }),
            0 => Ok(Assigned::Nothing),
            address if address == expected => Ok(Assigned::AsBefore),
            value => Err(DeviceError::Protocol { what: "its base address", value }),
        }
    }

    /// Both halves of a base address register; the upper one is 0 for a 32-bit BAR.
    fn bar_halves<C: ConfigSpace + ?Sized>(&self, config: &C, index: u8, kind: Bar) -> (u32, u32) {
        let read = |index: u8| bar_offset(index).map_or(u32::MAX, |at| config.read32(self.address, at));
        let wide = matches!(kind, Bar::Memory { wide: true, .. });
        (read(index), if wide { read(index.wrapping_add(1)) } else { 0 })
    }

    /// Writes a base address register (both halves of a 64-bit one), and checks the result. Decoding must be
    /// disabled.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if the value did not stick.
    pub fn assign_bar<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        index: u8,
        bar: Bar,
    ) -> Result<(), DeviceError> {
        let (address, wide) = match bar {
            Bar::Memory { address, wide } => (address, wide),
            Bar::Io { port } => (port.into(), false),
        };
        let write = |index: u8, value: u32| {
            if let Some(at) = bar_offset(index) {
                config.write32(self.address, at, value);
            }
        };
        write(index, address as u32);
        if wide {
            write(index.wrapping_add(1), (address >> 32) as u32);
        }
        match self.compare_bar(config, index, bar)? {
            Assigned::AsBefore => Ok(()),
            Assigned::Nothing => Err(DeviceError::Protocol { what: "its base address", value: 0 }),
        }
    }

    /// PCI Express device control, without its reset bit. `express` is the offset of the capability.
    pub(super) fn device_control<C: ConfigSpace + ?Sized>(&self, config: &C, express: u8) -> u16 {
        config.read16(self.address, u16::from(express).wrapping_add(EXPRESS_CONTROL)) & !EXPRESS_RESET
    }

    /// Writes PCI Express device control.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the capability is not where it was.
    pub(super) fn set_device_control<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        express: u8,
        control: u16,
    ) -> Result<(), DeviceError> {
        self.check_capability(config, CAPABILITY_EXPRESS, express)?;
        let at = u16::from(express).wrapping_add(EXPRESS_CONTROL);
        config.write16(self.address, at, control & !EXPRESS_RESET);
        Ok(())
    }

    /// Determines the size in bytes of a BAR by writing all ones. Decoding is off meanwhile, so use it only
    /// in a healthy kernel, on an unused device.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if decoding cannot be disabled or the BAR cannot
    /// be restored.
    pub fn size_bar<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        index: u8,
    ) -> Result<Option<u64>, DeviceError> {
        let Some(offset) = bar_offset(index) else { return Ok(None) };
        let command = self.command(config);
        if command.bits() == u16::MAX {
            return Err(DeviceError::Gone);
        }
        let low = config.read32(self.address, offset);
        let io = low & 1 == 1;
        let upper = if !io && low >> 1 & 0x3 == 2 { bar_offset(index.wrapping_add(1)) } else { None };
        self.change_command(config, Command::empty(), Command::IO | Command::MEMORY)?;

        let probe = |offset: u16| {
            let old = config.read32(self.address, offset);
            config.write32(self.address, offset, u32::MAX);
            let mask = config.read32(self.address, offset);
            config.write32(self.address, offset, old);
            (mask, config.read32(self.address, offset) == old)
        };
        let (low_mask, mut restored) = probe(offset);
        let high_mask = match upper {
            Some(upper) => {
                let (mask, back) = probe(upper);
                restored &= back;
                mask
            }
            None => u32::MAX,
        };
        config.write16(self.address, COMMAND, command.bits());
        if !restored {
            return Err(DeviceError::Protocol { what: "its base address after sizing", value: low.into() });
        }
        let mask = if io { low_mask & !0x3 | 0xffff_0000 } else { low_mask & !0xf };
        if mask == 0 || io && low_mask & 0xffff & !0x3 == 0 {
            return Ok(None);
        }
        let mask = u64::from(high_mask) << 32 | u64::from(mask);
        Ok(Some((!mask).wrapping_add(1)))
    }

    /// The capability list, in order. A list with a loop, or with a pointer out of range, ends with an error.
    pub fn capabilities<'a, C: ConfigSpace + ?Sized>(&self, config: &'a C) -> Capabilities<'a, C> {
        let listed = config.read16(self.address, STATUS) & STATUS_CAPABILITIES != 0;
        let next = if listed { config.read8(self.address, CAPABILITIES) & !3 } else { 0 };
        Capabilities { config, address: self.address, next, seen: 0 }
    }

    /// Disables interrupts: the interrupt line, MSI and MSI-X. `msi` and `msi_x` are the offsets of these
    /// capabilities, if present.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if a capability has moved or cannot be disabled.
    pub fn mask_interrupts<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        msi: Option<u8>,
        msi_x: Option<u8>,
    ) -> Result<(), DeviceError> {
        // The line first: a function without MSI falls back to it.
        self.change_command(config, Command::INTERRUPT_DISABLE, Command::empty())?;
        if let Some(at) = msi {
            // MSI: bit 0 of message control enables.
            self.change_message_control(config, CAPABILITY_MSI, at, 0, 1 << 0)?;
        }
        if let Some(at) = msi_x {
            // MSI-X: bit 14 masks all vectors, bit 15 enables.
            self.change_message_control(config, CAPABILITY_MSI_X, at, 1 << 14, 1 << 15)?;
        }
        Ok(())
    }

    fn change_message_control<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        id: u8,
        at: u8,
        set: u16,
        clear: u16,
    ) -> Result<(), DeviceError> {
        self.check_capability(config, id, at)?;
        let control = u16::from(at).wrapping_add(2);
        let old = config.read16(self.address, control);
        config.write16(self.address, control, old & !clear | set);
        let now = config.read16(self.address, control);
        if now & clear != 0 {
            return Err(DeviceError::Protocol { what: "its MSI control", value: now.into() });
        }
        Ok(())
    }

    fn check_capability<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        id: u8,
        at: u8,
    ) -> Result<(), DeviceError> {
        let now = config.read8(self.address, at.into());
        if now != id {
            self.check_present(config)?;
            return Err(DeviceError::Protocol { what: "its PCI capability", value: now.into() });
        }
        Ok(())
    }

    /// The power state, 0 (awake) to 3. `power` is the offset of the power management capability.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the capability is not where it was.
    pub fn power_state<C: ConfigSpace + ?Sized>(&self, config: &C, power: u8) -> Result<u8, DeviceError> {
        self.check_capability(config, CAPABILITY_POWER, power)?;
        Ok(config.read8(self.address, u16::from(power).wrapping_add(POWER_CONTROL)) & 0x3)
    }

    /// Wakes the function from a sleep state, D1 to D3. `power` is the offset of the power management
    /// capability. Returns whether it was asleep; it then needs 10 ms before the next access.
    ///
    /// # Errors
    /// As [`power_state`](Function::power_state).
    pub fn wake<C: ConfigSpace + ?Sized>(&self, config: &C, power: u8) -> Result<bool, DeviceError> {
        if self.power_state(config, power)? == 0 {
            return Ok(false);
        }
        let control = u16::from(power).wrapping_add(POWER_CONTROL);
        let old = config.read16(self.address, control);
        config.write16(self.address, control, old & !0x3);
        Ok(true)
    }

    /// Feeds its identity.
    pub fn integrity(&self, digest: &mut Digest) {
        digest
            .number(self.address.bits().into())
            .number(self.vendor.into())
            .number(self.device.into())
            .number(self.class.into());
    }
}

fn bar_offset(index: u8) -> Option<u16> {
    (index < BARS).then(|| u16::from(index).wrapping_mul(4).wrapping_add(BAR))
}

/// A capability: its id and its offset in configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Kind, such as [`CAPABILITY_MSI`].
    pub id: u8,
    /// Offset in configuration space, 0x40 to 0xfc.
    pub at: u8,
}

/// Iterator over a function's capability list.
pub struct Capabilities<'a, C: ?Sized> {
    config: &'a C,
    address: Address,
    next: u8,
    /// One bit for each of the 64 possible offsets of a capability.
    seen: u64,
}

impl<C: ConfigSpace + ?Sized> Iterator for Capabilities<'_, C> {
    type Item = Result<Capability, DeviceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next;
        if at == 0 {
            return None;
        }
        let place = 1_u64 << (at >> 2);
        if at < FIRST_CAPABILITY || self.seen & place != 0 {
            self.next = 0;
            let what =
                if at < FIRST_CAPABILITY { "its capability pointer" } else { "its capability list, a loop," };
            return Some(Err(DeviceError::Protocol { what, value: at.into() }));
        }
        self.seen |= place;
        let header = self.config.read16(self.address, at.into());
        if header == u16::MAX {
            self.next = 0;
            return Some(Err(DeviceError::Gone));
        }
        self.next = (header >> 8) as u8 & !3;
        Some(Ok(Capability { id: header as u8, at }))
    }
}

/// Iterator over all functions on buses 0 to 255. Tries every bus instead of following bridges.
pub struct Functions<'a, C: ?Sized> {
    config: &'a C,
    /// The next address, as [`Address::bits`].
    next: u32,
}

/// All functions that respond.
pub fn functions<C: ConfigSpace + ?Sized>(config: &C) -> Functions<'_, C> {
    Functions { config, next: 0 }
}

impl<C: ConfigSpace + ?Sized> Iterator for Functions<'_, C> {
    type Item = Function;

    fn next(&mut self) -> Option<Function> {
        for place in self.next..=u32::from(u16::MAX) {
            if place < self.next {
                // A function number of a single-function device.
                continue;
            }
            let bits = place as u16;
            let address = Address {
                bus: (bits >> 8) as u8,
                device: (bits >> 3) as u8 & 0x1f,
                function: bits as u8 & 0x7,
            };
            let found = Function::at(self.config, address);
            let alone = address.function == 0
                && (found.is_none() || self.config.read8(address, HEADER_TYPE) & HEADER_MULTI_FUNCTION == 0);
            self.next = place.wrapping_add(if alone { 8 } else { 1 });
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

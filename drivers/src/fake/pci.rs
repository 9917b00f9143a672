//! Configuration space of a fake device, laid out as QEMU's devices are.

use crate::bus::pci::{
    Address, CAPABILITY_EXPRESS, CAPABILITY_MSI, CAPABILITY_MSI_X, CAPABILITY_POWER, CAPABILITY_VENDOR,
    Command,
};

/// The device's address: bus, device, function.
const PLACE: (u8, u8, u8) = (0, 4, 0);

/// BAR 4, 64-bit: the virtio structures.
pub(super) const VIRTIO_BAR: u64 = 0x8_0000_0000;
/// Its size.
const VIRTIO_BAR_SIZE: u32 = 0x4000;
/// BAR 1, 32-bit: the MSI-X table.
const MSI_X_BAR: u32 = 0xfebd_1000;
const MSI_X_BAR_SIZE: u32 = 0x1000;

const MSI: u8 = 0xb0;
const POWER: u8 = 0xa8;
const MSI_X: u8 = 0x98;
/// PCI Express, up to device control; the rest is not implemented.
const EXPRESS: u8 = 0xd0;
/// Device control: packets of 256 bytes, agreed with the bridges above.
const AGREED: u16 = 0x2830;
/// Reads of the clock until a waking function may be accessed.
const WAKES: u32 = 1000;
const COMMON: u8 = 0x40;
const ISR: u8 = 0x50;
const DEVICE: u8 = 0x60;
const NOTIFY: u8 = 0x70;

/// A base address register.
#[derive(Clone, Copy)]
struct BarBits {
    /// Bytes, a power of two; 0 for a missing register.
    size: u64,
    /// The address at which the driver mapped it.
    home: u64,
    io: bool,
    wide: bool,
}

impl BarBits {
    const NONE: BarBits = BarBits { size: 0, home: 0, io: false, wide: false };
}

/// 256 bytes, with a mask of those that a driver may change.
pub struct ConfigBytes {
    bytes: [u8; 256],
    bars: [BarBits; 6],
    /// The BAR that [`move_bar`](ConfigBytes::move_bar) moves: the first.
    first: Option<u8>,
    /// Waking from D3 resets it (No_Soft_Reset is 0).
    forgetful: bool,
    /// A 16-bit register that only this kind of device has.
    own: Option<u8>,
    /// Reads of the clock until it may be accessed.
    waking: u32,
    /// Writes to the enable bits of MSI and MSI-X do nothing.
    pub msi_stuck: bool,
}

impl ConfigBytes {
    /// A function in use, with power management, MSI and MSI-X (both enabled, though a real driver enables
    /// one: the take-over must cope with either). `class` is base class, subclass and programming interface,
    /// 8 bits each.
    pub fn new(vendor: u16, device: u16, class: u32) -> ConfigBytes {
        let mut this = ConfigBytes {
            bytes: [0; 256],
            bars: [BarBits::NONE; 6],
            first: None,
            forgetful: false,
            own: None,
            waking: 0,
            msi_stuck: false,
        };
        this.put16(0x00, vendor);
        this.put16(0x02, device);
        this.put16(0x04, Command::BUS_MASTER.bits());
        this.put16(0x06, 1 << 4);
        this.put32(0x08, class << 8 | 1);
        this.bytes[0x34] = MSI;
        this.capability(MSI, CAPABILITY_MSI, EXPRESS);
        this.capability(EXPRESS, CAPABILITY_EXPRESS, POWER);
        this.put16(EXPRESS + 8, AGREED);
        this.capability(POWER, CAPABILITY_POWER, MSI_X);
        this.capability(MSI_X, CAPABILITY_MSI_X, 0);
        this.put16(MSI + 2, 1);
        this.put16(MSI_X + 2, 1 << 15 | 2);
        this
    }

    /// Adds a memory BAR of `size` bytes (a power of two, at least 16) at `address`; 64-bit if that is above
    /// 4 GiB.
    #[must_use]
    pub fn memory_bar(mut self, index: u8, address: u64, size: u64) -> ConfigBytes {
        let wide = address >> 32 != 0;
        let at = 0x10 + index * 4;
        self.put32(at, address as u32 | if wide { 4 } else { 0 });
        if wide {
            self.put32(at + 4, (address >> 32) as u32);
        }
        self.bars[usize::from(index)] = BarBits { size, home: address, io: false, wide };
        self.first = self.first.or(Some(index));
        self.set_command(self.command() | Command::MEMORY);
        self
    }

    /// Adds a port BAR of `size` ports (a power of two, at least 4).
    #[must_use]
    pub fn port_bar(mut self, index: u8, port: u32, size: u64) -> ConfigBytes {
        self.put32(0x10 + index * 4, port | 1);
        self.bars[usize::from(index)] = BarBits { size, home: port.into(), io: true, wide: false };
        self.first = self.first.or(Some(index));
        self.set_command(self.command() | Command::IO);
        self
    }

    /// Adds a 16-bit register that only this kind of device has, set by firmware. A reset clears it.
    #[must_use]
    pub(super) fn own(mut self, at: u8, value: u16) -> ConfigBytes {
        self.put16(at, value);
        self.own = Some(at);
        self
    }

    /// That register.
    pub(super) fn own_bits(&self) -> Option<u16> {
        self.own.map(|at| self.get16(at))
    }

    /// A virtio device as QEMU lays it out.
    pub(super) fn virtio(device_id: u16, modern: bool, notify_multiplier: u32) -> ConfigBytes {
        let mut this = ConfigBytes::new(0x1af4, device_id, 0x01_00_00)
            .memory_bar(4, VIRTIO_BAR, VIRTIO_BAR_SIZE.into())
            .memory_bar(1, MSI_X_BAR.into(), MSI_X_BAR_SIZE.into());
        this.put32(0x20, VIRTIO_BAR as u32 | 0xc);
        if modern {
            this.capability(MSI_X, CAPABILITY_MSI_X, NOTIFY);
        }
        for (at, next, kind, offset, length) in [
            (NOTIFY, DEVICE, 2, 0x3000, 0x1000_u32),
            (DEVICE, ISR, 4, 0x2000, 0x1000),
            (ISR, COMMON, 3, 0x1000, 0x1000),
            (COMMON, 0, 1, 0x0000, 0x1000),
        ] {
            this.capability(at, CAPABILITY_VENDOR, next);
            this.bytes[usize::from(at) + 2] = 16;
            this.bytes[usize::from(at) + 3] = kind;
            this.bytes[usize::from(at) + 4] = 4;
            this.put32(at + 8, offset);
            this.put32(at + 12, length);
        }
        this.put32(NOTIFY + 16, notify_multiplier);
        this
    }

    fn capability(&mut self, at: u8, id: u8, next: u8) {
        self.bytes[usize::from(at)] = id;
        self.bytes[usize::from(at) + 1] = next;
    }

    /// Makes the last virtio capability point back to the first.
    pub(super) fn tie_a_loop(&mut self) {
        self.bytes[usize::from(COMMON) + 1] = MSI;
    }

    /// Moves the first BAR.
    pub fn move_bar(&mut self) {
        if let Some(index) = self.first {
            let at = 0x10 + index * 4;
            let bits = self.bars[usize::from(index)];
            let at = if bits.wide { at + 4 } else { at };
            let step = if bits.wide { 1 } else { bits.size as u32 };
            self.put32(at, self.get32(at).wrapping_add(step));
        }
    }

    /// The function sleeps in D3. If `forgetful`, waking resets it; otherwise it reports that waking does
    /// not.
    pub fn sleep(&mut self, forgetful: bool) {
        self.forgetful = forgetful;
        let kept = if forgetful { 0 } else { 1 << 3 };
        self.put16(POWER + 4, kept | 3);
    }

    /// Whether it is asleep.
    pub fn asleep(&self) -> bool {
        self.get16(POWER + 4) & 3 != 0
    }

    /// Whether it must not be accessed yet.
    pub(super) fn wakes(&self) -> bool {
        self.waking > 0
    }

    /// A moment passes.
    pub(super) fn tick(&mut self) {
        self.waking = self.waking.saturating_sub(1);
    }

    /// A reset of the function: clears everything that was written to it.
    pub(super) fn reset(&mut self) {
        self.set_command(Command::empty());
        for index in 0..6 {
            self.put_bar(index, 0);
        }
        self.put16(MSI + 2, 0);
        self.put16(MSI_X + 2, self.get16(MSI_X + 2) & 0x7ff);
        self.put16(EXPRESS + 8, 0x2810);
        if let Some(at) = self.own {
            self.put16(at, 0);
        }
    }

    /// Whether PCI Express device control is unchanged.
    pub(super) fn agrees(&self) -> bool {
        self.get16(EXPRESS + 8) == AGREED
    }

    /// The address in a base address register.
    fn bar_address(&self, index: usize) -> u64 {
        let at = 0x10 + index as u8 * 4;
        let BarBits { io, wide, .. } = self.bars[index];
        let high = if wide { u64::from(self.get32(at + 4)) << 32 } else { 0 };
        high | u64::from(self.get32(at) & !if io { 0x3 } else { 0xf })
    }

    /// Sets a base address register.
    fn put_bar(&mut self, index: usize, address: u64) {
        let at = 0x10 + index as u8 * 4;
        let BarBits { size, io, wide, .. } = self.bars[index];
        if size > 0 {
            let fixed = self.get32(at) & if io { 0x3 } else { 0xf };
            self.put32(at, address as u32 | fixed);
            if wide {
                self.put32(at + 4, (address >> 32) as u32);
            }
        }
    }

    /// Whether a BAR has the address at which the driver mapped it. True for ports outside the BARs.
    pub(super) fn is_home(&self, bar: u8) -> bool {
        let bits = self.bars.get(usize::from(bar)).copied().unwrap_or(BarBits::NONE);
        bits.size == 0 || self.bar_address(bar.into()) == bits.home
    }

    /// Whether any interrupt could still be raised.
    pub fn interrupts_on(&self) -> bool {
        !self.command().contains(Command::INTERRUPT_DISABLE)
            || self.get16(MSI + 2) & 1 != 0
            || self.get16(MSI_X + 2) & (1 << 15) != 0
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits_retain(self.get16(4))
    }

    /// Sets the command register.
    pub fn set_command(&mut self, command: Command) {
        self.put16(4, command.bits());
    }

    /// Writes 8 bits, such as a register that only this kind of device has.
    pub fn put8(&mut self, at: u8, value: u8) {
        self.bytes[usize::from(at)] = value;
    }

    /// Writes 16 bits.
    pub fn put16(&mut self, at: u8, value: u16) {
        self.bytes[usize::from(at)..][..2].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes 32 bits.
    pub fn put32(&mut self, at: u8, value: u32) {
        self.bytes[usize::from(at)..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn get16(&self, at: u8) -> u16 {
        u16::from_le_bytes([self.bytes[usize::from(at)], self.bytes[usize::from(at) + 1]])
    }

    fn get32(&self, at: u8) -> u32 {
        u32::from(self.get16(at + 2)) << 16 | u32::from(self.get16(at))
    }

    /// The BAR and the offset in it of `length` bytes at a physical address.
    pub(super) fn locate(&self, physical: u64, length: usize) -> Option<(u8, u64)> {
        (0_u8..).zip(&self.bars).find_map(|(index, bar)| {
            if bar.size == 0 || bar.io {
                return None;
            }
            let offset = physical.checked_sub(self.bar_address(index.into()))?;
            (offset.checked_add(length as u64)? <= bar.size).then_some((index, offset))
        })
    }

    /// The command register bits that a BAR needs. Ports outside the BARs count as ports.
    pub(super) fn decoding(&self, bar: u8) -> Command {
        match self.bars.get(usize::from(bar)) {
            Some(bits) if bits.size > 0 && !bits.io => Command::MEMORY,
            _ => Command::IO,
        }
    }

    pub(super) fn here(address: Address) -> bool {
        (address.bus(), address.device(), address.function()) == PLACE
    }

    /// Reads 32 bits, as the driver does.
    pub fn read32(&self, offset: u16) -> u32 {
        match u8::try_from(offset) {
            Ok(offset) if offset.is_multiple_of(4) => self.get32(offset),
            _ => u32::MAX,
        }
    }

    /// Writes 16 bits, as the driver does. Returns whether that has reset the function.
    pub fn write16(&mut self, offset: u16, value: u16) -> bool {
        let Ok(at) = u8::try_from(offset) else { return false };
        if at == POWER + 4 && self.asleep() && value & 3 == 0 {
            self.put16(at, self.get16(at) & !3);
            self.waking = WAKES;
            if self.forgetful {
                self.reset();
            }
            return self.forgetful;
        }
        match at {
            4 => self.put16(4, value & 0x0407),
            _ if at == MSI + 2 && !self.msi_stuck => self.put16(at, value & 1),
            _ if at == MSI_X + 2 && !self.msi_stuck => {
                self.put16(at, self.get16(at) & 0x7ff | value & 0xc000)
            }
            _ if at == POWER + 4 => self.put16(at, self.get16(at) & !3 | value & 3),
            _ if at == EXPRESS + 8 || Some(at) == self.own => self.put16(at, value),
            _ => {}
        }
        false
    }

    /// Writes 32 bits, as the driver does.
    pub fn write32(&mut self, offset: u16, value: u32) {
        let Ok(at) = u8::try_from(offset) else { return };
        let Some(index) = at.checked_sub(0x10).filter(|place| place.is_multiple_of(4)).map(|place| place / 4)
        else {
            return;
        };
        let upper = |index: u8| index.checked_sub(1).and_then(|below| self.bars.get(usize::from(below)));
        match (self.bars.get(usize::from(index)), upper(index)) {
            (Some(bar), _) if bar.size > 0 => {
                let fixed = self.get32(at) & if bar.io { 0x3 } else { 0xf };
                self.put32(at, value & !(bar.size as u32).wrapping_sub(1) | fixed);
            }
            (Some(_), Some(below)) if below.wide => self.put32(at, value),
            _ => {}
        }
    }
}

//! Configuration space of the fake disk, laid out as QEMU lays out its own.

use crate::bus::pci::{
    Address, CAPABILITY_MSI, CAPABILITY_MSI_X, CAPABILITY_POWER, CAPABILITY_VENDOR, Command,
};

pub(super) const PLACE: (u8, u8, u8) = (0, 4, 0);

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
const COMMON: u8 = 0x40;
const ISR: u8 = 0x50;
const DEVICE: u8 = 0x60;
const NOTIFY: u8 = 0x70;

/// 256 bytes, and which of them a driver may change.
pub(super) struct ConfigBytes {
    bytes: [u8; 256],
    /// Writes to the enable bits of MSI and MSI-X do nothing.
    pub(super) msi_stuck: bool,
}

impl ConfigBytes {
    pub(super) fn new(device_id: u16, modern: bool, notify_multiplier: u32) -> ConfigBytes {
        let mut this = ConfigBytes { bytes: [0; 256], msi_stuck: false };
        this.put16(0x00, 0x1af4);
        this.put16(0x02, device_id);
        this.put16(0x04, (Command::MEMORY | Command::BUS_MASTER).bits());
        this.put16(0x06, 1 << 4);
        this.put32(0x08, 0x0100_0001);
        this.put32(0x14, MSI_X_BAR);
        this.put32(0x20, VIRTIO_BAR as u32 | 0xc);
        this.put32(0x24, (VIRTIO_BAR >> 32) as u32);
        this.bytes[0x34] = MSI;
        this.capability(MSI, CAPABILITY_MSI, POWER);
        this.capability(POWER, CAPABILITY_POWER, MSI_X);
        this.capability(MSI_X, CAPABILITY_MSI_X, if modern { NOTIFY } else { 0 });
        // Both enabled, though a real driver enables one: the takeover has to cope with either.
        this.put16(MSI + 2, 1);
        this.put16(MSI_X + 2, 1 << 15 | 2);
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

    /// The last capability points back to the first.
    pub(super) fn tie_a_loop(&mut self) {
        self.bytes[usize::from(COMMON) + 1] = MSI;
    }

    /// Somebody moves the BAR.
    pub(super) fn move_bar(&mut self) {
        self.put32(0x24, 9);
    }

    /// The function sleeps in D3.
    pub(super) fn sleep(&mut self) {
        self.put16(POWER + 4, 3);
    }

    pub(super) fn asleep(&self) -> bool {
        self.get16(POWER + 4) & 3 != 0
    }

    /// Whether any interrupt could still be raised.
    pub(super) fn interrupts_on(&self) -> bool {
        !self.command().contains(Command::INTERRUPT_DISABLE)
            || self.get16(MSI + 2) & 1 != 0
            || self.get16(MSI_X + 2) & (1 << 15) != 0
    }

    pub(super) fn command(&self) -> Command {
        Command::from_bits_retain(self.get16(4))
    }

    pub(super) fn set_command(&mut self, command: Command) {
        self.put16(4, command.bits());
    }

    fn put16(&mut self, at: u8, value: u16) {
        self.bytes[usize::from(at)..][..2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: u8, value: u32) {
        self.bytes[usize::from(at)..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn get16(&self, at: u8) -> u16 {
        u16::from_le_bytes([self.bytes[usize::from(at)], self.bytes[usize::from(at) + 1]])
    }

    fn get32(&self, at: u8) -> u32 {
        u32::from(self.get16(at + 2)) << 16 | u32::from(self.get16(at))
    }

    pub(super) fn here(address: Address) -> bool {
        (address.bus(), address.device(), address.function()) == PLACE
    }

    pub(super) fn read32(&self, offset: u16) -> u32 {
        match u8::try_from(offset) {
            Ok(offset) if offset.is_multiple_of(4) => self.get32(offset),
            _ => u32::MAX,
        }
    }

    pub(super) fn write16(&mut self, offset: u16, value: u16) {
        let Ok(at) = u8::try_from(offset) else { return };
        match at {
            4 => self.put16(4, value & 0x0407),
            _ if at == MSI + 2 && !self.msi_stuck => self.put16(at, value & 1),
            _ if at == MSI_X + 2 && !self.msi_stuck => {
                self.put16(at, self.get16(at) & 0x7ff | value & 0xc000)
            }
            _ if at == POWER + 4 => self.put16(at, value & 3),
            _ => {}
        }
    }

    pub(super) fn write32(&mut self, offset: u16, value: u32) {
        match offset {
            0x14 => self.put32(0x14, value & !(MSI_X_BAR_SIZE - 1)),
            0x20 => self.put32(0x20, value & !(VIRTIO_BAR_SIZE - 1) | 0xc),
            0x24 => self.put32(0x24, value),
            _ => {}
        }
    }
}

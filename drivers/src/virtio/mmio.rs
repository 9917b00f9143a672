//! virtio over MMIO, modern (virtio 1.2, 4.2): one window of registers, named in the device tree.
//!
//! The bus can neither block the device's memory accesses nor mask its interrupts: only a reset of the device
//! can. So the old driver's DMA may arrive until the reset has ended, but not afterwards.

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;

use super::transport::{QueueOffer, Rings, Transport};
use crate::bus::registers::Registers;
use crate::disk::Name;

/// Bytes of registers to map: those of the transport, and the useful part of the device configuration.
pub const WINDOW: usize = 0x200;

/// Register layout (4.2.2). All are 32 bits.
mod register {
    pub(super) const MAGIC: usize = 0x000;
    pub(super) const VERSION: usize = 0x004;
    pub(super) const DEVICE_ID: usize = 0x008;
    pub(super) const DEVICE_FEATURES: usize = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: usize = 0x014;
    pub(super) const DRIVER_FEATURES: usize = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x024;
    pub(super) const QUEUE_SELECT: usize = 0x030;
    pub(super) const QUEUE_SIZE_MAX: usize = 0x034;
    pub(super) const QUEUE_SIZE: usize = 0x038;
    pub(super) const QUEUE_READY: usize = 0x044;
    pub(super) const QUEUE_NOTIFY: usize = 0x050;
    pub(super) const INTERRUPT_STATUS: usize = 0x060;
    pub(super) const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    pub(super) const STATUS: usize = 0x070;
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x080;
    pub(super) const QUEUE_DRIVER: usize = 0x090;
    pub(super) const QUEUE_DEVICE: usize = 0x0a0;
    pub(super) const GENERATION: usize = 0x0fc;
    pub(super) const CONFIGURATION: usize = 0x100;
}

/// `virt`, little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The modern register layout; 1 is legacy.
const VERSION: u32 = 2;

/// A kind of virtio device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    /// Device id (5).
    pub(super) id: u32,
    /// Its name in the error for another device.
    pub(super) what: &'static str,
}

/// A window of virtio registers.
#[derive(Debug)]
pub struct MmioSlot<R> {
    /// Its physical address.
    pub physical: u64,
    /// The registers, [`WINDOW`] bytes.
    pub registers: R,
}

/// The device of a kind number `index`, counted from 0, among the windows at these physical addresses. `map`
/// maps a number of bytes at a physical address, uncached, readable and writable. Empty windows (device id 0)
/// are skipped.
pub(super) fn find<R: Registers>(
    windows: impl IntoIterator<Item = u64>,
    mut map: impl FnMut(u64, usize) -> Option<R>,
    device: u32,
    index: usize,
) -> Option<MmioSlot<R>> {
    windows
        .into_iter()
        .filter_map(|physical| Some(MmioSlot { physical, registers: map(physical, WINDOW)? }))
        .filter(|slot| {
            slot.registers.read32(register::MAGIC) == MAGIC
                && slot.registers.read32(register::DEVICE_ID) == device
        })
        .nth(index)
}

/// A virtio device with its own window of registers.
pub struct MmioTransport<R> {
    slot: MmioSlot<R>,
    /// Kind of device.
    device: u32,
    /// Time limit of a reset in nanoseconds.
    timeout: Nanoseconds,
    /// The queue to notify; set by `set_up_queue`.
    queue: u16,
}

impl<R: Registers> MmioTransport<R> {
    /// Reads the registers, and writes none: another driver may be using the device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not of this kind, or is legacy, [`DeviceError::Gone`].
    pub(super) fn open(
        slot: MmioSlot<R>,
        kind: Kind,
        timeout: Nanoseconds,
    ) -> Result<MmioTransport<R>, DeviceError> {
        let magic = slot.registers.read32(register::MAGIC);
        let id = slot.registers.read32(register::DEVICE_ID);
        if magic == u32::MAX {
            return Err(DeviceError::Gone);
        }
        if magic != MAGIC {
            return Err(DeviceError::Unsupported { what: "virtio-mmio registers", value: magic.into() });
        }
        if id != kind.id {
            return Err(DeviceError::Unsupported { what: kind.what, value: id.into() });
        }
        let version = slot.registers.read32(register::VERSION);
        if version != VERSION {
            let what = "a modern virtio-mmio device (version 2)";
            return Err(DeviceError::Unsupported { what, value: version.into() });
        }
        Ok(MmioTransport { slot, device: kind.id, timeout, queue: 0 })
    }

    fn read(&self, register: usize) -> u32 {
        self.slot.registers.read32(register)
    }

    fn write(&self, register: usize, value: u32) {
        self.slot.registers.write32(register, value);
    }
}

/// Marks the number of a controller that is on no bus; the lower bits are its physical address. No PCI
/// function has such a number.
const ON_NO_BUS: u64 = 1 << 63;

impl<R: Registers> Transport for MmioTransport<R> {
    fn number(&self) -> u64 {
        ON_NO_BUS | self.slot.physical
    }

    fn integrity(&self, digest: &mut Digest) {
        self.slot.registers.integrity(digest);
        digest.number(self.slot.physical).number(self.device.into()).number(self.timeout);
    }

    fn place(&self, name: Name) -> Name {
        name.hexadecimal(self.slot.physical)
    }

    fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    /// The upper bits are reserved, unless all are set.
    fn read_status(&self) -> u8 {
        self.read(register::STATUS) as u8
    }

    fn write_status(&self, status: u8) {
        self.write(register::STATUS, status.into());
    }

    fn read_features(&self, half: u32) -> u32 {
        self.write(register::DEVICE_FEATURES_SELECT, half);
        self.read(register::DEVICE_FEATURES)
    }

    fn write_features(&self, half: u32, features: u32) {
        self.write(register::DRIVER_FEATURES_SELECT, half);
        self.write(register::DRIVER_FEATURES, features);
    }

    fn generation(&self) -> u32 {
        self.read(register::GENERATION)
    }

    fn configuration32(&self, offset: usize) -> u32 {
        self.read(register::CONFIGURATION.saturating_add(offset))
    }

    fn queue_offer(&self, index: u16) -> Result<QueueOffer, DeviceError> {
        self.write(register::QUEUE_SELECT, index.into());
        let ready = self.read(register::QUEUE_READY);
        let size = self.read(register::QUEUE_SIZE_MAX);
        self.status()?;
        // The reset has disabled all queues (4.2.3.2).
        if ready != 0 {
            return Err(DeviceError::Protocol { what: "its queue ready register", value: ready.into() });
        }
        let Ok(size) = u16::try_from(size) else {
            return Err(DeviceError::Protocol { what: "its queue size", value: size.into() });
        };
        QueueOffer { index, size, notify_off: 0 }.checked()
    }

    fn set_up_queue(&mut self, offer: QueueOffer, size: u16, rings: &Rings) -> Result<(), DeviceError> {
        self.queue = offer.index;
        self.write(register::QUEUE_SELECT, offer.index.into());
        self.write(register::QUEUE_SIZE, size.into());
        for (register, address) in [
            (register::QUEUE_DESCRIPTORS, rings.descriptors),
            (register::QUEUE_DRIVER, rings.driver),
            (register::QUEUE_DEVICE, rings.device),
        ] {
            self.write(register, address as u32);
            self.write(register.wrapping_add(4), (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
        let ready = self.read(register::QUEUE_READY);
        if ready != 1 {
            return Err(DeviceError::Protocol { what: "its queue ready register", value: ready.into() });
        }
        Ok(())
    }

    /// By 4.2.3.3.
    #[inline]
    fn notify(&self) {
        self.write(register::QUEUE_NOTIFY, self.queue.into());
    }

    fn health(&self) -> Health {
        match self.check_present() {
            Ok(()) => Health::Healthy,
            Err(error) => Health::Unusable(error),
        }
    }

    fn health_in_use(&self) -> Health {
        Health::Healthy
    }

    fn explain_place(&self, error: DeviceError) -> DeviceError {
        match self.check_present() {
            Err(DeviceError::Gone) => DeviceError::Gone,
            _ => error,
        }
    }

    fn isolate(&self, _: &Wait<'_>) -> Result<(), DeviceError> {
        self.check_present()
    }

    fn enable_bus_master(&self) -> Result<(), DeviceError> {
        // Acknowledges an interrupt from before the reset (4.2.3.4).
        self.write(register::INTERRUPT_ACKNOWLEDGE, self.read(register::INTERRUPT_STATUS));
        self.status().map(|_| ())
    }

    fn disable_bus_master(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn check_present(&self) -> Result<(), DeviceError> {
        let magic = self.read(register::MAGIC);
        if magic == u32::MAX {
            return Err(DeviceError::Gone);
        }
        if magic != MAGIC {
            return Err(DeviceError::Protocol { what: "its magic number", value: magic.into() });
        }
        let version = self.read(register::VERSION);
        if version != VERSION {
            return Err(DeviceError::Protocol { what: "its version", value: version.into() });
        }
        let device = self.read(register::DEVICE_ID);
        if device != self.device {
            return Err(DeviceError::Protocol { what: "its device id", value: device.into() });
        }
        Ok(())
    }
}

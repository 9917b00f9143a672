//! virtio over PCI, modern (virtio 1.2, 4.1): finding the registers, and isolating the function.

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;

use super::transport::{QueueOffer, Rings, Transport};
use crate::bus::access::Access;
use crate::bus::pci::{Bar, CAPABILITY_VENDOR, Command, ConfigSpace, Function, PciDevice, functions};
use crate::bus::registers::Registers;
use crate::disk::Name;

/// PCI vendor of every virtio device.
pub const VENDOR: u16 = 0x1af4;

/// Maximum number of bytes to map of the notification window. The first queues, one of which is used here,
/// are near its start.
const NOTIFY_MAPPED: u32 = 64 << 10;

/// Common configuration structure (4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub(super) const NUM_QUEUES: usize = 0x12;
    pub(super) const DEVICE_STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
    pub(super) const SIZE: u32 = 0x38;
    /// In both vector registers: no vector.
    pub(super) const NO_VECTOR: u16 = 0xffff;
}

/// Virtio's PCI capability (4.1.4), offsets from its start.
mod capability {
    pub(super) const CONFIG_TYPE: u16 = 3;
    pub(super) const BAR: u16 = 4;
    pub(super) const OFFSET: u16 = 8;
    pub(super) const LENGTH: u16 = 12;
    pub(super) const NOTIFY_MULTIPLIER: u16 = 16;

    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
}

/// A part of a memory BAR, named by a virtio capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Region {
    bar: u8,
    bar_address: u64,
    address: u64,
    length: u32,
    /// Offset of the capability.
    at: u8,
}

impl Region {
    /// Reads the capability at `at`; `None` if it is unusable.
    fn read<C: ConfigSpace>(config: &C, function: &Function, at: u8) -> Option<Region> {
        let field = |offset: u16| u16::from(at).wrapping_add(offset);
        let bar = config.read8(function.address, field(capability::BAR));
        let offset = config.read32(function.address, field(capability::OFFSET));
        let length = config.read32(function.address, field(capability::LENGTH));
        // A device may offer the same structure twice, in ports and in memory. Use memory.
        let Some(Bar::Memory { address: bar_address, .. }) = function.bar(config, bar) else { return None };
        let address = bar_address.checked_add(offset.into())?;
        address.checked_add(length.into())?;
        Some(Region { bar, bar_address, address, length, at })
    }

    /// Maps the first `limit` bytes, or fewer if it is smaller, but at least `least`.
    fn map<R>(
        &self,
        map: &mut impl FnMut(u64, usize) -> Option<R>,
        what: &'static str,
        least: u32,
        limit: u32,
    ) -> Result<R, DeviceError> {
        if self.length < least {
            return Err(DeviceError::Protocol { what, value: self.length.into() });
        }
        map(self.address, self.length.min(limit) as usize)
            .ok_or(DeviceError::Unsupported { what: "a BAR that can be mapped", value: self.address })
    }

    fn integrity(&self, digest: &mut Digest) {
        digest
            .number(self.bar.into())
            .number(self.bar_address)
            .number(self.address)
            .number(self.length.into())
            .number(self.at.into());
    }
}

/// The first usable capability of each kind.
#[derive(Default)]
struct Found {
    common: Option<Region>,
    notify: Option<Region>,
    isr: Option<Region>,
    device: Option<Region>,
}

impl Found {
    fn look<C: ConfigSpace>(config: &C, function: &Function) -> Result<Found, DeviceError> {
        let mut found = Found::default();
        for capability in function.capabilities(config) {
            let capability = capability?;
            if capability.id != CAPABILITY_VENDOR {
                continue;
            }
            let at = capability.at;
            let kind = config.read8(function.address, u16::from(at).wrapping_add(capability::CONFIG_TYPE));
            let slot = match kind {
                capability::COMMON => &mut found.common,
                capability::NOTIFY => &mut found.notify,
                capability::ISR => &mut found.isr,
                capability::DEVICE => &mut found.device,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Region::read(config, function, at);
            }
        }
        Ok(found)
    }
}

/// A virtio device on PCI.
pub struct PciTransport<R, C> {
    pci: PciDevice<C>,
    regions: [Region; 4],
    common: R,
    notify: R,
    isr: R,
    device: R,
    notify_multiplier: u32,
    /// Time limit of a reset in nanoseconds.
    timeout: Nanoseconds,
    /// Offset of the queue's notification register, and the queue; set by `set_up_queue`.
    doorbell: usize,
    queue: u16,
}

impl<R: Registers, C: ConfigSpace> PciTransport<R, C> {
    /// Finds and maps the registers. Reads configuration space only, and writes nothing: another driver may
    /// be using the device. `device_least` is the required number of bytes of device configuration,
    /// `device_limit` the useful number.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is legacy or cannot be mapped, [`DeviceError::Protocol`] if
    /// its capabilities contradict the specification, [`DeviceError::Gone`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        device_least: u32,
        device_limit: u32,
    ) -> Result<PciTransport<R, C>, DeviceError> {
        let Access { config, mut map, timeout } = access;
        let pci = PciDevice::open(config, function, Command::MEMORY)?;
        let found = Found::look(pci.config(), &function)?;
        let (Some(common_at), Some(notify_at), Some(isr_at), Some(device_at)) =
            (found.common, found.notify, found.isr, found.device)
        else {
            return Err(DeviceError::Unsupported {
                what: "a modern virtio device (1.0 or later) with memory BARs, not a legacy one",
                value: function.device.into(),
            });
        };
        let multiplier_at = u16::from(notify_at.at).wrapping_add(capability::NOTIFY_MULTIPLIER);
        let common =
            common_at.map(&mut map, "its common configuration length", common::SIZE, common::SIZE)?;
        let notify = notify_at.map(&mut map, "its notification length", 2, NOTIFY_MAPPED)?;
        let isr = isr_at.map(&mut map, "its ISR length", 1, 1)?;
        let device =
            device_at.map(&mut map, "its device configuration length", device_least, device_limit)?;
        Ok(PciTransport {
            notify_multiplier: pci.config().read32(function.address, multiplier_at),
            pci,
            regions: [common_at, notify_at, isr_at, device_at],
            common,
            notify,
            isr,
            device,
            timeout,
            doorbell: 0,
            queue: 0,
        })
    }
}

impl<R: Registers, C: ConfigSpace> Transport for PciTransport<R, C> {
    fn number(&self) -> u64 {
        self.pci.number()
    }

    fn integrity(&self, digest: &mut Digest) {
        self.pci.integrity(digest);
        for region in &self.regions {
            region.integrity(digest);
        }
        for window in [&self.common, &self.notify, &self.isr, &self.device] {
            window.integrity(digest);
        }
        digest.number(self.notify_multiplier.into()).number(self.timeout);
    }

    fn place(&self, name: Name) -> Name {
        name.text(&self.pci.address().text())
    }

    fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    fn read_status(&self) -> u8 {
        self.common.read8(common::DEVICE_STATUS)
    }

    fn write_status(&self, status: u8) {
        self.common.write8(common::DEVICE_STATUS, status);
    }

    fn read_features(&self, half: u32) -> u32 {
        self.common.write32(common::DEVICE_FEATURE_SELECT, half);
        self.common.read32(common::DEVICE_FEATURE)
    }

    fn write_features(&self, half: u32, features: u32) {
        self.common.write32(common::DRIVER_FEATURE_SELECT, half);
        self.common.write32(common::DRIVER_FEATURE, features);
    }

    fn generation(&self) -> u32 {
        self.common.read8(common::CONFIG_GENERATION).into()
    }

    fn configuration32(&self, offset: usize) -> u32 {
        self.device.read32(offset)
    }

    fn queue_offer(&self, index: u16) -> Result<QueueOffer, DeviceError> {
        let queues = self.common.read16(common::NUM_QUEUES);
        if queues <= index {
            return Err(DeviceError::Protocol { what: "its number of queues", value: queues.into() });
        }
        self.common.write16(common::QUEUE_SELECT, index);
        let size = self.common.read16(common::QUEUE_SIZE);
        let notify_off = self.common.read16(common::QUEUE_NOTIFY_OFF);
        self.status()?;
        QueueOffer { index, size, notify_off }.checked()
    }

    fn set_up_queue(&mut self, offer: QueueOffer, size: u16, rings: &Rings) -> Result<(), DeviceError> {
        let doorbell = u64::from(offer.notify_off).wrapping_mul(self.notify_multiplier.into());
        let inside = doorbell.checked_add(2).is_some_and(|end| end <= self.notify.length() as u64);
        if !inside || doorbell & 1 != 0 {
            return Err(DeviceError::Protocol { what: "its notification offset", value: doorbell });
        }
        self.doorbell = doorbell as usize;
        self.queue = offer.index;
        self.common.write16(common::CONFIG_MSIX_VECTOR, common::NO_VECTOR);
        self.common.write16(common::QUEUE_SELECT, offer.index);
        self.common.write16(common::QUEUE_SIZE, size);
        self.common.write16(common::QUEUE_MSIX_VECTOR, common::NO_VECTOR);
        for (register, address) in [
            (common::QUEUE_DESC, rings.descriptors),
            (common::QUEUE_DRIVER, rings.driver),
            (common::QUEUE_DEVICE, rings.device),
        ] {
            // In two halves: a device need not accept 64-bit accesses (4.1.3.1).
            self.common.write32(register, address as u32);
            self.common.write32(register.wrapping_add(4), (address >> 32) as u32);
        }
        let taken = self.common.read16(common::QUEUE_SIZE);
        if taken != size {
            return Err(DeviceError::Protocol { what: "its queue size", value: taken.into() });
        }
        self.common.write16(common::QUEUE_ENABLE, 1);
        let enabled = self.common.read16(common::QUEUE_ENABLE);
        if enabled != 1 {
            return Err(DeviceError::Protocol { what: "its queue enable register", value: enabled.into() });
        }
        Ok(())
    }

    /// By 4.1.5.2.
    #[inline]
    fn notify(&self) {
        self.notify.write16(self.doorbell, self.queue);
    }

    fn health(&self) -> Health {
        self.pci.health()
    }

    fn health_in_use(&self) -> Health {
        self.pci.health_in_use()
    }

    fn explain_place(&self, error: DeviceError) -> DeviceError {
        self.pci.explain(error)
    }

    fn isolate(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.pci.isolate(wait)
    }

    fn enable_bus_master(&self) -> Result<(), DeviceError> {
        // The read acknowledges a pending interrupt (4.1.4.5).
        let _ = self.isr.read8(0);
        self.pci.enable_bus_master()
    }

    fn disable_bus_master(&self) -> Result<(), DeviceError> {
        self.pci.disable_bus_master()
    }

    fn check_present(&self) -> Result<(), DeviceError> {
        self.pci.function().check_present(self.pci.config())
    }
}

/// The machine's virtio device of one of these kinds number `index`, counted from 0 in bus order.
pub(super) fn find<C: ConfigSpace + ?Sized>(config: &C, devices: [u16; 2], index: usize) -> Option<Function> {
    functions(config).filter(|function| is_one_of(function, devices)).nth(index)
}

/// # Errors
/// [`DeviceError::Unsupported`], with `what` as the expected device, if the function is not a virtio device
/// of one of these kinds.
pub(super) fn check_kind(
    function: &Function,
    devices: [u16; 2],
    what: &'static str,
) -> Result<(), DeviceError> {
    if is_one_of(function, devices) {
        return Ok(());
    }
    let id = u32::from(function.vendor) << 16 | u32::from(function.device);
    Err(DeviceError::Unsupported { what, value: id.into() })
}

fn is_one_of(function: &Function, devices: [u16; 2]) -> bool {
    function.vendor == VENDOR && devices.contains(&function.device)
}

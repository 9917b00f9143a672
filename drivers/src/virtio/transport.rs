//! virtio over PCI, modern (virtio 1.2, 4.1): where the registers are, reset, negotiation, notification.

use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;

use crate::bus::pci::{Bar, CAPABILITY_VENDOR, Command, ConfigSpace, Function, PciDevice};
use crate::bus::registers::Registers;

/// PCI vendor of every virtio device.
pub const VENDOR: u16 = 0x1af4;

/// How often two reads around a changing configuration are repeated.
const CONFIG_TRIES: u32 = 16;

/// Bytes of the notification window that are mapped at most. Queue 0, the only one here, is near its start.
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
    /// In both vector registers: none.
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

bitflags::bitflags! {
    /// Device status (2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// Features are agreed upon.
        const FEATURES_OK = 8;
        /// The device has had an error it cannot recover from.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
        // What a device sets beyond the specification is shown as it is.
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Features that do not depend on the kind of device (6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Feature: u64 {
        /// The device is modern.
        const VERSION_1 = 1 << 32;
        /// The device's accesses go the platform's way: it is given bus addresses, which it is here anyway.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device needs the barriers of real hardware, which it gets here anyway.
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// A part of a memory BAR, as a virtio capability names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Region {
    bar: u8,
    bar_address: u64,
    address: u64,
    length: u32,
    /// Where the capability stands.
    at: u8,
}

impl Region {
    /// Reads the capability at `at`; `None` if it names something that cannot be used.
    fn read<C: ConfigSpace>(config: &C, function: &Function, at: u8) -> Option<Region> {
        let field = |offset: u16| u16::from(at).wrapping_add(offset);
        let bar = config.read8(function.address, field(capability::BAR));
        let offset = config.read32(function.address, field(capability::OFFSET));
        let length = config.read32(function.address, field(capability::LENGTH));
        // A device may offer the same structure twice, in ports and in memory. Memory is what we use.
        let Some(Bar::Memory { address: bar_address, .. }) = function.bar(config, bar) else { return None };
        let address = bar_address.checked_add(offset.into())?;
        address.checked_add(length.into())?;
        Some(Region { bar, bar_address, address, length, at })
    }

    /// Maps the first `limit` bytes of it, or fewer if it is smaller; at least `least` of them.
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

    fn seal(&self, digest: &mut Digest) {
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

/// What the device says of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueOffer {
    /// Descriptors at most; 0 if there is no such queue.
    pub size: u16,
    /// Which notification register is its own.
    pub notify_off: u16,
}

/// A virtio device on PCI: its registers, and how to silence and reset it.
pub struct Transport<R, C> {
    pci: PciDevice<C>,
    regions: [Region; 4],
    common: R,
    notify: R,
    isr: R,
    device: R,
    notify_multiplier: u32,
    /// Nanoseconds that a reset may take.
    timeout: Nanoseconds,
    /// Where queue 0 is notified; learned by `set_up_queue`.
    doorbell: usize,
}

impl<R: Registers, C: ConfigSpace> Transport<R, C> {
    /// Finds and maps the registers. Reads configuration space only, changes nothing: another driver may be using the
    /// device. `map` maps so many bytes at a physical address, uncached, for reading and writing.
    /// `device_least` is how many bytes of device configuration are needed, `device_limit` how many are of use.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is legacy or cannot be mapped, [`DeviceError::Protocol`] if its
    /// capabilities contradict the specification, [`DeviceError::Gone`].
    pub fn open(
        config: C,
        function: Function,
        mut map: impl FnMut(u64, usize) -> Option<R>,
        device_least: u32,
        device_limit: u32,
        timeout: Nanoseconds,
    ) -> Result<Transport<R, C>, DeviceError> {
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
        Ok(Transport {
            notify_multiplier: pci.config().read32(function.address, multiplier_at),
            pci,
            regions: [common_at, notify_at, isr_at, device_at],
            common,
            notify,
            isr,
            device,
            timeout,
            doorbell: 0,
        })
    }

    /// The function on the bus.
    pub fn pci(&self) -> &PciDevice<C> {
        &self.pci
    }

    /// Feeds everything that stays.
    pub fn seal(&self, digest: &mut Digest) {
        self.pci.seal(digest);
        for region in &self.regions {
            region.seal(digest);
        }
        for window in [&self.common, &self.notify, &self.isr, &self.device] {
            window.seal(digest);
        }
        digest.number(self.notify_multiplier.into()).number(self.timeout);
    }

    /// Device status.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] if it reads as all ones.
    pub fn status(&self) -> Result<Status, DeviceError> {
        match self.common.read8(common::DEVICE_STATUS) {
            u8::MAX => Err(DeviceError::Gone),
            status => Ok(Status::from_bits_retain(status)),
        }
    }

    fn add_status(&self, add: Status) -> Result<(), DeviceError> {
        let status = self.status()?.union(add);
        self.common.write8(common::DEVICE_STATUS, status.bits());
        Ok(())
    }

    /// A better reason for an error, if there is one: the function no longer answers, or the device has given up.
    pub fn explain(&self, error: DeviceError) -> DeviceError {
        match self.status() {
            Err(gone) => gone,
            Ok(status) if status.contains(Status::NEEDS_RESET) => {
                DeviceError::Status { what: "stay in operation", code: status.bits().into() }
            }
            Ok(_) => self.pci.explain(error),
        }
    }

    /// Takes the device over: silent, reset, and with access to memory again. What another driver had in flight will
    /// no longer reach memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::TimedOut`] if the reset does not end, [`DeviceError::Protocol`].
    pub fn take_over(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // Without bus mastering, nothing of the old driver's can arrive while the reset is under way.
        self.pci.silence(wait)?;
        self.reset(wait)?;
        // Reading acknowledges an interrupt that is still pending (4.1.4.5).
        let _ = self.isr.read8(0);
        self.pci.let_access_memory()
    }

    /// Resets the device and waits until it has (4.1.4.3.2: until the status reads 0).
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`].
    pub fn reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.common.write8(common::DEVICE_STATUS, 0);
        wait.until("a virtio reset", self.timeout, || match self.status() {
            Ok(status) if status.is_empty() => Some(Ok(())),
            Ok(_) => None,
            Err(gone) => Some(Err(gone)),
        })?
    }

    /// Leaves the device reset and unable to access memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`]; bus mastering is switched off even so.
    pub fn retire(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.pci.function().check_present(self.pci.config())?;
        let reset = self.reset(wait);
        self.pci.keep_from_memory()?;
        reset
    }

    /// Tells the device that the driver has given up, and keeps it from memory.
    pub fn give_up(&self) {
        // Nothing is left to do if even this fails.
        let _ = self.add_status(Status::FAILED);
        let _ = self.pci.keep_from_memory();
    }

    /// After a reset: greets the device and reads what it offers (3.1.1, steps 2 to 4).
    ///
    /// # Errors
    /// [`DeviceError::Gone`].
    pub fn offered_features(&self) -> Result<u64, DeviceError> {
        self.add_status(Status::ACKNOWLEDGE)?;
        self.add_status(Status::DRIVER)?;
        self.common.write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = self.common.read32(common::DEVICE_FEATURE);
        self.common.write32(common::DEVICE_FEATURE_SELECT, 1);
        let high = self.common.read32(common::DEVICE_FEATURE);
        self.status()?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Accepts features (3.1.1, steps 4 to 6).
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device does not agree, [`DeviceError::Gone`].
    pub fn accept_features(&self, features: u64) -> Result<(), DeviceError> {
        self.common.write32(common::DRIVER_FEATURE_SELECT, 0);
        self.common.write32(common::DRIVER_FEATURE, features as u32);
        self.common.write32(common::DRIVER_FEATURE_SELECT, 1);
        self.common.write32(common::DRIVER_FEATURE, (features >> 32) as u32);
        self.add_status(Status::FEATURES_OK)?;
        let status = self.status()?;
        if !status.contains(Status::FEATURES_OK) {
            return Err(DeviceError::Unsupported {
                what: "a device that accepts the features it offered",
                value: status.bits().into(),
            });
        }
        Ok(())
    }

    /// Reads device configuration with `read`, again if the device changed it meanwhile (2.5.1).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if it never settles.
    pub fn device_config<T>(&self, read: impl Fn(&R) -> T) -> Result<T, DeviceError> {
        for _ in 0..CONFIG_TRIES {
            let before = self.common.read8(common::CONFIG_GENERATION);
            let value = read(&self.device);
            let after = self.common.read8(common::CONFIG_GENERATION);
            if before == after {
                // All ones everywhere would agree too.
                self.status()?;
                return Ok(value);
            }
        }
        let generation = self.common.read8(common::CONFIG_GENERATION);
        Err(self.explain(DeviceError::Protocol {
            what: "its configuration generation, again and again,",
            value: generation.into(),
        }))
    }

    /// What the device offers as queue 0.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if it has no queue or one larger than 32768, [`DeviceError::Gone`].
    pub fn queue_offer(&self) -> Result<QueueOffer, DeviceError> {
        let queues = self.common.read16(common::NUM_QUEUES);
        if queues == 0 {
            return Err(DeviceError::Protocol { what: "its number of queues", value: 0 });
        }
        self.common.write16(common::QUEUE_SELECT, 0);
        let size = self.common.read16(common::QUEUE_SIZE);
        let notify_off = self.common.read16(common::QUEUE_NOTIFY_OFF);
        self.status()?;
        if size > 1 << 15 {
            return Err(DeviceError::Protocol { what: "its queue size", value: size.into() });
        }
        Ok(QueueOffer { size, notify_off })
    }

    /// Gives queue 0 its size and the bus addresses of its three parts, and enables it.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if the notification register is outside its window, or if size or enabling do not
    /// take; [`DeviceError::Gone`].
    pub fn set_up_queue(
        &mut self,
        offer: QueueOffer,
        size: u16,
        descriptors: u64,
        driver: u64,
        device: u64,
    ) -> Result<(), DeviceError> {
        let doorbell = u64::from(offer.notify_off).wrapping_mul(self.notify_multiplier.into());
        let inside = doorbell.checked_add(2).is_some_and(|end| end <= self.notify.length() as u64);
        if !inside || doorbell & 1 != 0 {
            return Err(DeviceError::Protocol { what: "its notification offset", value: doorbell });
        }
        self.doorbell = doorbell as usize;
        self.common.write16(common::CONFIG_MSIX_VECTOR, common::NO_VECTOR);
        self.common.write16(common::QUEUE_SELECT, 0);
        self.common.write16(common::QUEUE_SIZE, size);
        self.common.write16(common::QUEUE_MSIX_VECTOR, common::NO_VECTOR);
        for (register, address) in [
            (common::QUEUE_DESC, descriptors),
            (common::QUEUE_DRIVER, driver),
            (common::QUEUE_DEVICE, device),
        ] {
            // Two halves: a device need not take 64 bits at once (4.1.3.1).
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

    /// Starts the device (3.1.1, step 8).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Status`] if the device fails at once.
    pub fn start(&self) -> Result<(), DeviceError> {
        self.add_status(Status::DRIVER_OK)?;
        let status = self.status()?;
        if status.contains(Status::NEEDS_RESET) || !status.contains(Status::DRIVER_OK) {
            return Err(DeviceError::Status { what: "start", code: status.bits().into() });
        }
        Ok(())
    }

    /// Tells the device that queue 0 has something new (4.1.5.2).
    #[inline]
    pub fn notify(&self) {
        self.notify.write16(self.doorbell, 0);
    }
}

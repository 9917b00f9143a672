//! A virtio driver's interface to its device's bus: reset, negotiation, one queue, notification.
//!
//! A [`Transport`] provides the registers; this module uses them in the order that virtio 1.2 requires
//! (3.1.1).

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;

use crate::disk::Name;

/// Maximum number of retries for reading a changing configuration.
const CONFIG_TRIES: u32 = 16;

bitflags::bitflags! {
    /// Device status (2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver can drive the device.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// Feature negotiation is complete.
        const FEATURES_OK = 8;
        /// The device has had an unrecoverable error.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
        // Keep other bits for error messages.
        const _ = !0;
    }
}

impl Status {
    /// All bits defined by the specification.
    const NAMED: Status = Status::ACKNOWLEDGE
        .union(Status::DRIVER)
        .union(Status::DRIVER_OK)
        .union(Status::FEATURES_OK)
        .union(Status::NEEDS_RESET)
        .union(Status::FAILED);
}

bitflags::bitflags! {
    /// Features common to all kinds of devices (6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Feature: u64 {
        /// The device is modern.
        const VERSION_1 = 1 << 32;
        /// The device uses the platform's addresses: it gets bus addresses, as always here.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device needs the barriers of real hardware, which are always used here.
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// The device's offer of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueOffer {
    /// Index of the queue.
    pub index: u16,
    /// Maximum number of descriptors; 0 if there is no such queue.
    pub size: u16,
    /// On PCI, the index of its notification register.
    pub notify_off: u16,
}

impl QueueOffer {
    /// # Errors
    /// [`DeviceError::Protocol`] if it is larger than a queue can be (2.7).
    pub(super) fn checked(self) -> Result<QueueOffer, DeviceError> {
        if self.size > 1 << 15 {
            return Err(DeviceError::Protocol { what: "its queue size", value: self.size.into() });
        }
        Ok(self)
    }
}

/// Bus addresses of a queue's three parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings {
    /// The descriptors.
    pub descriptors: u64,
    /// The available ring, which the driver writes.
    pub driver: u64,
    /// The used ring, which the device writes.
    pub device: u64,
}

/// A virtio device on its bus.
pub trait Transport: Send {
    /// A number unique to this device: see
    /// [`DumpDevice::controller`](dumpcore::device::DumpDevice::controller).
    fn number(&self) -> u64;

    /// Feeds everything that must not change.
    fn integrity(&self, digest: &mut Digest);

    /// Appends the device's address, such as `00:04.0`, to its name.
    fn place(&self, name: Name) -> Name;

    /// Time limit of a reset in nanoseconds.
    fn timeout(&self) -> Nanoseconds;

    /// The status register; all ones if nothing answers.
    fn read_status(&self) -> u8;

    /// Writes the status register.
    fn write_status(&self, status: u8);

    /// One half of the offered features: features 0 to 31 if `half` is 0, 32 to 63 if it is 1.
    fn read_features(&self, half: u32) -> u32;

    /// Accepts one half of the features.
    fn write_features(&self, half: u32, features: u32);

    /// The configuration generation, which changes with the device's configuration.
    fn generation(&self) -> u32;

    /// Reads 32 bits of the device's own configuration; all ones beyond its end.
    fn configuration32(&self, offset: usize) -> u32;

    /// The device's offer of a queue.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if it has no such queue or one larger than 32768, [`DeviceError::Gone`].
    fn queue_offer(&self, index: u16) -> Result<QueueOffer, DeviceError>;

    /// Sets a queue's size and rings, and enables it. [`notify`](Transport::notify) then notifies this queue.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if its notification register is out of reach, or if its size cannot be set
    /// or it cannot be enabled; [`DeviceError::Gone`].
    fn set_up_queue(&mut self, offer: QueueOffer, size: u16, rings: &Rings) -> Result<(), DeviceError>;

    /// Notifies the device of new requests in the queue.
    fn notify(&self);

    /// The health of the device without reading its own registers.
    fn health(&self) -> Health;

    /// The health of a device in use by another driver: risky unless it is a bus master.
    fn health_in_use(&self) -> Health;

    /// Replaces an error by a better one if the device no longer answers, without reading its own registers.
    fn explain_place(&self, error: DeviceError) -> DeviceError;

    /// As far as the bus can: wakes the device, clears Bus Master Enable, and disables its interrupts. Next
    /// comes the reset, then [`enable_bus_master`](Transport::enable_bus_master).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::Protocol`] if something has moved or a write has no effect.
    fn isolate(&self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// After a reset: acknowledges a pending interrupt, and lets the device access memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the write has no effect.
    fn enable_bus_master(&self) -> Result<(), DeviceError>;

    /// Blocks the device's access to memory, if the bus can.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if the write has no effect.
    fn disable_bus_master(&self) -> Result<(), DeviceError>;

    /// Checks that the device is still there.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if there is another device.
    fn check_present(&self) -> Result<(), DeviceError>;

    /// Device status.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] if it reads as all ones.
    fn status(&self) -> Result<Status, DeviceError> {
        match self.read_status() {
            u8::MAX => Err(DeviceError::Gone),
            status => Ok(Status::from_bits_retain(status)),
        }
    }

    /// Sets bits of the device status.
    ///
    /// # Errors
    /// [`DeviceError::Gone`].
    fn add_status(&self, add: Status) -> Result<(), DeviceError> {
        // Without undefined bits: with all bits set, a device that is there would look like one that is gone.
        let status = self.status()?.intersection(Status::NAMED).union(add);
        self.write_status(status.bits());
        Ok(())
    }

    /// Replaces an error by a better one if the device no longer answers, or has failed.
    fn explain(&self, error: DeviceError) -> DeviceError {
        match self.status() {
            Err(gone) => gone,
            Ok(status) if status.contains(Status::NEEDS_RESET) => {
                DeviceError::Status { what: "stay in operation", code: status.bits().into() }
            }
            Ok(_) => self.explain_place(error),
        }
    }

    /// Takes the device over: isolates it, resets it, and enables its access to memory again. The old
    /// driver's DMA no longer reaches memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::TimedOut`] if the reset does not end, [`DeviceError::Protocol`].
    fn take_over(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // If the bus can block it, the old driver's DMA cannot arrive during the reset.
        self.isolate(wait)?;
        self.reset(wait)?;
        self.enable_bus_master()
    }

    /// Resets the device and waits for the end of the reset (4.1.4.3.2, 4.2.2.2: until the status reads 0).
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`].
    fn reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.write_status(0);
        wait.until("a virtio reset", self.timeout(), || match self.status() {
            Ok(status) if status.is_empty() => Some(Ok(())),
            Ok(_) => None,
            Err(gone) => Some(Err(gone)),
        })?
    }

    /// Leaves the device reset and unable to access memory.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`]; even so, its access to memory is blocked.
    fn retire(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.check_present()?;
        let reset = self.reset(wait);
        self.disable_bus_master()?;
        reset
    }

    /// Tells the device that the driver has given up, and blocks its access to memory.
    fn give_up(&self) {
        // Nothing is left to do if even this fails.
        let _ = self.add_status(Status::FAILED);
        let _ = self.disable_bus_master();
    }

    /// After a reset: acknowledges the device and reads its features (3.1.1, steps 2 to 4).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Unsupported`] if the device is not modern.
    fn offered_features(&self) -> Result<u64, DeviceError> {
        self.add_status(Status::ACKNOWLEDGE)?;
        self.add_status(Status::DRIVER)?;
        let low = self.read_features(0);
        let high = self.read_features(1);
        self.status()?;
        let offered = u64::from(high) << 32 | u64::from(low);
        if !Feature::from_bits_truncate(offered).contains(Feature::VERSION_1) {
            return Err(DeviceError::Unsupported { what: "virtio 1.0 or later", value: offered });
        }
        Ok(offered)
    }

    /// Accepts the common features among those offered, and `special` (3.1.1, steps 4 to 6).
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device rejects them, [`DeviceError::Gone`].
    fn accept_features(&self, offered: u64, special: u64) -> Result<(), DeviceError> {
        let features = Feature::from_bits_truncate(offered).bits() | special;
        self.write_features(0, features as u32);
        self.write_features(1, (features >> 32) as u32);
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

    /// Reads device configuration with `read`, and again if the device changed it meanwhile (2.5.1).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Protocol`] if it keeps changing.
    fn configuration<V>(&self, read: impl Fn(&Self) -> V) -> Result<V, DeviceError>
    where
        Self: Sized,
    {
        for _ in 0..CONFIG_TRIES {
            let before = self.generation();
            let value = read(self);
            let after = self.generation();
            if before == after {
                // All ones everywhere would also be consistent.
                self.status()?;
                return Ok(value);
            }
        }
        Err(self.explain(DeviceError::Protocol {
            what: "its configuration generation, again and again,",
            value: self.generation().into(),
        }))
    }

    /// Starts the device (3.1.1, step 8).
    ///
    /// # Errors
    /// [`DeviceError::Gone`], or [`DeviceError::Status`] if the device fails at once.
    fn start(&self) -> Result<(), DeviceError> {
        self.add_status(Status::DRIVER_OK)?;
        let status = self.status()?;
        if status.contains(Status::NEEDS_RESET) || !status.contains(Status::DRIVER_OK) {
            return Err(DeviceError::Status { what: "start", code: status.bits().into() });
        }
        Ok(())
    }
}

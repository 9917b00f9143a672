//! One channel of a controller: two devices share its registers, and one of them is selected.

use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, SECOND, Wait};

use crate::acs::{IDENTIFY_BYTES, Identity, code};
use crate::bus::registers::Registers;
use crate::disk::pio::DataPort;

/// Command block (ATA8-APT, 10): offsets of ports.
mod command_block {
    /// Data, 16 bits.
    pub(super) const DATA: usize = 0;
    /// Reads: error. Writes: features.
    pub(super) const ERROR: usize = 1;
    pub(super) const COUNT: usize = 2;
    pub(super) const LBA_LOW: usize = 3;
    pub(super) const LBA_MID: usize = 4;
    pub(super) const LBA_HIGH: usize = 5;
    pub(super) const DEVICE: usize = 6;
    /// Reads: status. Writes: command.
    pub(super) const COMMAND: usize = 7;
}

/// Ports in the command block.
pub(super) const COMMAND_PORTS: u16 = 8;
/// Ports in the control block: alternate status when read, device control when written.
pub(super) const CONTROL_PORTS: u16 = 1;

/// Device control: no interrupt.
const N_IEN: u8 = 1 << 1;
/// Device control: software reset of both devices.
const SRST: u8 = 1 << 2;

/// Device register: bits that were always ones, and are obsolete now.
const DEVICE_ONES: u8 = 1 << 7 | 1 << 5;
/// Device register: addresses are block numbers.
const DEVICE_LBA: u8 = 1 << 6;
/// Device register: the second device.
const DEVICE_SECOND: u8 = 1 << 4;

/// SRST stays set for so long at least (ATA8-APT, 12.3).
pub(super) const RESET_HELD: Nanoseconds = 5_000;
/// For so long after it, status says nothing.
pub(super) const RESET_QUIET: Nanoseconds = 2 * MILLISECOND;
/// So long a reset may take, by the standard: device 0 waits for device 1.
pub(super) const RESET_LONGEST: Nanoseconds = 31 * SECOND;

/// A device that says nothing at all may still do so within this time after a reset: what a channel is told is late in an
/// emulator that has much else to do.
const APPEARS: Nanoseconds = 500 * MILLISECOND;

bitflags::bitflags! {
    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u8 {
        /// The command failed; the error register says how.
        const ERR = 1 << 0;
        /// Data wait to be moved.
        const DRQ = 1 << 3;
        /// The device has a fault.
        const DF = 1 << 5;
        /// The device takes commands.
        const DRDY = 1 << 6;
        /// The device is busy; no other bit counts.
        const BSY = 1 << 7;
        const _ = !0;
    }
}

impl Status {
    /// Whether nobody drives the bus: pulled up, or, as the standard has it, with a pull-down on bit 7.
    pub(super) fn floats(self) -> bool {
        matches!(self.bits(), 0xff | 0x7f)
    }
}

/// What a device left in its registers after a reset (ATA8-ACS, 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signature {
    /// A disk.
    Ata,
    /// A device that takes packets, such as a CD drive.
    Atapi,
    /// Nobody.
    None,
}

/// A command with where it works.
#[derive(Clone, Copy)]
pub(super) struct Command {
    pub(super) code: u8,
    /// First sector.
    pub(super) lba: u64,
    /// Sectors, or another number that the command takes.
    pub(super) count: u32,
    /// Addresses have 48 bits.
    pub(super) lba48: bool,
}

/// A channel's registers.
pub(super) struct Channel<R> {
    command: R,
    control: R,
}

impl<R: Registers> Channel<R> {
    pub(super) fn new(command: R, control: R) -> Channel<R> {
        Channel { command, control }
    }

    pub(super) fn integrity(&self, digest: &mut Digest) {
        self.command.integrity(digest);
        self.control.integrity(digest);
    }

    /// Alternate status: reading it changes nothing.
    pub(super) fn status(&self) -> Status {
        Status::from_bits_retain(self.control.read8(0))
    }

    /// The error register, which counts when status says [`Status::ERR`].
    pub(super) fn error(&self) -> u8 {
        self.command.read8(command_block::ERROR)
    }

    /// The status as an error: its byte, and below it that of the error register.
    pub(super) fn failure(&self, what: &'static str, status: Status) -> DeviceError {
        DeviceError::Status { what, code: u32::from(status.bits()) << 8 | u32::from(self.error()) }
    }

    /// 400 ns pass, in which status is not valid yet (ATA8-APT, 8.2): no access to these ports takes less than 100.
    pub(super) fn settle(&self) {
        for _ in 0..4 {
            let _ = self.control.read8(0);
        }
    }

    /// Sets SRST. No interrupt comes from now on.
    pub(super) fn assert_reset(&self) {
        self.control.write8(0, N_IEN | SRST);
    }

    /// Clears SRST.
    pub(super) fn release_reset(&self) {
        self.control.write8(0, N_IEN);
    }

    /// Resets both devices, and waits at most `limit` nanoseconds for the first. Without a first one it does not wait.
    ///
    /// # Errors
    /// [`DeviceError::TimedOut`].
    pub(super) fn reset(&self, limit: Nanoseconds, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.assert_reset();
        wait.pause(RESET_HELD);
        self.release_reset();
        wait.pause(RESET_QUIET);
        self.quiet("an ATA reset", limit, wait)
    }

    /// Waits until nobody who is selected is busy. Without anybody it does not wait.
    ///
    /// # Errors
    /// [`DeviceError::TimedOut`].
    pub(super) fn quiet(
        &self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        Ok(wait.until(what, limit, || self.is_quiet().then_some(()))?)
    }

    /// Whether nobody who is selected is busy.
    pub(super) fn is_quiet(&self) -> bool {
        let status = self.status();
        status.floats() || !status.contains(Status::BSY)
    }

    /// Selects device 0 or 1. Whoever is selected before must not be busy.
    pub(super) fn select(&self, device: u8) {
        self.command.write8(command_block::DEVICE, device_bits(device));
        self.settle();
    }

    /// Waits until the selected device is not busy.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`].
    pub(super) fn idle(
        &self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Status, DeviceError> {
        wait.until(what, limit, || match self.status() {
            status if status.floats() => Some(Err(DeviceError::Gone)),
            status if status.contains(Status::BSY) => None,
            status => Some(Ok(status)),
        })?
    }

    /// The selected device's signature. Only after a reset.
    pub(super) fn signature(&self) -> Signature {
        let status = self.status();
        if status.is_empty() || status.floats() {
            return Signature::None;
        }
        let mid = self.command.read8(command_block::LBA_MID);
        let high = self.command.read8(command_block::LBA_HIGH);
        match (mid, high) {
            // The latter is that of a disk that is a serial one at heart.
            (0, 0) | (0x3c, 0xc3) => Signature::Ata,
            (0x14, 0xeb) | (0x69, 0x96) => Signature::Atapi,
            _ => Signature::None,
        }
    }

    /// Gives the device, which is the one selected, a command.
    pub(super) fn issue(&self, device: u8, command: Command) {
        let Command { code, lba, count, lba48 } = command;
        let byte = |shift: u32| (lba >> shift) as u8;
        let mut select = device_bits(device);
        if lba48 {
            // The upper bytes go first; each register keeps the last two.
            self.task_file((count >> 8) as u8, byte(24), byte(32), byte(40));
        } else {
            select |= byte(24) & 0xf;
        }
        self.task_file(count as u8, byte(0), byte(8), byte(16));
        self.command.write8(command_block::DEVICE, select);
        self.command.write8(command_block::COMMAND, code);
        self.settle();
    }

    fn task_file(&self, count: u8, low: u8, mid: u8, high: u8) {
        self.command.write8(command_block::ERROR, 0);
        self.command.write8(command_block::COUNT, count);
        self.command.write8(command_block::LBA_LOW, low);
        self.command.write8(command_block::LBA_MID, mid);
        self.command.write8(command_block::LBA_HIGH, high);
    }

    /// Asks a device what it is; `None` if it is not there, or not a disk. The answer goes into `answer`.
    ///
    /// # Errors
    /// Why it cannot be used, or was not told in time.
    pub(super) fn identify(
        &self,
        device: u8,
        answer: &mut [u8],
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Option<Identity>, DeviceError> {
        self.quiet("an ATA device at rest", limit, wait)?;
        let appeared = wait.until("an ATA device", limit.min(APPEARS), || {
            self.select(device);
            let status = self.status();
            (!status.is_empty()).then(|| !status.floats())
        });
        if appeared != Ok(true) {
            return Ok(None);
        }
        self.idle("an ATA device at rest", limit, wait)?;
        if self.signature() != Signature::Ata {
            return Ok(None);
        }
        self.issue(device, Command { code: code::IDENTIFY_DEVICE, lba: 0, count: 0, lba48: false });
        let status = self.idle("an ATA IDENTIFY", limit, wait)?;
        if status.intersects(Status::ERR | Status::DF) {
            return Err(self.failure("identify itself", status));
        }
        if !status.contains(Status::DRQ) {
            let value = status.bits().into();
            return Err(DeviceError::Protocol { what: "its status with data to come", value });
        }
        let answer = answer.get_mut(..IDENTIFY_BYTES).unwrap_or_default();
        self.read_data(answer);
        self.settle();
        self.idle("an ATA device at rest", limit, wait)?;
        let (words, _) = answer.as_chunks::<2>();
        Identity::read(|word| words.get(word).map_or(0, |bytes| u16::from_le_bytes(*bytes))).map(Some)
    }

    /// Has so many sectors moved together between two looks at the status. Gives how many those are now: 1 if the disk
    /// does not do it.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`].
    pub(super) fn set_multiple(
        &self,
        device: u8,
        count: usize,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<usize, DeviceError> {
        let set = Command { code: code::SET_MULTIPLE_MODE, lba: 0, count: count as u32, lba48: false };
        self.issue(device, set);
        let status = self.idle("an ATA SET MULTIPLE MODE", limit, wait)?;
        Ok(if status.intersects(Status::ERR | Status::DF) { 1 } else { count })
    }
}

impl<R: Registers> DataPort for Channel<R> {
    fn read_data(&self, bytes: &mut [u8]) {
        self.command.read16s(command_block::DATA, bytes);
    }

    fn write_data(&self, bytes: &[u8]) {
        self.command.write16s(command_block::DATA, bytes);
    }
}

fn device_bits(device: u8) -> u8 {
    DEVICE_ONES | DEVICE_LBA | if device == 0 { 0 } else { DEVICE_SECOND }
}

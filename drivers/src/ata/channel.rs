//! One channel of a controller: two devices share its registers; one of them is selected.

use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, SECOND, Wait};

use crate::acs::{IDENTIFY_BYTES, Identity, code};
use crate::bus::registers::Registers;
use crate::disk::pio::DataPort;

/// Command block (ATA8-APT, 10): port offsets.
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

/// Number of ports in the command block.
pub(super) const COMMAND_PORTS: u16 = 8;
/// Number of ports in the control block: reads return the alternate status, writes go to device control.
pub(super) const CONTROL_PORTS: u16 = 1;

/// Device control: no interrupt.
const N_IEN: u8 = 1 << 1;
/// Device control: software reset of both devices.
const SRST: u8 = 1 << 2;

/// Device register: obsolete bits, which must be ones for old devices.
const DEVICE_ONES: u8 = 1 << 7 | 1 << 5;
/// Device register: LBA addressing.
const DEVICE_LBA: u8 = 1 << 6;
/// Device register: device 1.
const DEVICE_SECOND: u8 = 1 << 4;

/// Minimum time that SRST stays set (ATA8-APT, 12.3).
pub(super) const RESET_HELD: Nanoseconds = 5_000;
/// Time after the reset during which the status is not valid.
pub(super) const RESET_QUIET: Nanoseconds = 2 * MILLISECOND;
/// Time limit of a reset by the standard: device 0 waits for device 1.
pub(super) const RESET_LONGEST: Nanoseconds = 31 * SECOND;

/// After a reset, a silent device may still appear within this time: a busy emulator handles register writes
/// late.
const APPEARS: Nanoseconds = 500 * MILLISECOND;

bitflags::bitflags! {
    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u8 {
        /// The command failed; see the error register.
        const ERR = 1 << 0;
        /// A data transfer is pending.
        const DRQ = 1 << 3;
        /// Device fault.
        const DF = 1 << 5;
        /// The device accepts commands.
        const DRDY = 1 << 6;
        /// The device is busy; the other bits are not valid.
        const BSY = 1 << 7;
        const _ = !0;
    }
}

impl Status {
    /// Whether no device drives the bus: pulled up, or as in the standard with a pull-down on bit 7.
    pub(super) fn floats(self) -> bool {
        matches!(self.bits(), 0xff | 0x7f)
    }
}

/// A device's signature in its registers after a reset (ATA8-ACS, 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signature {
    /// A disk.
    Ata,
    /// An ATAPI device, such as a CD drive.
    Atapi,
    /// No device.
    None,
}

/// A command with its parameters.
#[derive(Clone, Copy)]
pub(super) struct Command {
    pub(super) code: u8,
    /// First sector.
    pub(super) lba: u64,
    /// Sectors, or another parameter of the command.
    pub(super) count: u32,
    /// The command uses 48-bit addresses.
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

    /// The alternate status: reading it has no side effects.
    pub(super) fn status(&self) -> Status {
        Status::from_bits_retain(self.control.read8(0))
    }

    /// The error register, valid if the status has [`Status::ERR`].
    pub(super) fn error(&self) -> u8 {
        self.command.read8(command_block::ERROR)
    }

    /// The status as an error: status byte in bits 8 to 15, error register in bits 0 to 7.
    pub(super) fn failure(&self, what: &'static str, status: Status) -> DeviceError {
        DeviceError::Status { what, code: u32::from(status.bits()) << 8 | u32::from(self.error()) }
    }

    /// Waits the 400 ns until the status is valid (ATA8-APT, 8.2): an access to these ports takes at least
    /// 100 ns.
    pub(super) fn settle(&self) {
        for _ in 0..4 {
            let _ = self.control.read8(0);
        }
    }

    /// Sets SRST. Disables interrupts from now on.
    pub(super) fn assert_reset(&self) {
        self.control.write8(0, N_IEN | SRST);
    }

    /// Clears SRST.
    pub(super) fn release_reset(&self) {
        self.control.write8(0, N_IEN);
    }

    /// Resets both devices, and waits at most `limit` nanoseconds for device 0. Does not wait if there is
    /// none.
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

    /// Waits until the selected device is not busy. Does not wait if there is none.
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

    /// Whether the selected device is not busy, or absent.
    pub(super) fn is_quiet(&self) -> bool {
        let status = self.status();
        status.floats() || !status.contains(Status::BSY)
    }

    /// Selects device 0 or 1. The device selected before must not be busy.
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

    /// The selected device's signature. Valid only after a reset.
    pub(super) fn signature(&self) -> Signature {
        let status = self.status();
        if status.is_empty() || status.floats() {
            return Signature::None;
        }
        let mid = self.command.read8(command_block::LBA_MID);
        let high = self.command.read8(command_block::LBA_HIGH);
        match (mid, high) {
            // The second is a Serial ATA disk's.
            (0, 0) | (0x3c, 0xc3) => Signature::Ata,
            (0x14, 0xeb) | (0x69, 0x96) => Signature::Atapi,
            _ => Signature::None,
        }
    }

    /// Issues a command to the selected device, `device`.
    pub(super) fn issue(&self, device: u8, command: Command) {
        let Command { code, lba, count, lba48 } = command;
        let byte = |shift: u32| (lba >> shift) as u8;
        let mut select = device_bits(device);
        if lba48 {
            // The upper bytes first; each register keeps the last two bytes.
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

    /// Identifies a device; `None` if it is absent or not a disk. The response goes into `answer`.
    ///
    /// # Errors
    /// Why it cannot be used, or that it did not answer in time.
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

    /// Sets the number of sectors per data block of READ and WRITE MULTIPLE. Returns the number now in
    /// effect: 1 if the disk refuses.
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

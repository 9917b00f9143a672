//! The virtio SCSI host (virtio 1.2, 5.6), and a disk on it for dumps.
//!
//! Commands are those of SPC-4 and SBC-3. The control and event queues stay disabled: only a reset ever
//! aborts commands, and every relevant event also arrives as a unit attention.
//!
//! One file: the commands and their responses are one protocol, and each is a few lines.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;
use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::disk::{self, Answer, Disk, Limits, OnMmio, OnPci, Order, Protocol, Verdict};
use super::mmio::{self, MmioSlot, MmioTransport};
use super::pci::PciTransport;
use super::sense::{Action, Failure, Sense, Words};
use super::transport::{Kind, Transport};
use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::{PolledDisk as _, Unit};

/// A SCSI disk on a virtio host on PCI. About 12 KiB of arena.
///
/// ```
/// use dump_drivers::bus::pci::ConfigSpace;
/// use dump_drivers::virtio::scsi;
/// use dump_drivers::{Access, Mmio, VirtioScsi};
/// use dumpcore::{Arena, Error};
///
/// /// The first disk of the first virtio SCSI host.
/// fn open<C: ConfigSpace>(
///     config: C,
///     map: fn(u64, usize) -> Option<Mmio>,
///     arena: &mut Arena<'_>,
/// ) -> Result<VirtioScsi<Mmio, C>, Error> {
///     let function = scsi::find(&config, 0).ok_or(Error::NoDisk)?;
///     Ok(VirtioScsi::open(Access::new(config, map), function, None, arena)?)
/// }
/// ```
pub type VirtioScsi<R, C> = Disk<PciTransport<R, C>, Scsi>;
/// A SCSI disk on a virtio host on MMIO. About 12 KiB of arena.
pub type VirtioScsiMmio<R> = Disk<MmioTransport<R>, Scsi>;

/// The driver behind PCI.
pub type Pci = OnPci<Scsi>;
/// The driver behind MMIO.
pub type Mmio = OnMmio<Scsi>;

/// A SCSI host (5.6).
const DEVICE: Kind = Kind {
    id: 8,
    pci: [0x1048, 0x1004],
    what: "a virtio SCSI host",
    least: configuration::SIZE,
    size: configuration::SIZE,
};

/// Device configuration (5.6.4).
mod configuration {
    /// Maximum number of data segments per command.
    pub(super) const SEG_MAX: usize = 4;
    /// Maximum number of 512-byte sectors per transfer: a hint.
    pub(super) const MAX_SECTORS: usize = 8;
    /// Maximum number of commands in flight for a disk: a hint.
    pub(super) const CMD_PER_LUN: usize = 12;
    /// Bytes of sense data in a response.
    pub(super) const SENSE_SIZE: usize = 20;
    /// Bytes of a command descriptor block.
    pub(super) const CDB_SIZE: usize = 24;
    /// The largest channel, 16 bits, and the largest target, 16 bits.
    pub(super) const MAX_CHANNEL_AND_TARGET: usize = 28;
    /// The largest logical unit number.
    pub(super) const MAX_LUN: usize = 32;
    pub(super) const SIZE: u32 = 36;
}

/// Sizes of sense data and command descriptor blocks after a reset (5.6.4).
const SENSE_SIZE: u32 = 96;
const CDB_SIZE: u32 = 32;

/// Maximum number of 512-byte sectors per transfer for a host that does not report one; all known hosts
/// accept this.
const USUAL_SECTORS: u32 = 0xffff;

/// The header of every command (5.6.6.1).
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    lun: [u8; 8],
    /// The driver's own id, unique while in flight.
    id: [u8; 8],
    task_attribute: u8,
    priority: u8,
    crn: u8,
    /// Command descriptor block.
    cdb: [u8; 16],
    rest: [u8; 16],
}
const_assert_eq!(size_of::<Header>(), 51);

/// The response to every command (5.6.6.1).
pub(super) mod response {
    /// Bytes of sense data present, 32 bits.
    pub(in super::super) const SENSE_LENGTH: usize = 0;
    /// Bytes of data that were not transferred, 32 bits.
    pub(in super::super) const RESIDUAL: usize = 4;
    /// SCSI status.
    pub(in super::super) const STATUS: usize = 10;
    /// Virtio response: the outcome of delivering the command.
    pub(in super::super) const RESPONSE: usize = 11;
    pub(in super::super) const SENSE: usize = 12;
    pub(in super::super) const SIZE: usize = 12 + super::SENSE_SIZE as usize;
    /// Initial value, before the device writes its response.
    pub(in super::super) const UNWRITTEN: u8 = 0xff;
}

/// Operation codes (SPC-4, SBC-3).
mod operation {
    pub(super) const TEST_UNIT_READY: u8 = 0x00;
    pub(super) const INQUIRY: u8 = 0x12;
    pub(super) const MODE_SENSE_6: u8 = 0x1a;
    pub(super) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub(super) const READ_16: u8 = 0x88;
    pub(super) const WRITE_16: u8 = 0x8a;
    pub(super) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    /// READ CAPACITY (16) is this service action of the previous one.
    pub(super) const READ_CAPACITY_16: u8 = 0x10;
    pub(super) const REPORT_LUNS: u8 = 0xa0;
}

/// Maximum number of logical units per target to check, if no disk was named.
const LISTED: usize = 63;
/// Location of the response to REPORT LUNS, and its length: eight bytes, and eight per unit.
const LIST: Answer = Answer { offset: 0, length: 8 + LISTED * 8 };
/// Location of the other responses, and the length of the longest.
const ANSWER: Answer = Answer { offset: LIST.length.next_multiple_of(64), length: 36 };

/// Lengths of the responses to INQUIRY (standard data), MODE SENSE (header), READ CAPACITY.
const INQUIRY_BYTES: u8 = 36;
const MODE_BYTES: u8 = 4;
const CAPACITY_BYTES: u8 = 32;

/// Maximum number of TEST UNIT READY commands until one succeeds, with a pause between them.
const READY_TRIES: u32 = 32;

/// A logical unit of a SCSI host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lun {
    target: u8,
    lun: u16,
}

impl Lun {
    /// Target 0 to 255, logical unit number 0 to 16383; `None` if out of range.
    pub const fn new(target: u8, lun: u16) -> Option<Lun> {
        if lun < 1 << 14 { Some(Lun { target, lun }) } else { None }
    }

    /// The target, 0 to 255.
    pub const fn target(self) -> u8 {
        self.target
    }

    /// The logical unit number, 0 to 16383.
    pub const fn lun(self) -> u16 {
        self.lun
    }

    /// In virtio's encoding (5.6.6.1): 1, the target, and the number in flat space format.
    const fn address(self) -> [u8; 8] {
        [1, self.target, 0x40 | (self.lun >> 8) as u8, self.lun as u8, 0, 0, 0, 0]
    }
}

impl From<Lun> for Unit {
    fn from(Lun { target, lun }: Lun) -> Unit {
        Unit { number: target.into(), lun: lun.into() }
    }
}

impl Lun {
    fn of(unit: Unit) -> Option<Lun> {
        Lun::new(u8::try_from(unit.number).ok()?, u16::try_from(unit.lun).ok()?)
    }
}

/// The PCI bus's virtio SCSI host number `index`, counted from 0 in bus order.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    disk::find::<Scsi>(config, index)
}

/// The virtio SCSI host number `index`, counted from 0, among the MMIO windows at these physical addresses.
/// `map` maps a number of bytes at a physical address, uncached, readable and writable, on every CPU and
/// permanently. Empty windows are skipped.
pub fn find_mmio<R: Registers>(
    windows: impl IntoIterator<Item = u64>,
    map: impl FnMut(u64, usize) -> Option<R>,
    index: usize,
) -> Option<MmioSlot<R>> {
    mmio::find(windows, map, DEVICE.id, index)
}

impl<R: Registers, C: ConfigSpace> VirtioScsi<R, C> {
    /// Probes a virtio SCSI host and takes its memory from the arena. Does not write to the device.
    ///
    /// `disk` is the disk on it: `None` means the first one that [`quiesce`](dumpcore::DumpDevice::quiesce)
    /// finds, in the order of targets and of their lists of units (the first 63 of each), and the same one
    /// from then on. Its size is not known before. The search may take as long as a request.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not a virtio SCSI host, is legacy, cannot be mapped, or
    /// does not decode memory; [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities are
    /// inconsistent; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        disk: Option<Lun>,
        arena: &mut Arena<'_>,
    ) -> Result<VirtioScsi<R, C>, DeviceError> {
        Disk::open_pci(access, function, disk.map(Unit::from), arena)
    }
}

impl<R: Registers> VirtioScsiMmio<R> {
    /// As [`VirtioScsi::open`], for a window from [`find_mmio`].
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not a virtio SCSI host, or is legacy;
    /// [`DeviceError::Gone`]; [`DeviceError::OutOfArena`].
    pub fn open_mmio(
        slot: MmioSlot<R>,
        disk: Option<Lun>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<VirtioScsiMmio<R>, DeviceError> {
        Disk::open_window(slot, disk.map(Unit::from), arena, request_timeout)
    }
}

/// Commands other than transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScsiCommand {
    /// REPORT LUNS: the logical units of a target.
    ReportLuns,
    /// INQUIRY: the type of a logical unit.
    Inquiry,
    /// TEST UNIT READY: whether it can be used.
    TestUnitReady,
    /// MODE SENSE: whether it can be written.
    ModeSense,
    /// READ CAPACITY: its size.
    ReadCapacity,
    /// Flush the cache.
    SynchronizeCache,
}

/// The protocol of a disk on a virtio SCSI host.
#[derive(Debug)]
pub struct Scsi {
    /// The disk that was named.
    named: Option<Lun>,
    /// The disk, once found.
    found: Option<Lun>,
    /// The logical unit that commands are sent to.
    at: Lun,
    /// The host's largest target and logical unit number.
    largest: Lun,
    /// Latest size in blocks of 4096 bytes.
    blocks: Option<u64>,
    /// The disk's own blocks per 4096 bytes.
    parts: u32,
}

/// The host's first unit.
const FIRST: Lun = Lun { target: 0, lun: 0 };

impl Scsi {
    /// The command descriptor block for an order: 16 bytes, the first in the highest bits.
    fn block(&self, order: Order<ScsiCommand>) -> u128 {
        // An 8-bit opcode, and a byte at an offset.
        let begin = |code: u8| u128::from(code) << 120;
        let byte = |at: u32, value: u8| u128::from(value) << 120_u32.saturating_sub(at.saturating_mul(8));
        match order {
            Order::Transfer { direction, block, bytes } => {
                let code = match direction {
                    Direction::Read => operation::READ_16,
                    Direction::Write => operation::WRITE_16,
                };
                let first = block.wrapping_mul(self.parts.into());
                let count = (bytes / BLOCK_SIZE) as u32;
                let count = count.wrapping_mul(self.parts);
                begin(code) | u128::from(first) << 48 | u128::from(count) << 16
            }
            Order::Command(ScsiCommand::ReportLuns) => {
                begin(operation::REPORT_LUNS) | u128::from(LIST.length as u32) << 48
            }
            Order::Command(ScsiCommand::Inquiry) => begin(operation::INQUIRY) | byte(4, INQUIRY_BYTES),
            Order::Command(ScsiCommand::TestUnitReady) => begin(operation::TEST_UNIT_READY),
            // All pages, without block descriptors; but only the header.
            Order::Command(ScsiCommand::ModeSense) => {
                begin(operation::MODE_SENSE_6) | byte(1, 0x08) | byte(2, 0x3f) | byte(4, MODE_BYTES)
            }
            Order::Command(ScsiCommand::ReadCapacity) => {
                begin(operation::SERVICE_ACTION_IN_16)
                    | byte(1, operation::READ_CAPACITY_16)
                    | byte(13, CAPACITY_BYTES)
            }
            // Zero blocks from the first on, which means all.
            Order::Command(ScsiCommand::SynchronizeCache) => begin(operation::SYNCHRONIZE_CACHE_10),
        }
    }
}

impl Protocol for Scsi {
    type Command = ScsiCommand;

    const DEVICE: Kind = DEVICE;
    const KIND: &'static str = "virtio-scsi";
    const READ: &'static str = "a virtio-scsi read";
    const WRITE: &'static str = "a virtio-scsi write";
    /// After the control queue and the event queue.
    const QUEUE: u16 = 2;
    const HEADER: usize = size_of::<Header>();
    const FOOTER: usize = response::SIZE;
    const ANSWERS: usize = ANSWER.offset + ANSWER.length;
    const FOOTER_FIRST: bool = true;
    const FLUSH: ScsiCommand = ScsiCommand::SynchronizeCache;

    fn new(_: &impl Transport, unit: Option<Unit>) -> Result<Scsi, DeviceError> {
        let wrong = |unit: Unit| DeviceError::Unsupported { what: "a SCSI unit", value: unit.lun.into() };
        let named = unit.map(|unit| Lun::of(unit).ok_or(wrong(unit))).transpose()?;
        Ok(Scsi { named, found: None, at: FIRST, largest: FIRST, blocks: None, parts: 1 })
    }

    fn blocks(&self) -> Option<u64> {
        self.blocks
    }

    fn sector_size(&self) -> Option<u32> {
        self.blocks.and_then(|_| (BLOCK_SIZE as u32).checked_div(self.parts))
    }

    fn integrity(&self, digest: &mut Digest) {
        let named = self.named.unwrap_or(FIRST);
        digest.number(self.named.is_some().into()).number(named.target.into()).number(named.lun.into());
    }

    fn negotiate(&mut self, transport: &impl Transport) -> Result<Limits, DeviceError> {
        let offered = transport.offered_features()?;
        // No optional feature is needed: each command only reads or only writes, and no disk is added or
        // removed during a dump.
        transport.accept_features(offered, 0)?;
        let (sense, cdb) = transport.configuration(|device| {
            (
                device.configuration32(configuration::SENSE_SIZE),
                device.configuration32(configuration::CDB_SIZE),
            )
        })?;
        if sense != SENSE_SIZE {
            return Err(DeviceError::Protocol { what: "its size of sense data", value: sense.into() });
        }
        if cdb != CDB_SIZE {
            return Err(DeviceError::Protocol { what: "its size of commands", value: cdb.into() });
        }
        let (seg_max, max_sectors, most, target, lun) = transport.configuration(|device| {
            (
                device.configuration32(configuration::SEG_MAX),
                device.configuration32(configuration::MAX_SECTORS),
                device.configuration32(configuration::CMD_PER_LUN),
                device.configuration32(configuration::MAX_CHANNEL_AND_TARGET) >> 16,
                device.configuration32(configuration::MAX_LUN),
            )
        })?;
        self.largest = Lun { target: target.min(0xff) as u8, lun: lun.min(0x3fff) as u16 };
        Ok(Limits {
            // Only the command tells whether there is a cache.
            flush: true,
            size_max: u32::MAX,
            // In all three, 0 means no limit from the host: assume at least one piece, and one command at a
            // time; for sectors, the usual limit.
            seg_max: seg_max.max(1),
            round: (if max_sectors == 0 { USUAL_SECTORS } else { max_sectors } as usize).saturating_mul(512),
            most: most.clamp(1, u16::MAX.into()) as u16,
        })
    }

    #[inline(never)]
    fn explore<T: Transport>(disk: &mut Disk<T, Scsi>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        find_disk(disk, wait)?;
        become_ready(disk, wait)?;
        check_writable(disk, wait)?;
        read_capacity(disk, wait)
    }

    fn called(command: ScsiCommand) -> &'static str {
        match command {
            ScsiCommand::ReportLuns => "a list of SCSI units",
            ScsiCommand::Inquiry => "a SCSI inquiry",
            ScsiCommand::TestUnitReady => "a SCSI test",
            ScsiCommand::ModeSense => "a SCSI mode sense",
            ScsiCommand::ReadCapacity => "a SCSI read capacity",
            ScsiCommand::SynchronizeCache => "a virtio-scsi flush",
        }
    }

    fn answer(command: ScsiCommand) -> Answer {
        let length = match command {
            ScsiCommand::ReportLuns => return LIST,
            ScsiCommand::Inquiry => INQUIRY_BYTES,
            ScsiCommand::ModeSense => MODE_BYTES,
            ScsiCommand::ReadCapacity => CAPACITY_BYTES,
            ScsiCommand::TestUnitReady | ScsiCommand::SynchronizeCache => 0,
        };
        Answer { offset: ANSWER.offset, length: length.into() }
    }

    fn prepare(&self, order: Order<ScsiCommand>, requests: &mut Shared, header: usize, footer: usize) {
        let content = Header {
            lun: self.at.address(),
            // The header's offset: no other command in flight has the same.
            id: (header as u64).to_le_bytes(),
            // Simple: in any order.
            task_attribute: 0,
            priority: 0,
            crn: 0,
            cdb: self.block(order).to_be_bytes(),
            rest: [0; 16],
        };
        requests.write(header, content);
        requests.write(footer.wrapping_add(response::RESPONSE), response::UNWRITTEN);
    }

    fn judge(&self, order: Order<ScsiCommand>, requests: &Shared, footer: usize, written: u32) -> Verdict {
        let (words, data, comes_in) = match order {
            Order::Transfer { direction: Direction::Read, bytes, .. } => (Words::Read, bytes, true),
            Order::Transfer { direction: Direction::Write, bytes, .. } => (Words::Write, bytes, false),
            Order::Command(ScsiCommand::SynchronizeCache) => (Words::Flush, 0, false),
            Order::Command(command) => (Words::Answer, Scsi::answer(command).length, true),
        };
        // Hosts count differently, but no more can go to memory than there is room for.
        if comes_in && written as usize > data.saturating_add(response::SIZE) {
            // If so, memory around the buffer cannot be trusted.
            return Verdict::Fatal(DeviceError::Protocol {
                what: "its length written",
                value: written.into(),
            });
        }
        let word = |at: usize| requests.read::<u32>(footer.wrapping_add(at)).map_or(u32::MAX, u32::from_le);
        let byte = |at: usize| requests.read::<u8>(footer.wrapping_add(at)).unwrap_or(u8::MAX);
        let residual = word(response::RESIDUAL);
        let failure = match (byte(response::RESPONSE), byte(response::STATUS)) {
            (0, Failure::CHECK_CONDITION) => {
                let length = word(response::SENSE_LENGTH).min(SENSE_SIZE) as usize;
                let sense = |at: usize| byte(response::SENSE.wrapping_add(at));
                Failure::Sense(Sense::decode(length, sense))
            }
            (0, Failure::GOOD) => Failure::None,
            (0, status) => Failure::Status(status),
            (response, _) => Failure::Response(response),
        };
        let flush = matches!(order, Order::Command(ScsiCommand::SynchronizeCache));
        let error = || failure.error(words);
        match failure.action() {
            // A disk that does not support the command has no cache (SBC-3, 4.15).
            Action::Fail if flush && failure.is_unknown_command() => Verdict::Done(0),
            Action::Fail => Verdict::Failed(error()),
            // Our own reset was reported before the first transfer, so this is another one. A retry would
            // make the dump look complete, but data written before the reset would be missing.
            Action::Again if matches!(words, Words::Write | Words::Flush) && failure.tells_of_a_reset() => {
                Verdict::Failed(error())
            }
            Action::Again => Verdict::Again(error()),
            Action::Later => Verdict::Later(error()),
            Action::Accept if matches!(order, Order::Command(_)) => {
                Verdict::Done(data.saturating_sub(residual as usize))
            }
            Action::Accept if residual == 0 => Verdict::Done(0),
            Action::Accept => Verdict::Failed(DeviceError::Protocol {
                what: "its count of bytes not transferred",
                value: residual.into(),
            }),
        }
    }
}

/// Executes one command; returns the number of bytes of its response. If the unit fails only the command,
/// that is the inner error: the host continues.
fn ask<T: Transport>(
    disk: &mut Disk<T, Scsi>,
    command: ScsiCommand,
    wait: &Wait<'_>,
) -> Result<Result<usize, DeviceError>, DeviceError> {
    match disk.ask(command, wait) {
        Err(error) if !disk.is_ready() => Err(error),
        result => Ok(result),
    }
}

/// The byte at an offset of the response.
fn byte<T: Transport>(disk: &Disk<T, Scsi>, offset: usize) -> u8 {
    disk.device.answer(ANSWER.offset.wrapping_add(offset))
}

/// A 32-bit number at an offset of the response.
fn word<T: Transport>(disk: &Disk<T, Scsi>, offset: usize) -> u32 {
    u32::from_be(disk.device.answer(ANSWER.offset.wrapping_add(offset)))
}

/// Selects the disk that was named, or found before, or else the first one.
fn find_disk<T: Transport>(disk: &mut Disk<T, Scsi>, wait: &Wait<'_>) -> Result<(), DeviceError> {
    let largest = disk.device.protocol.largest;
    if let Some(lun) = disk.device.protocol.found.or(disk.device.protocol.named) {
        if lun.target > largest.target || lun.lun > largest.lun {
            let value = u64::from(largest.target) << 16 | u64::from(largest.lun);
            return Err(DeviceError::Unsupported { what: "a SCSI host with such a unit", value });
        }
        disk.device.protocol.at = lun;
        let kind = inquire(disk, wait)??;
        if kind != 0 {
            return Err(DeviceError::Unsupported { what: "a SCSI disk", value: kind.into() });
        }
        disk.device.protocol.found = Some(lun);
        return Ok(());
    }
    let begin = wait.now();
    let mut units = 0_u64;
    for target in 0..=largest.target {
        let after = wait.now().saturating_sub(begin);
        if after > disk.device().timeout() {
            return Err(DeviceError::TimedOut { what: "a search for a SCSI disk", after });
        }
        disk.device.protocol.at = Lun { target, lun: 0 };
        // Most targets do not exist.
        let Ok(answered) = ask(disk, ScsiCommand::ReportLuns, wait)? else { continue };
        let listed = u32::from_be(disk.device.answer(LIST.offset)) as usize;
        let listed = listed.min(answered.saturating_sub(8)) / 8;
        for place in 0..listed.min(LISTED) {
            let entry = place.saturating_mul(8).saturating_add(LIST.offset).saturating_add(8);
            // Peripheral and flat space addresses name units (SAM-5, 4.7); other formats name something else.
            let entry = u32::from_be(disk.device.answer(entry)) >> 16;
            if entry >> 14 > 1 || entry & 0x3fff > largest.lun.into() {
                continue;
            }
            let lun = Lun { target, lun: (entry & 0x3fff) as u16 };
            units = units.saturating_add(1);
            disk.device.protocol.at = lun;
            if inquire(disk, wait)? == Ok(0) {
                disk.device.protocol.found = Some(lun);
                return Ok(());
            }
        }
    }
    Err(DeviceError::Unsupported { what: "a SCSI disk on one of its units", value: units })
}

/// Type of a unit: 0 for a disk. The upper three bits tell whether it exists.
fn inquire<T: Transport>(
    disk: &mut Disk<T, Scsi>,
    wait: &Wait<'_>,
) -> Result<Result<u8, DeviceError>, DeviceError> {
    let answer = ask(disk, ScsiCommand::Inquiry, wait)?;
    Ok(answer.and_then(|answered| long_enough(answered, 1)).map(|()| byte(disk, 0)))
}

/// Waits until the disk can be used. After a reset it first reports unit attentions.
fn become_ready<T: Transport>(disk: &mut Disk<T, Scsi>, wait: &Wait<'_>) -> Result<(), DeviceError> {
    let mut last = DeviceError::NotReady;
    for _ in 0..READY_TRIES {
        match ask(disk, ScsiCommand::TestUnitReady, wait)? {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
        // Another attention may follow at once; a disk that spins up takes its time.
        let attention = matches!(last, DeviceError::Status { code, .. } if Sense::is_attention(code));
        if !attention {
            wait.pause(disk.device().timeout().checked_div(READY_TRIES.into()).unwrap_or(0));
        }
    }
    Err(last)
}

/// Rejects a read-only disk.
fn check_writable<T: Transport>(disk: &mut Disk<T, Scsi>, wait: &Wait<'_>) -> Result<(), DeviceError> {
    // A disk need not support the command.
    let answered = ask(disk, ScsiCommand::ModeSense, wait)?.unwrap_or(0);
    let specific = byte(disk, 2);
    // Device-specific parameter: write protect (SBC-3, 6.4.1).
    if answered >= 3 && specific & 0x80 != 0 {
        let what = "a disk that can be written";
        return Err(DeviceError::Unsupported { what, value: specific.into() });
    }
    Ok(())
}

/// Reads the disk's size and its block size.
fn read_capacity<T: Transport>(disk: &mut Disk<T, Scsi>, wait: &Wait<'_>) -> Result<(), DeviceError> {
    let answered = ask(disk, ScsiCommand::ReadCapacity, wait)??;
    // At least up to the protection byte.
    long_enough(answered, 13)?;
    let last = u64::from(word(disk, 0)) << 32 | u64::from(word(disk, 4));
    let (block, protection) = (word(disk, 8), byte(disk, 12));
    if protection & 1 != 0 {
        let what = "a disk formatted without protection information";
        return Err(DeviceError::Unsupported { what, value: protection.into() });
    }
    if !matches!(block, 512 | 1024 | 2048 | 4096) {
        let what = "a disk with blocks of 512 to 4096 bytes";
        return Err(DeviceError::Unsupported { what, value: block.into() });
    }
    let Some(count) = last.checked_add(1) else {
        return Err(DeviceError::Protocol { what: "its last block", value: last });
    };
    let parts = (BLOCK_SIZE as u32).checked_div(block).unwrap_or(1);
    disk.device.protocol.parts = parts;
    disk.device.protocol.blocks = count.checked_div(parts.into());
    Ok(())
}

/// Checks that a response has the required bytes.
fn long_enough(answered: usize, needed: usize) -> Result<(), DeviceError> {
    if answered >= needed {
        return Ok(());
    }
    Err(DeviceError::Protocol { what: "the length of its answer", value: answered as u64 })
}

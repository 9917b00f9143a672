//! An ATA disk for dumps.
//!
//! One file: PIO, DMA and recovery are phases of one command, which a poll moves from one to the next.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::{BLOCK_SIZE, PAGE_SIZE};
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::{MILLISECOND, Wait};

use super::bus_master::{self, BusMaster, MasterStatus, TABLE_BYTES, in_reach};
use super::channel::{
    COMMAND_PORTS, CONTROL_PORTS, Channel, Command, RESET_HELD, RESET_LONGEST, RESET_QUIET, Status,
};
use crate::acs::{Identity, LBA28_SECTORS, code};
use crate::bus::access::Access;
use crate::bus::barrier;
use crate::bus::pci::{self, Bar, ConfigSpace, Function, PciDevice, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::driver::{Driver, Machine, Ram, Site, Unit};
use crate::disk::pio;
use crate::disk::request::{MAX_TRANSFER, extents, spans};
use crate::disk::{Called, Name, Pending, Polled, PolledDisk, Progress, Requests, Shutdown, Work};

/// Base class and subclass of an IDE controller.
const CLASS_IDE: u32 = 0x0101;
/// Programming interface: the channel's registers are at its BARs (native mode), by channel.
const NATIVE: [u32; 2] = [1 << 0, 1 << 2];
/// Programming interface: supports bus mastering.
const MASTERS: u32 = 1 << 7;
/// Ports of a channel in compatibility mode, by channel: command block and control block.
const COMPATIBLE: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];
/// Offset of the control block in its BAR.
const CONTROL_IN_BAR: u16 = 2;
/// The BAR of the bus master registers.
const MASTER_BAR: u8 = 4;

/// The command codes of a transfer.
struct Codes {
    lba28: u8,
    lba48: u8,
}

impl Codes {
    /// By DMA, or by PIO one sector at a time, or with `multiple` several sectors at a time.
    fn of(direction: Direction, dma: bool, multiple: bool) -> Codes {
        let codes = |lba28, lba48| Codes { lba28, lba48 };
        match (direction, dma, multiple) {
            (Direction::Read, true, _) => codes(code::READ_DMA, code::READ_DMA_EXT),
            (Direction::Read, false, false) => codes(code::READ_SECTORS, code::READ_SECTORS_EXT),
            (Direction::Read, false, true) => codes(code::READ_MULTIPLE, code::READ_MULTIPLE_EXT),
            (Direction::Write, true, _) => codes(code::WRITE_DMA, code::WRITE_DMA_EXT),
            (Direction::Write, false, false) => codes(code::WRITE_SECTORS, code::WRITE_SECTORS_EXT),
            (Direction::Write, false, true) => codes(code::WRITE_MULTIPLE, code::WRITE_MULTIPLE_EXT),
        }
    }
}

/// After the disk has finished, the controller finishes moving its data within this time.
const MASTER_LAGS: Nanoseconds = MILLISECOND;

/// Disks that a controller has at most.
const DISKS: usize = 4;

/// Position of a disk on its controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    channel: u8,
    device: u8,
}

impl Place {
    /// 0 and 1: first channel; 2 and 3: second channel.
    fn new(number: u8) -> Option<Place> {
        (usize::from(number) < DISKS).then_some(Place { channel: number >> 1, device: number & 1 })
    }

    fn number(self) -> u8 {
        self.channel << 1 | self.device
    }
}

/// State of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing.
    Rest,
    /// DMA.
    Master {
        /// When the disk was first seen finished while the controller was not.
        alone: Option<Nanoseconds>,
    },
    /// PIO: number of bytes moved so far; or a command without data.
    Pio { moved: usize },
    /// SRST is set, since this time.
    Reset { since: Nanoseconds },
    /// SRST was cleared at this time.
    Wakes { since: Nanoseconds },
}

/// Result of a poll.
enum Step {
    /// Still in progress.
    On,
    /// A round is complete.
    Round,
    /// The reset is complete.
    Fresh,
}

/// Commands other than transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtaCommand {
    /// Flush the cache, with this command code.
    Flush(u8),
}

/// A disk on a PCI IDE controller: takes it over by a software reset of its channel, and polls.
///
/// The disk's size is known only after the take-over, since it takes a command. Only one disk of a controller
/// can be in use: a reset affects both disks of a channel. The disk processes one request at a time; the
/// driver issues the next without delay.
///
/// Data goes by DMA if the controller is a bus master and a DMA mode is already selected on the disk;
/// transfer modes are not changed. Memory beyond the controller's reach (4 GiB) goes by PIO, as does
/// everything without DMA.
///
/// A failed request is retried once after a reset, then its failure is reported.
///
/// ```
/// # #[cfg(target_arch = "x86_64")] mod example {
/// use dump_drivers::ata::disk;
/// use dump_drivers::bus::pci::ConfigSpace;
/// use dump_drivers::{Access, AtaDisk, PortWindow, Ram};
/// use dumpcore::{Arena, Error};
///
/// /// The first disk of the first IDE controller.
/// fn open<C: ConfigSpace>(
///     config: C,
///     ports: fn(u16, u16) -> Option<PortWindow>,
///     arena: &mut Arena<'_>,
/// ) -> Result<AtaDisk<PortWindow, C>, Error> {
///     let function = disk::find(&config, 0).ok_or(Error::NoDisk)?;
///     Ok(AtaDisk::open(Access::new(config, ports), function, None, Ram::Anywhere, arena)?)
/// }
/// # }
/// ```
pub type AtaDisk<R, C> = Polled<Ata<R, C>>;

/// The IDE controller's part of the driver.
pub struct Ata<R, C> {
    pci: PciDevice<C>,
    /// `None`: the channel's registers are not ports, or not assigned.
    channels: [Option<Channel<R>>; 2],
    master: Option<BusMaster<R>>,
    /// The DMA table.
    table: Shared,
    /// A block for copies by the CPU.
    copy: DmaBuffer,
    ram: Ram,
    /// The wanted disk; `None`: the first one found.
    wanted: Option<Place>,
    /// The disk in use. Once found, no other disk is taken for it.
    place: Option<Place>,
    timeout: Nanoseconds,
    identity: Option<Identity>,
    /// Index of the disk's current request.
    current: usize,
    phase: Phase,
}

/// The machine's IDE controller number `index`, counted from 0 in bus order.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(is_ide).nth(index)
}

fn is_ide(function: &Function) -> bool {
    function.class >> 8 == CLASS_IDE
}

impl<R: Registers, C: ConfigSpace> AtaDisk<R, C> {
    /// Probes an IDE controller and takes 8 KiB from the arena. Does not write to the device.
    ///
    /// `disk` is 0 for the master and 1 for the slave of the first channel, 2 and 3 for those of the second,
    /// or `None` for the first of these that is a disk. `ram` tells where the RAM to dump is. By the
    /// standard, a reset of two devices may take 31 s.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the function is not an IDE controller, has no channel on ports, or
    /// does not decode them; [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities are
    /// inconsistent; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u16, u16) -> Option<R>>,
        function: Function,
        disk: Option<u8>,
        ram: Ram,
        arena: &mut Arena<'_>,
    ) -> Result<AtaDisk<R, C>, DeviceError> {
        let Access { config, map: mut ports, timeout } = access;
        if !is_ide(&function) {
            let value = function.class.into();
            return Err(DeviceError::Unsupported { what: "an IDE controller", value });
        }
        let wanted = match disk {
            Some(number) => {
                let what = "a disk from 0 to 3";
                Some(Place::new(number).ok_or(DeviceError::Unsupported { what, value: number.into() })?)
            }
            None => None,
        };
        let pci = PciDevice::open(config, function, pci::Command::IO)?;
        let channels = [0, 1].map(|channel| find_channel(&pci, channel, &mut ports));
        let wants = |channel: u8| wanted.is_none_or(|place| place.channel == channel);
        if !(0..).zip(&channels).any(|(channel, found)| wants(channel) && found.is_some()) {
            let what = "a channel behind ports";
            return Err(DeviceError::Unsupported { what, value: function.class.into() });
        }
        let master = match pci.bar(MASTER_BAR) {
            Some(Bar::Io { port }) if function.class & MASTERS != 0 => {
                u16::try_from(port).ok().and_then(|port| ports(port, bus_master::PORTS))
            }
            _ => None,
        };
        let table = Shared::new(arena.dma(TABLE_BYTES, PAGE_SIZE)?);
        let copy = arena.dma(BLOCK_SIZE, PAGE_SIZE)?;
        let mut name = Name::new("ata ").text(&function.address.text());
        if let Some(place) = wanted {
            name = name.text(&[b' ', b'0'.wrapping_add(place.number())]);
        }
        let ata = Ata {
            pci,
            channels,
            master: master.map(BusMaster::new),
            table,
            copy,
            ram,
            wanted,
            place: None,
            timeout,
            identity: None,
            current: 0,
            phase: Phase::Rest,
        };
        Ok(Polled::new(ata, name))
    }
}

/// The driver, for the table.
pub enum AtaDriver {}

impl<M: Machine> Driver<M> for AtaDriver {
    type Disk = AtaDisk<M::Ports, M::Config>;

    /// The disks of the first controller have the numbers 0 to 3, whether they are there or not.
    fn find(machine: &mut M, number: usize) -> Option<Site> {
        let (index, disk) = (number / DISKS, number % DISKS);
        let unit = Some(Unit { number: disk as u32, lun: 0 });
        Some(Site { unit, ..Site::on_pci(&machine.config(), index, is_ide)? })
    }

    /// The unit is a disk from 0 to 3.
    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError> {
        let (function, disk, ram) =
            (site.need_function()?, site.small_number("a disk from 0 to 3")?, machine.ram());
        let (config, timeout) = (machine.config(), machine.timeout());
        let ports = |first, count| machine.ports(first, count);
        AtaDisk::open(Access { config, map: ports, timeout }, function, disk, ram, arena)
    }
}

impl<R: Registers, C: ConfigSpace> Ata<R, C> {
    fn channel(&self, place: Place) -> Result<&Channel<R>, DeviceError> {
        self.channels.get(usize::from(place.channel)).and_then(Option::as_ref).ok_or(DeviceError::NotReady)
    }

    /// The disk in use, its channel, and its identity data.
    fn in_use(&self) -> Result<(Place, &Channel<R>, Identity), DeviceError> {
        let place = self.place.ok_or(DeviceError::NotReady)?;
        Ok((place, self.channel(place)?, self.identity.ok_or(DeviceError::NotReady)?))
    }

    /// Stops DMA on both channels: the other one's would resume when bus mastering is enabled.
    fn stop_master(&self) {
        if let Some(master) = &self.master {
            master.stop(0);
            master.stop(1);
        }
    }

    /// Resets the channels that may have the disk, and finds it.
    #[inline(never)]
    fn find_disk(&mut self, wait: &Wait<'_>) -> Result<(Place, Identity), DeviceError> {
        let wanted = self.place.or(self.wanted);
        let limit = self.timeout.min(RESET_LONGEST);
        let mut error = None;
        for (channel, registers) in (0..).zip(&self.channels) {
            let Some(registers) = registers else { continue };
            if wanted.is_some_and(|place| place.channel != channel) {
                continue;
            }
            if let Err(late) = registers.reset(limit, wait) {
                error = error.or(Some(late));
                continue;
            }
            for device in 0..2 {
                let place = Place { channel, device };
                if wanted.is_some_and(|wanted| wanted != place) {
                    continue;
                }
                let answer = self.copy.bytes_mut();
                match registers.identify(device, answer, limit, wait) {
                    Ok(Some(identity)) => return Ok((place, identity)),
                    Ok(None) => {}
                    Err(found) => error = error.or(Some(found)),
                }
            }
        }
        let value = wanted.map_or(0, Place::number).into();
        Err(error.unwrap_or(DeviceError::Unsupported { what: "an ATA disk in its place", value }))
    }

    /// Issues the next round of the oldest request.
    #[inline(never)]
    fn begin(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform) -> Result<(), DeviceError> {
        let Some(index) = requests.oldest(|_| true) else { return Ok(()) };
        let Some(pending) = requests.get_mut(index) else { return Ok(()) };
        self.current = index;
        let (place, channel, identity) = self.in_use()?;
        let status = channel.status();
        if status.floats() {
            return Err(DeviceError::Gone);
        }
        if status.intersects(Status::BSY | Status::DRQ) || !status.contains(Status::DRDY) {
            // A command must not be issued in the middle of another.
            return Err(DeviceError::Protocol { what: "its status at rest", value: status.bits().into() });
        }
        self.phase = Phase::Pio { moved: 0 };
        pending.round = 0;
        let request = match pending.work() {
            Some(Work::Transfer(request)) => request,
            Some(Work::Command(AtaCommand::Flush(code))) => {
                let flush = Command { code: *code, lba: 0, count: 0, lba48: false };
                self.channel(place)?.issue(place.device, flush);
                return Ok(());
            }
            None => return Ok(()),
        };
        let done = pending.done;
        let reached = if identity.dma_selected { in_reach(request, done) } else { 0 };
        let dma = reached > 0;
        let most = if identity.lba48 { MAX_TRANSFER } else { LBA28_SECTORS.saturating_mul(identity.sector) };
        let span = spans(request, done).next().map_or(0, |span| span.length);
        let round = if dma { reached } else { span }.min(most);

        let direction = request.direction;
        let codes = Codes::of(direction, dma, identity.multiple > 1);
        let shift = identity.sector.max(1).ilog2();
        let at = request.block.wrapping_mul(BLOCK_SIZE as u64).wrapping_add(done as u64);
        let command = Command {
            code: if identity.lba48 { codes.lba48 } else { codes.lba28 },
            lba: at >> shift,
            count: (round >> shift) as u32,
            lba48: identity.lba48,
        };
        if dma {
            bus_master::lay_table(&mut self.table, request, done, round, platform);
            self.phase = Phase::Master { alone: None };
        }
        pending.round = round;
        let channel = self.channel(place)?;
        match &self.master {
            Some(master) if dma => {
                barrier::publish();
                master.prepare(place.channel, self.table.bus_address(0) as u32, direction);
                channel.issue(place.device, command);
                master.start(place.channel, direction);
            }
            _ => channel.issue(place.device, command),
        }
        Ok(())
    }

    /// Polls a DMA transfer.
    fn poll_master(
        &mut self,
        alone: Option<Nanoseconds>,
        verb: &'static str,
        wait: &Wait<'_>,
    ) -> Result<Step, DeviceError> {
        let (place, channel, _) = self.in_use()?;
        let Some(master) = &self.master else { return Err(DeviceError::NotReady) };
        let said = master.status(place.channel);
        let status = channel.status();
        if status.floats() {
            return Err(DeviceError::Gone);
        }
        if said.contains(MasterStatus::ERROR) {
            let code = said.bits().into();
            return Err(DeviceError::Status { what: "access memory", code });
        }
        if status.contains(Status::BSY) {
            return Ok(Step::On);
        }
        if status.intersects(Status::ERR | Status::DF) {
            return Err(channel.failure(verb, status));
        }
        if status.contains(Status::DRQ) {
            return Ok(Step::On);
        }
        if said.contains(MasterStatus::ACTIVE) {
            // The disk reports completion: either the last bytes are still in transit, or the transfer is
            // short.
            let now = wait.now();
            let since = alone.unwrap_or(now);
            self.phase = Phase::Master { alone: Some(since) };
            let short = now.saturating_sub(since) > MASTER_LAGS;
            let error = DeviceError::Protocol { what: "its end of a transfer", value: said.bits().into() };
            return if short { Err(error) } else { Ok(Step::On) };
        }
        master.stop(place.channel);
        barrier::observe();
        Ok(Step::Round)
    }

    /// Moves data if the disk is ready for it.
    #[inline(never)]
    fn poll_pio(
        &mut self,
        moved: usize,
        pending: &mut Pending<Self>,
        platform: &dyn Platform,
    ) -> Result<Step, DeviceError> {
        let (_, channel, identity) = self.in_use()?;
        let status = channel.status();
        if status.floats() {
            return Err(DeviceError::Gone);
        }
        if status.contains(Status::BSY) {
            return Ok(Step::On);
        }
        if status.intersects(Status::ERR | Status::DF) {
            return Err(channel.failure(pending.verb(Self::called), status));
        }
        let left = pending.round.saturating_sub(moved);
        if status.contains(Status::DRQ) != (left > 0) {
            // It requests more, or less, data than the command moves.
            let value = status.bits().into();
            return Err(DeviceError::Protocol { what: "its status within a command", value });
        }
        if left == 0 {
            if !status.contains(Status::DRDY) {
                // No device has answered, so the data went nowhere.
                let value = status.bits().into();
                return Err(DeviceError::Protocol { what: "its status after a command", value });
            }
            return Ok(Step::Round);
        }
        let together = identity.multiple.saturating_mul(identity.sector).min(left);
        let begin = pending.done.saturating_add(moved);
        self.move_sectors(pending, begin, together, platform)?;
        self.phase = Phase::Pio { moved: moved.saturating_add(together) };
        Ok(Step::On)
    }

    /// Moves sectors of `sector` bytes each, starting at a byte of a request.
    fn move_sectors(
        &mut self,
        pending: &mut Pending<Self>,
        begin: usize,
        bytes: usize,
        platform: &dyn Platform,
    ) -> Result<(), DeviceError> {
        let (Some(place), Some(identity)) = (self.place, self.identity) else {
            return Err(DeviceError::NotReady);
        };
        let channel = self.channels.get(usize::from(place.channel)).and_then(Option::as_ref);
        let copy = self.copy.bytes_mut().get_mut(..identity.sector);
        let (Some(channel), Some(request), Some(copy)) = (channel, pending.request_mut(), copy) else {
            return Err(DeviceError::NotReady);
        };
        for offset in (0..bytes).step_by(identity.sector.max(1)) {
            pio::move_sector(request, begin.saturating_add(offset), copy, channel, platform)?;
        }
        channel.settle();
        Ok(())
    }

    /// Advances a reset.
    fn poll_reset(&mut self, wait: &Wait<'_>) -> Result<Step, DeviceError> {
        let (place, channel, _) = self.in_use()?;
        let now = wait.now();
        match self.phase {
            Phase::Reset { since } if now.saturating_sub(since) >= RESET_HELD => {
                channel.release_reset();
                self.phase = Phase::Wakes { since: now };
            }
            Phase::Wakes { since } if now.saturating_sub(since) >= RESET_QUIET => {
                // First the device that the reset has selected, then ours.
                if channel.is_quiet() {
                    channel.select(place.device);
                    let status = channel.status();
                    if status.floats() {
                        return Err(DeviceError::Gone);
                    }
                    if !status.is_empty() && !status.contains(Status::BSY) {
                        return Ok(Step::Fresh);
                    }
                }
                let after = now.saturating_sub(since);
                if after > self.timeout.min(RESET_LONGEST) {
                    return Err(DeviceError::TimedOut { what: "an ATA reset", after });
                }
            }
            _ => {}
        }
        Ok(Step::On)
    }

    /// Starts a reset, to retry a failed request.
    fn begin_reset(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.stop_master();
        let (_, channel, _) = self.in_use()?;
        channel.assert_reset();
        self.phase = Phase::Reset { since: wait.now() };
        Ok(())
    }
}

/// A channel's registers, if they are ports.
fn find_channel<R: Registers, C: ConfigSpace>(
    pci: &PciDevice<C>,
    channel: u8,
    ports: &mut impl FnMut(u16, u16) -> Option<R>,
) -> Option<Channel<R>> {
    let index = usize::from(channel);
    let native = NATIVE.get(index).is_some_and(|bit| pci.function().class & bit != 0);
    let (command, control) = if native {
        let port = |bar: u8| match pci.bar(bar) {
            Some(Bar::Io { port }) => u16::try_from(port).ok(),
            _ => None,
        };
        let first = channel.wrapping_mul(2);
        (port(first)?, port(first.wrapping_add(1))?.checked_add(CONTROL_IN_BAR)?)
    } else {
        *COMPATIBLE.get(index)?
    };
    Some(Channel::new(ports(command, COMMAND_PORTS)?, ports(control, CONTROL_PORTS)?))
}

// SAFETY: the disk has one request at a time, and the request is over when the bus master has stopped. After
// a take-over, the channel has been reset, and bus mastering was off. The DMA table belongs to the driver and
// names the spans of that request; the direction is the request's. PIO moves data only while poll() runs.
unsafe impl<R: Registers, C: ConfigSpace> PolledDisk for Ata<R, C> {
    type Command = AtaCommand;
    type State = ();

    const READ: &'static str = "an ATA read";
    const WRITE: &'static str = "an ATA write";
    const POLLS_MEMORY: bool = false;

    fn called(_: AtaCommand) -> Called {
        Called { noun: "an ATA cache flush", verb: "flush its cache" }
    }

    fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    fn controller(&self) -> u64 {
        self.pci.number()
    }

    fn blocks(&self) -> Option<u64> {
        self.identity.map(|identity| identity.blocks())
    }

    fn sector_size(&self) -> Option<u32> {
        self.identity.map(|identity| identity.sector as u32)
    }

    fn max_extents(&self) -> usize {
        pio::max_extents(self.ram)
    }

    fn integrity(&self, digest: &mut Digest) {
        self.pci.integrity(digest);
        for channel in self.channels.iter().flatten() {
            channel.integrity(digest);
        }
        if let Some(master) = &self.master {
            master.integrity(digest);
        }
        self.table.integrity(digest);
        self.copy.place().integrity(digest);
        let wanted = self.wanted.map_or(u64::MAX, |place| place.number().into());
        digest.number(wanted).number((self.ram == Ram::Low).into());
    }

    fn health(&mut self) -> Health {
        match self.pci.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        let place = self.place.or(self.wanted);
        let here = |channel: u8| place.is_none_or(|place| place.channel == channel);
        let mut found = None;
        for (channel, registers) in (0..).zip(&self.channels) {
            let Some(registers) = registers.as_ref().filter(|_| here(channel)) else { continue };
            let status = registers.status();
            if status.floats() {
                continue;
            }
            found = found.or(Some(status));
            let busy = |master: &BusMaster<R>| master.status(channel).contains(MasterStatus::ACTIVE);
            if self.master.as_ref().is_some_and(busy)
                && let Health::Risky(error) = self.pci.health_in_use()
            {
                return Health::Risky(error);
            }
        }
        match found {
            // The bus floats; but an absent device may just be selected.
            None => Health::Risky(DeviceError::Gone),
            Some(status) if !status.contains(Status::BSY) && status.contains(Status::DF) => {
                Health::Risky(DeviceError::Status { what: "stay in operation", code: status.bits().into() })
            }
            Some(_) => Health::Healthy,
        }
    }

    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // Without bus mastering, the old driver's DMA cannot arrive during the reset.
        self.pci.isolate(wait).map_err(|error| self.pci.explain(error))?;
        self.stop_master();
        let (place, identity) = self.find_disk(wait).map_err(|error| self.pci.explain(error))?;
        self.place = Some(place);
        self.identity = Some(identity);
        Ok(())
    }

    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.phase = Phase::Rest;
        let (place, channel, mut identity) = self.in_use()?;
        let in_reach = bus_master::reaches(self.table.bus_address(0), TABLE_BYTES as u64);
        identity.dma_selected &= self.master.is_some() && in_reach;
        if identity.dma_selected {
            identity.multiple = 1;
            self.pci.enable_bus_master()?;
        } else if identity.multiple > 1 {
            let limit = self.timeout.min(RESET_LONGEST);
            identity.multiple = channel.set_multiple(place.device, identity.multiple, limit, wait)?;
        }
        self.identity = Some(identity);
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        if extents(request).iter().all(|extent| extent.bus.is_multiple_of(PAGE_SIZE as u64)) {
            return Ok(());
        }
        Err(DeviceError::BadBuffer { length: request.length() as usize })
    }

    fn flush_command(&self) -> Option<AtaCommand> {
        self.identity.and_then(|identity| identity.flush).map(AtaCommand::Flush)
    }

    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform) {
        if self.phase == Phase::Rest {
            // If the disk does not accept it, the next poll detects that.
            let _ = self.begin(requests, platform);
        }
    }

    #[inline(never)]
    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError> {
        let phase = self.phase;
        if phase == Phase::Rest && requests.is_empty() {
            return Ok(Progress::Nothing);
        }
        let begun = if phase == Phase::Rest { self.begin(requests, wait.platform()) } else { Ok(()) };
        let index = self.current;
        let Some(pending) = requests.get_mut(index) else { return Err(DeviceError::NotReady) };
        let step = match phase {
            Phase::Rest => begun.map(|()| Step::On),
            Phase::Master { alone } => self.poll_master(alone, pending.verb(Self::called), wait),
            Phase::Pio { moved } => self.poll_pio(moved, pending, wait.platform()),
            // A disk that cannot be reset is unusable.
            Phase::Reset { .. } | Phase::Wakes { .. } => Ok(self.poll_reset(wait)?),
        };
        let flushes = pending.request().is_none();
        let result = match step {
            Ok(Step::On) => return Ok(Progress::Nothing),
            Ok(Step::Fresh) => {
                if let Some(identity) = &mut self.identity {
                    // The reset may have undone SET MULTIPLE MODE.
                    identity.multiple = 1;
                }
                self.phase = Phase::Rest;
                return Ok(Progress::Nothing);
            }
            Ok(Step::Round) => {
                self.phase = Phase::Rest;
                if pending.finish_round() {
                    return Ok(Progress::Room);
                }
                Ok(())
            }
            Err(DeviceError::Gone) => return Err(DeviceError::Gone),
            // A flush is not retried: a second one would skip the sector that the first could not write.
            Err(error) if pending.tried || flushes && matches!(error, DeviceError::Status { .. }) => {
                Err(error)
            }
            Err(error) if flushes => return Err(error),
            Err(error) => {
                // Check before retrying: a reset of a device that is gone never ends.
                if self.pci.explain(error) == DeviceError::Gone {
                    return Err(DeviceError::Gone);
                }
                pending.tried = true;
                return self.begin_reset(wait).map(|()| Progress::Nothing);
            }
        };
        self.phase = Phase::Rest;
        if result.is_err() {
            // The disk may still be busy with the command; the next request checks that.
            self.stop_master();
        }
        Ok(Progress::Over { index, result })
    }

    /// Also stops the channel's bus master.
    fn explain(&self, error: DeviceError) -> DeviceError {
        self.stop_master();
        self.pci.explain(error)
    }

    fn shut_down(&mut self, _: Shutdown, _: &Wait<'_>) -> Result<(), DeviceError> {
        self.stop_master();
        self.pci.disable_bus_master()
    }
}

//! An ATA disk that receives a dump.

use dumpcore::arena::Arena;
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Geometry, Health, Rejected, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::{BLOCK_SIZE, PAGE_SIZE};
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::{MILLISECOND, Wait};

use super::bus_master::{self, BusMaster, MasterStatus, TABLE_BYTES};
use super::channel::{
    COMMAND_PORTS, CONTROL_PORTS, Channel, Command, RESET_HELD, RESET_LONGEST, RESET_QUIET, Signature, Status,
};
use super::identify::{self, Terms};
use crate::bus::barrier;
use crate::bus::pci::{self, Bar, ConfigSpace, Function, PciDevice, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::rounds::{self, MAX_TRANSFER, Ram};

/// Base class and subclass of an IDE controller.
const CLASS_IDE: u32 = 0x0101;
/// Programming interface: this channel has its registers where its BARs say, by channel.
const NATIVE: [u32; 2] = [1 << 0, 1 << 2];
/// Programming interface: bus master.
const MASTERS: u32 = 1 << 7;
/// The ports of a channel that is not native, by channel: command block and control block.
const COMPATIBLE: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];
/// Where the control block is in its BAR.
const CONTROL_IN_BAR: u16 = 2;
/// The BAR of the bus master registers.
const MASTER_BAR: u8 = 4;

/// Commands (ATA8-ACS, 7).
const IDENTIFY: u8 = 0xec;
const SET_MULTIPLE: u8 = 0xc6;
/// Transfers: by DMA, one sector after another, several sectors together; and each with 48-bit addresses.
const READS: [(u8, u8); 3] = [(0xc8, 0x25), (0x20, 0x24), (0xc4, 0x29)];
const WRITES: [(u8, u8); 3] = [(0xca, 0x35), (0x30, 0x34), (0xc5, 0x39)];

/// Sectors that a command takes at most with 28-bit addresses.
const NARROW_SECTORS: usize = 256;
/// Requests that the driver takes at once. The disk has one of them; those after it are begun without delay.
const DEPTH: usize = 16;
/// A flush may take this many times as long as a request.
const FLUSH_TIMES: u64 = 12;
/// When the disk has finished, the controller has what it was given within this time, in memory or out of it.
const MASTER_LAGS: Nanoseconds = MILLISECOND;
/// A device that says nothing at all may still do so within this time after a reset: what a channel is told is late in an
/// emulator that has much else to do.
const APPEARS: Nanoseconds = 500 * MILLISECOND;

/// Which disk of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    channel: u8,
    device: u8,
}

impl Place {
    /// 0 and 1: the first channel's; 2 and 3: the second's.
    fn new(number: u8) -> Option<Place> {
        (number < 4).then_some(Place { channel: number >> 1, device: number & 1 })
    }

    fn number(self) -> u8 {
        self.channel << 1 | self.device
    }
}

/// What the disk is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing.
    Rest,
    /// DMA.
    Master {
        /// When the disk was first seen to have finished ahead of the controller.
        alone: Option<Nanoseconds>,
    },
    /// The CPU moves the data: this many bytes have been.
    Ports { moved: usize },
    /// SRST is set, since then.
    Reset { since: Nanoseconds },
    /// SRST was cleared, then.
    Wakes { since: Nanoseconds },
}

/// What a look at the disk found.
enum Step {
    /// It continues.
    On,
    /// A round is over.
    Round,
    /// The disk has been reset.
    Fresh,
}

/// A disk behind a PCI IDE controller: takes it over, and polls.
///
/// [`open`](Ata::open) it while the kernel is healthy, move it into the arena with [`Arena::place`], and give it to
/// `arm()`. Opening only looks: another driver may be using the disk, until [`quiesce`](DumpDevice::quiesce) takes it over
/// by a software reset of its channel. The disk's size is not known before, since it takes a command to find out.
///
/// Data goes by DMA if the controller is a bus master and somebody has selected a mode for DMA on the disk; transfer modes
/// stay as they are. What the controller cannot reach, beyond 4 GiB, goes by PIO, as everything does without DMA.
///
/// A request that fails is tried once more after a reset, then its failure is reported. Buffers of requests that were in flight when the
/// device failed, or when a request of [`rw_block`](DumpDevice::rw_block) did not end, stay lost, and everything is
/// [`DeviceError::NotReady`] until `quiesce` succeeds again.
///
/// Only one disk of a controller can be in use: the reset of one disturbs its neighbours.
pub struct Ata<R, C> {
    pci: PciDevice<C>,
    /// `None`: the channel's registers are not ports, or nowhere.
    channels: [Option<Channel<R>>; 2],
    master: Option<BusMaster<R>>,
    /// Where data is for DMA.
    table: Shared,
    /// A block that the CPU copies by.
    copy: DmaBuffer,
    ram: Ram,
    /// Which disk it has to be; if `None`, the first that is found.
    wanted: Option<Place>,
    /// Which one it is. Once found, no other one is taken for it.
    place: Option<Place>,
    name: [u8; 13],
    timeout: Nanoseconds,
    terms: Option<Terms>,
    /// Requests in flight, as a ring.
    requests: [Option<Request>; DEPTH],
    /// Which of them is the oldest, the one that the disk has.
    oldest: usize,
    /// Bytes of it that are done.
    done: usize,
    /// Bytes of it that the disk has now.
    round: usize,
    /// It has failed once.
    failed: bool,
    phase: Phase,
    /// Quiesced, and not failed since.
    ready: bool,
}

/// The `index`th IDE controller of the machine, counted from 0 in the order of the bus.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(|function| function.class >> 8 == CLASS_IDE).nth(index)
}

impl<R: Registers, C: ConfigSpace> Ata<R, C> {
    /// Looks at an IDE controller and carves what it needs from the arena, 8 KiB. Does not write to the device.
    ///
    /// `disk` is 0 for the master and 1 for the slave of the first channel, 2 and 3 for those of the second, or `None` for
    /// the first of these that is a disk. `ports` gives access to a number of ports from a first one on. Port decoding has to
    /// be on, as any kernel or firmware leaves it. `ram` says where the RAM is that is to be dumped. `request_timeout` is how many nanoseconds a reset, a flush or
    /// one block may take; a reset of two devices that behave may take 31 s by the standard.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is no IDE controller, or has no channel behind ports, or does not decode them;
    /// [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities make no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        config: C,
        function: Function,
        disk: Option<u8>,
        mut ports: impl FnMut(u16, u16) -> Option<R>,
        ram: Ram,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<Ata<R, C>, DeviceError> {
        if function.class >> 8 != CLASS_IDE {
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
        let mut name = *b"ata 00:00.0 ?";
        for (slot, byte) in name.iter_mut().skip(4).zip(function.address.text()) {
            *slot = byte;
        }
        if let (Some(place), Some(last)) = (wanted, name.last_mut()) {
            *last = b'0'.wrapping_add(place.number());
        }
        Ok(Ata {
            pci,
            channels,
            master: master.map(BusMaster::new),
            table,
            copy,
            ram,
            wanted,
            place: None,
            name,
            timeout: request_timeout,
            terms: None,
            requests: [const { None }; DEPTH],
            oldest: 0,
            done: 0,
            round: 0,
            failed: false,
            phase: Phase::Rest,
            ready: false,
        })
    }

    fn channel(&self, place: Place) -> Result<&Channel<R>, DeviceError> {
        self.channels.get(usize::from(place.channel)).and_then(Option::as_ref).ok_or(DeviceError::NotReady)
    }

    /// The disk that is in use, its channel, and what was agreed upon.
    fn in_use(&self) -> Result<(Place, &Channel<R>, Terms), DeviceError> {
        let place = self.place.ok_or(DeviceError::NotReady)?;
        Ok((place, self.channel(place)?, self.terms.ok_or(DeviceError::NotReady)?))
    }

    /// Stops DMA, on both channels: that of the other one would go on as soon as the function may access memory.
    fn stop_master(&self) {
        if let Some(master) = &self.master {
            master.stop(0);
            master.stop(1);
        }
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.stop_master();
        self.pci.explain(error)
    }

    /// Resets the channels where the disk can be, and looks for it.
    #[inline(never)]
    fn find_disk(&mut self, wait: &Wait<'_>) -> Result<(Place, Terms), DeviceError> {
        let wanted = self.place.or(self.wanted);
        let limit = self.timeout.min(RESET_LONGEST);
        let table = bus_master::reaches(self.table.bus_address(0), TABLE_BYTES as u64);
        let masters = self.master.is_some() && table;
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
                match identify(registers, device, masters, &mut self.copy, limit, wait) {
                    Ok(Some(terms)) => return Ok((place, terms)),
                    Ok(None) => {}
                    Err(found) => error = error.or(Some(found)),
                }
            }
        }
        let value = wanted.map_or(0, Place::number).into();
        Err(error.unwrap_or(DeviceError::Unsupported { what: "an ATA disk in its place", value }))
    }

    /// The oldest request.
    fn first(&self) -> Option<&Request> {
        self.requests.get(self.oldest).and_then(Option::as_ref)
    }

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool {
        self.requests.iter().all(Option::is_none)
    }

    /// Gives the disk the next round of the oldest request.
    #[inline(never)]
    fn begin(&mut self, platform: &dyn Platform) -> Result<(), DeviceError> {
        let (place, channel, terms) = self.in_use()?;
        let Some(request) = self.first() else { return Ok(()) };
        let status = channel.status();
        if status.floats() {
            return Err(DeviceError::Gone);
        }
        if status.intersects(Status::BSY | Status::DRQ) || !status.contains(Status::DRDY) {
            return Err(DeviceError::Protocol { what: "its status at rest", value: status.bits().into() });
        }
        let reached = if terms.dma { rounds::in_reach(request, self.done, bus_master::reaches) } else { 0 };
        let dma = reached > 0;
        let most = if terms.wide { MAX_TRANSFER } else { NARROW_SECTORS.saturating_mul(terms.sector) };
        let round = if dma { reached } else { rounds::in_part(request, self.done) }.min(most);

        let direction = request.direction;
        let codes = match direction {
            Direction::Read => READS,
            Direction::Write => WRITES,
        };
        let [by_dma, by_sector, by_several] = codes;
        let (narrow, wide) = match (dma, terms.multiple) {
            (true, _) => by_dma,
            (false, ..=1) => by_sector,
            (false, _) => by_several,
        };
        let shift = terms.sector.max(1).ilog2();
        let at = request.block.wrapping_mul(BLOCK_SIZE as u64).wrapping_add(self.done as u64);
        let command = Command {
            code: if terms.wide { wide } else { narrow },
            lba: at >> shift,
            count: (round >> shift) as u32,
            wide: terms.wide,
        };
        if dma {
            self.lay_table(round, platform);
        }
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
        self.round = round;
        self.phase = if dma { Phase::Master { alone: None } } else { Phase::Ports { moved: 0 } };
        Ok(())
    }

    /// Writes down where the next `round` bytes of the oldest request are.
    #[inline(never)]
    fn lay_table(&mut self, round: usize, platform: &dyn Platform) {
        if let Some(request) = self.requests.get(self.oldest).and_then(Option::as_ref) {
            let used = bus_master::lay_table(&mut self.table, round, rounds::pieces(request, self.done));
            self.table.clean(0, used, platform);
        }
    }

    /// Looks how far DMA is.
    fn look_at_master(&mut self, alone: Option<Nanoseconds>, wait: &Wait<'_>) -> Result<Step, DeviceError> {
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
            return Err(channel.failure(self.verb(), status));
        }
        if status.contains(Status::DRQ) {
            return Ok(Step::On);
        }
        if said.contains(MasterStatus::ACTIVE) {
            // The disk says that it has moved all; either the last bytes are still on their way, or it has not.
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

    /// What the oldest request does.
    fn verb(&self) -> &'static str {
        match self.first() {
            Some(Request { direction: Direction::Read, .. }) => "read",
            _ => "write",
        }
    }

    /// Moves the data that the disk has, or waits for, if it does.
    #[inline(never)]
    fn move_data(&mut self, moved: usize, platform: &dyn Platform) -> Result<Step, DeviceError> {
        let (_, channel, terms) = self.in_use()?;
        let status = channel.status();
        if status.floats() {
            return Err(DeviceError::Gone);
        }
        if status.contains(Status::BSY) {
            return Ok(Step::On);
        }
        if status.intersects(Status::ERR | Status::DF) {
            return Err(channel.failure(self.verb(), status));
        }
        let left = self.round.saturating_sub(moved);
        if status.contains(Status::DRQ) != (left > 0) {
            // It wants more, or less, than it was told of.
            let value = status.bits().into();
            return Err(DeviceError::Protocol { what: "its status within a transfer", value });
        }
        if left == 0 {
            if !status.contains(Status::DRDY) {
                // Nobody answers who could have taken anything.
                let value = status.bits().into();
                return Err(DeviceError::Protocol { what: "its status behind a transfer", value });
            }
            return Ok(Step::Round);
        }
        let together = terms.multiple.saturating_mul(terms.sector).min(left);
        for offset in (0..together).step_by(terms.sector.max(1)) {
            let at = self.done.saturating_add(moved).saturating_add(offset);
            self.move_sector(at, terms.sector, platform)?;
        }
        self.in_use()?.1.settle();
        self.phase = Phase::Ports { moved: moved.saturating_add(together) };
        Ok(Step::On)
    }

    /// Moves one sector, which is at this offset in the oldest request.
    fn move_sector(&mut self, at: usize, sector: usize, platform: &dyn Platform) -> Result<(), DeviceError> {
        let Some(place) = self.place else { return Err(DeviceError::NotReady) };
        let channel = self.channels.get(usize::from(place.channel)).and_then(Option::as_ref);
        let request = self.requests.get_mut(self.oldest).and_then(Option::as_mut);
        let (Some(channel), Some(request)) = (channel, request) else { return Err(DeviceError::NotReady) };
        let take = |bytes: &mut [u8]| channel.read_data(bytes);
        let give = |bytes: &[u8]| channel.write_data(bytes);
        rounds::move_sector(request, (at, sector), self.copy.bytes_mut(), take, give, platform)
    }

    /// Goes on with a reset.
    fn go_on_with_reset(&mut self, wait: &Wait<'_>) -> Result<Step, DeviceError> {
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

    /// Begins a reset, to try once more what failed.
    fn begin_reset(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.stop_master();
        let (_, channel, _) = self.in_use()?;
        channel.assert_reset();
        self.phase = Phase::Reset { since: wait.now() };
        Ok(())
    }

    /// One look at the disk, and whatever follows from it. Returns a request that is over.
    #[inline(never)]
    fn advance(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        let platform = wait.platform();
        let looked = match self.phase {
            Phase::Rest if self.is_idle() => return Ok(None),
            Phase::Rest => self.begin(platform).map(|()| Step::On),
            Phase::Master { alone } => self.look_at_master(alone, wait),
            Phase::Ports { moved } => self.move_data(moved, platform),
            Phase::Reset { .. } | Phase::Wakes { .. } => match self.go_on_with_reset(wait) {
                // A disk that cannot be reset is no longer of use.
                Err(error) => return Err(self.fail(error)),
                looked => looked,
            },
        };
        let result = match looked {
            Ok(Step::On) => return Ok(None),
            Ok(Step::Fresh) => {
                if let Some(terms) = &mut self.terms {
                    // The reset may have undone SET MULTIPLE MODE.
                    terms.multiple = 1;
                }
                self.phase = Phase::Rest;
                return Ok(None);
            }
            Ok(Step::Round) => {
                self.done = self.done.saturating_add(self.round);
                self.phase = Phase::Rest;
                let length = self.first().map_or(0, Request::length);
                if (self.done as u64) < length {
                    // Should it not be taken, the next look finds that again.
                    let _ = self.begin(platform);
                    return Ok(None);
                }
                Ok(())
            }
            Err(DeviceError::Gone) => return Err(self.fail(DeviceError::Gone)),
            Err(error) if !self.failed => {
                // Before trying again, for a device that is gone never ends a reset.
                if self.pci.explain(error) == DeviceError::Gone {
                    return Err(self.fail(DeviceError::Gone));
                }
                self.failed = true;
                return self.begin_reset(wait).map(|()| None);
            }
            Err(error) => Err(error),
        };
        Ok(self.finish(result, platform))
    }

    /// The oldest request is over. The next one begins.
    fn finish(&mut self, result: Result<(), DeviceError>, platform: &dyn Platform) -> Option<Completion> {
        let request = self.requests.get_mut(self.oldest).and_then(Option::take);
        self.oldest = self.oldest.wrapping_add(1) % DEPTH;
        self.done = 0;
        self.failed = false;
        self.phase = Phase::Rest;
        if result.is_err() {
            // Whatever the disk is in the middle of ends with it, when the next request finds it so.
            self.stop_master();
        }
        // Should it not be taken, the next look finds that again.
        let _ = self.begin(platform);
        request.map(|Request { id, buffer, gather, .. }| Completion { id, buffer, gather, result })
    }

    /// Takes a transfer; back if it cannot be.
    fn take(&mut self, request: Request, platform: &dyn Platform) -> Result<(), Rejected> {
        if !self.ready {
            return Err(Rejected { request, error: DeviceError::NotReady });
        }
        if let Err(error) = rounds::check(&request, self.blocks(), self.ram) {
            return Err(Rejected { request, error });
        }
        let from = self.oldest;
        let mut places = (0..DEPTH).map(|turn| from.wrapping_add(turn) % DEPTH);
        let free = places.find(|place| self.requests.get(*place).is_some_and(Option::is_none));
        let Some(slot) = free.and_then(|place| self.requests.get_mut(place)) else {
            return Err(Rejected { request, error: DeviceError::QueueFull });
        };
        *slot = Some(request);
        if self.phase == Phase::Rest {
            // Should it not be taken, the next look finds that again.
            let _ = self.begin(platform);
        }
        Ok(())
    }

    /// Size in blocks of 4096 bytes.
    fn blocks(&self) -> u64 {
        let shift =
            |terms: Terms| BLOCK_SIZE.checked_div(terms.sector).and_then(usize::checked_ilog2).unwrap_or(0);
        self.terms.map_or(0, |terms| terms.sectors >> shift(terms))
    }
}

/// Asks a device what it is; `None` if it is not there, or not a disk. `masters` says whether there could be DMA. The answer
/// goes by way of `copy`.
fn identify<R: Registers>(
    channel: &Channel<R>,
    device: u8,
    masters: bool,
    copy: &mut DmaBuffer,
    limit: Nanoseconds,
    wait: &Wait<'_>,
) -> Result<Option<Terms>, DeviceError> {
    channel.quiet("an ATA device at rest", limit, wait)?;
    let appeared = wait.until("an ATA device", limit.min(APPEARS), || {
        channel.select(device);
        let status = channel.status();
        (!status.is_empty()).then(|| !status.floats())
    });
    if appeared != Ok(true) {
        return Ok(None);
    }
    channel.idle("an ATA device at rest", limit, wait)?;
    if channel.signature() != Signature::Ata {
        return Ok(None);
    }
    channel.issue(device, Command { code: IDENTIFY, lba: 0, count: 0, wide: false });
    let status = channel.idle("an ATA IDENTIFY", limit, wait)?;
    if status.intersects(Status::ERR | Status::DF) {
        return Err(channel.failure("identify itself", status));
    }
    if !status.contains(Status::DRQ) {
        let value = status.bits().into();
        return Err(DeviceError::Protocol { what: "its status with data to come", value });
    }
    let answer = copy.bytes_mut().get_mut(..identify::BYTES).unwrap_or_default();
    channel.read_data(answer);
    channel.settle();
    channel.idle("an ATA device at rest", limit, wait)?;
    let mut terms = Terms::read(answer)?;
    terms.dma &= masters;
    if !terms.dma && terms.multiple > 1 {
        let count = terms.multiple as u32;
        channel.issue(device, Command { code: SET_MULTIPLE, lba: 0, count, wide: false });
        let status = channel.idle("an ATA SET MULTIPLE MODE", limit, wait)?;
        if status.intersects(Status::ERR | Status::DF) {
            terms.multiple = 1;
        }
    } else {
        terms.multiple = 1;
    }
    Ok(Some(terms))
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

// SAFETY: a request is in the ring from take() on, until it goes back out of its place, once, when the bus master has stopped.
// The ring is emptied when the channel has been reset and bus mastering is off. The table for DMA, which is the driver's, names the
// pieces of the oldest request, and which way data goes is that request's; PIO moves data while advance() runs.
unsafe impl<R: Registers, C: ConfigSpace> DumpDevice for Ata<R, C> {
    fn name(&self) -> &str {
        // The number of the disk is there if the caller chose it.
        let length = if self.wanted.is_some() { self.name.len() } else { self.name.len().saturating_sub(2) };
        self.name.get(..length).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// Known once it has been quiesced.
    fn geometry(&self) -> Option<Geometry> {
        self.terms.map(|_| Geometry { blocks: self.blocks() })
    }

    fn sector_size(&self) -> Option<u32> {
        self.terms.and_then(|terms| terms.sector.try_into().ok())
    }

    fn seal(&self, digest: &mut Digest) {
        self.pci.seal(digest);
        for channel in self.channels.iter().flatten() {
            channel.seal(digest);
        }
        if let Some(master) = &self.master {
            master.seal(digest);
        }
        self.table.seal(digest);
        self.copy.place().seal(digest);
        let wanted = self.wanted.map_or(u64::MAX, |place| place.number().into());
        digest.bytes(&self.name).number(self.timeout).number(wanted).number((self.ram == Ram::Low).into());
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
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
            // Nobody drives the bus; but then, it may only be that a device is selected that is not there.
            None => Health::Risky(DeviceError::Gone),
            Some(status) if !status.contains(Status::BSY) && status.contains(Status::DF) => {
                Health::Risky(DeviceError::Status { what: "stay in operation", code: status.bits().into() })
            }
            Some(_) => Health::Healthy,
        }
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        // Without bus mastering, nothing of the old driver's can arrive while the reset is under way.
        self.pci.silence(wait).map_err(|error| self.pci.explain(error))?;
        self.stop_master();
        let (place, terms) = self.find_disk(wait).map_err(|error| self.pci.explain(error))?;
        if terms.dma {
            self.pci.let_access_memory().map_err(|error| self.pci.explain(error))?;
        }
        // The reset is confirmed. Buffers that were in flight are forgotten, not given back: whoever gave them has
        // been told so.
        for request in &mut self.requests {
            *request = None;
        }
        self.oldest = 0;
        self.done = 0;
        self.failed = false;
        self.phase = Phase::Rest;
        self.place = Some(place);
        self.terms = Some(terms);
        self.ready = true;
        Ok(())
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        let length = buffer.len();
        if length != BLOCK_SIZE {
            return (Some(buffer), Err(DeviceError::BadBuffer { length }));
        }
        if self.ready && !self.is_idle() {
            return (Some(buffer), Err(DeviceError::QueueFull));
        }
        let request = Request { id: 0, direction, block, buffer, gather: None };
        if let Err(Rejected { request, error }) = self.take(request, wait.platform()) {
            return (Some(request.buffer), Err(error));
        }
        let what = match direction {
            Direction::Read => "an ATA read",
            Direction::Write => "an ATA write",
        };
        match wait.until(what, self.timeout, || self.advance(wait).transpose()) {
            Ok(Ok(completion)) => (Some(completion.buffer), completion.result),
            Ok(Err(error)) => (None, Err(error)),
            // The request stays in flight, so the driver is no longer as rw_block takes it to be.
            Err(timed_out) => (None, Err(self.fail(timed_out.into()))),
        }
    }

    fn controller(&self) -> Option<u64> {
        Some(self.pci.number())
    }

    /// 16: the disk has one request, and the next ones wait for it to be done.
    fn depth(&self) -> usize {
        DEPTH
    }

    /// 1 MiB: a request goes to the disk in rounds, if it takes less at once.
    fn max_transfer(&self) -> usize {
        MAX_TRANSFER
    }

    /// As many as the largest transfer has blocks, if all RAM is in the controller's reach.
    fn max_extents(&self) -> usize {
        self.ram.max_extents()
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        self.take(request, wait.platform()).map(|()| None)
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        self.advance(wait)
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.is_idle() {
            return Err(DeviceError::QueueFull);
        }
        let (place, channel, terms) = self.in_use()?;
        // A disk without the command has no cache that it would be for.
        let Some(code) = terms.flush else { return Ok(()) };
        let status = channel.status();
        if status.floats() {
            return Err(self.fail(DeviceError::Gone));
        }
        if status.intersects(Status::BSY | Status::DRQ) || !status.contains(Status::DRDY) {
            // It is still in the middle of a request that failed, and no command may be given on top of that.
            let value = status.bits().into();
            return Err(self.fail(DeviceError::Protocol { what: "its status at rest", value }));
        }
        channel.issue(place.device, Command { code, lba: 0, count: 0, wide: false });
        let limit = self.timeout.saturating_mul(FLUSH_TIMES);
        match channel.idle("an ATA cache flush", limit, wait) {
            // Not tried again: a second flush would pass over the sector that the first could not write.
            Ok(status) if status.intersects(Status::ERR | Status::DF) => {
                Err(channel.failure("flush its cache", status))
            }
            Ok(status) if !status.contains(Status::DRDY) || status.contains(Status::DRQ) => {
                let value = status.bits().into();
                Err(self.fail(DeviceError::Protocol { what: "its status behind a flush", value }))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        self.stop_master();
        let kept = self.pci.keep_from_memory();
        flushed.and(kept)
    }
}

//! A disk on a port of an HBA, as a disk that receives a dump.
//!
//! One file: a request is cut into commands, issued, retried and recovered by one state machine.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;
use static_assertions::const_assert;

use super::command::{
    Addressing, COMMAND_SLOTS, Command, PRD_BYTES, PRDS, TABLES_ALIGN, TABLES_BYTES, Tables,
};
use super::hba::{Hba, is_hba};
use super::port::{Port, RESTART_TIMES};
use super::registers::{Cap, Event, slots};
use crate::acs::{Identity, LBA28_SECTORS};
use crate::bus::access::Access;
use crate::bus::barrier;
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;
use crate::disk::driver::{Driver, Machine, Place, Site, Unit, access};
use crate::disk::request::{MAX_EXTENTS, MAX_TRANSFER, first_bytes, spans, total, whole_blocks};
use crate::disk::{Called, Name, Pending, Polled, PolledDisk, Progress, Requests, Shutdown, Span, Work};

// So that each span of a request fits one PRD.
const_assert!(MAX_TRANSFER <= PRD_BYTES);
/// Maximum number of bounce buffers below 4 GiB, for an HBA with 32-bit addresses.
const BOUNCES: usize = 4;
/// End of the memory that such an HBA reaches.
const REACH_32: u64 = 1 << 32;

/// Commands other than transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AhciCommand {
    /// IDENTIFY DEVICE.
    Identify,
    /// Flush the cache.
    Flush,
}

/// Driver state of a request.
#[derive(Default)]
pub struct Issued {
    /// Its command slot; `None` while the HBA does not have it.
    slot: Option<u8>,
    /// Whether the current round uses a bounce buffer.
    bounced: bool,
    /// Whether the current round is a queued command.
    queued: bool,
    /// It has failed for good. Reported only when the port runs again: until then the HBA may still access
    /// the buffers.
    failed: Option<DeviceError>,
}

/// The disk's properties and how the driver uses it.
#[derive(Clone, Copy)]
struct Limits {
    /// Whole 4096-byte blocks.
    blocks: u64,
    /// Sectors in a block, as a power of two.
    shift: u32,
    addressing: Addressing,
    /// Maximum number of commands at a time.
    depth: u8,
    /// Maximum number of bytes per command.
    round: usize,
    /// The flush command; `None` if the disk has no cache.
    flush: Option<u8>,
}

impl Limits {
    /// Enough for IDENTIFY DEVICE.
    const UNKNOWN: Limits =
        Limits { blocks: 0, shift: 0, addressing: Addressing::Lba48, depth: 1, round: 0, flush: None };

    fn negotiate(cap: Cap, identity: &Identity) -> Limits {
        let depth = slots(cap).min(identity.queue).min(COMMAND_SLOTS.into()) as u8;
        let queues = cap.contains(Cap::NCQ) && depth > 1;
        let addressing = match (identity.lba48, queues) {
            (false, _) => Addressing::Lba28,
            (true, false) => Addressing::Lba48,
            (true, true) => Addressing::Queued,
        };
        let lba28 = LBA28_SECTORS.saturating_mul(identity.sector);
        Limits {
            blocks: identity.blocks(),
            shift: identity.block_shift(),
            addressing,
            depth: if queues { depth } else { 1 },
            round: if identity.lba48 { MAX_TRANSFER } else { lba28.min(MAX_TRANSFER) },
            flush: identity.flush,
        }
    }
}

/// A Serial ATA disk on an AHCI port: takes its HBA over, and polls.
///
/// The reset covers the HBA and all its ports, so only one disk of an HBA can be in use at a time. The disk's
/// size is known only after the take-over.
///
/// The driver recovers once from an error reported by the disk, the link or the HBA: it resets the port by
/// COMRESET and reissues every command in flight, one at a time. A command that fails again is reported as
/// failed. A flush is not repeated: the disk has dropped the data that it could not write.
///
/// ```
/// use dump_drivers::bus::pci::ConfigSpace;
/// use dump_drivers::ahci;
/// use dump_drivers::{Access, AhciDisk, Mmio};
/// use dumpcore::{Arena, Error};
///
/// /// The first disk of the first AHCI controller.
/// fn open<C: ConfigSpace>(
///     config: C,
///     map: fn(u64, usize) -> Option<Mmio>,
///     arena: &mut Arena<'_>,
/// ) -> Result<AhciDisk<Mmio, C>, Error> {
///     let function = ahci::find(&config, 0).ok_or(Error::NoDisk)?;
///     Ok(AhciDisk::open(Access::new(config, map), function, None, arena)?)
/// }
/// ```
pub type AhciDisk<R, C> = Polled<Ahci<R, C>>;

/// The HBA's part of the driver.
pub struct Ahci<R, C> {
    hba: Hba<R, C>,
    port: Port,
    tables: Tables,
    /// For an HBA that cannot reach the buffers of requests: one bounce buffer per command slot.
    bounces: [Option<DmaBuffer>; BOUNCES],
    limits: Limits,
    /// Command slots that the HBA has, or has completed without the driver having reported it.
    in_flight: u32,
    /// Those of them that the HBA has completed.
    finished: u32,
    /// Whether the commands in flight are queued ones.
    queued: bool,
    /// One command at a time, until every command in flight at the error has ended.
    recovering: bool,
}

impl<R: Registers, C: ConfigSpace> AhciDisk<R, C> {
    /// Probes a disk and takes 39 KiB from the arena. Does not write to the HBA.
    ///
    /// `port` is the number of the disk's port, 0 to 31; `None` means the first port with a disk.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the function is not an HBA in AHCI mode, cannot be mapped, has no disk
    /// there, or has 32-bit addresses while the arena is above 4 GiB (see
    /// [`open_narrow`](AhciDisk::open_narrow)); [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its
    /// registers are inconsistent; [`DeviceError::OutOfArena`].
    /// [`DeviceError::Protocol`] if what it says makes no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        port: Option<u8>,
        arena: &mut Arena<'_>,
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let hba = Hba::open(access, function)?;
        let memory = arena.dma(TABLES_BYTES, TABLES_ALIGN)?;
        Ahci::on(hba, port, memory, [const { None }; BOUNCES])
    }

    /// As [`open`](AhciDisk::open), for an HBA that may have only 32-bit addresses: `low` is memory below 4
    /// GiB, aligned to 1024 bytes, of at least 43 KiB. The rest of it serves as bounce buffers for data
    /// beyond the HBA's reach; 295 KiB make that fast. An HBA with 64-bit addresses uses the arena, and
    /// nothing of `low`.
    ///
    /// # Errors
    /// As `open`, and [`DeviceError::BadBuffer`] if `low` does not meet these requirements.
    pub fn open_narrow(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        port: Option<u8>,
        arena: &mut Arena<'_>,
        low: DmaBuffer,
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let hba = Hba::open(access, function)?;
        if hba.cap().contains(Cap::WIDE) {
            let memory = arena.dma(TABLES_BYTES, TABLES_ALIGN)?;
            return Ahci::on(hba, port, memory, [const { None }; BOUNCES]);
        }
        let length = low.len();
        let aligned = low.bus_address().is_multiple_of(TABLES_ALIGN as u64);
        let (memory, mut rest) = low.split(TABLES_BYTES);
        let left = Span { bus: rest.bus_address(), length: rest.len() };
        if !aligned || left.length < BLOCK_SIZE || !reaches(hba.cap(), left) {
            return Err(DeviceError::BadBuffer { length });
        }
        // Equal parts, of at least a block each.
        let part = whole_blocks((rest.len() / BOUNCES).max(BLOCK_SIZE));
        let mut bounces = [const { None }; BOUNCES];
        for slot in &mut bounces {
            let (bounce, after) = rest.split(part);
            *slot = Some(bounce).filter(|bounce| bounce.len() == part);
            rest = after;
        }
        Ahci::on(hba, port, memory, bounces)
    }
}

/// The driver, for the table.
pub enum AhciDriver {}

impl<M: Machine> Driver<M> for AhciDriver {
    type Disk = AhciDisk<M::Registers, M::Config>;

    fn find(machine: &mut M, number: usize) -> Option<Site> {
        let config = machine.config();
        let mut before = 0_usize;
        for function in functions(&config).filter(is_hba) {
            // One that cannot be opened, such as one that is not in AHCI mode, has no disks for us.
            let Ok(hba) = Hba::open(access(machine), function) else { continue };
            if let Some(port) = hba.disks().nth(number.saturating_sub(before)) {
                let unit = Some(Unit { number: port.into(), lun: 0 });
                return Some(Site { place: Place::Pci(function), unit });
            }
            before = before.saturating_add(hba.disks().count());
        }
        None
    }

    /// The unit is a port.
    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError> {
        let port = site.small_number("the AHCI port that was asked for")?;
        AhciDisk::open(access(machine), site.need_function()?, port, arena)
    }
}

impl<R: Registers, C: ConfigSpace> Ahci<R, C> {
    fn on(
        hba: Hba<R, C>,
        port: Option<u8>,
        memory: DmaBuffer,
        bounces: [Option<DmaBuffer>; BOUNCES],
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let port = hba.find_disk(port)?;
        if !reaches(hba.cap(), Span { bus: memory.bus_address(), length: memory.len() }) {
            let what = "memory below 4 GiB, as far as its HBA reaches";
            return Err(DeviceError::Unsupported { what, value: memory.bus_address() });
        }
        let name = Name::new("ahci ").text(&hba.pci().address().text()).text(b" port ").two_digits(port);
        let ahci = Ahci {
            hba,
            port: Port::new(port),
            tables: Tables::new(memory),
            bounces,
            limits: Limits::UNKNOWN,
            in_flight: 0,
            finished: 0,
            queued: false,
            recovering: false,
        };
        Ok(Polled::new(ahci, name))
    }

    /// A free command slot, if the disk accepts another command.
    fn free_slot(&self) -> Option<u8> {
        if !self.port.is_running() {
            return None;
        }
        let slot = self.in_flight.trailing_ones() as u8;
        let depth = if self.recovering { 1 } else { self.limits.depth };
        (slot < depth && (self.queued || self.in_flight == 0)).then_some(slot)
    }

    /// Builds the next command of a request in a command slot. Returns the command.
    fn lay_out(&mut self, slot: u8, pending: &mut Pending<Self>, platform: &dyn Platform) -> Option<Command> {
        let (done, mut round, mut bounced) = (pending.done, 0, false);
        let command = match pending.work()? {
            Work::Command(AhciCommand::Identify) => {
                let mut identity = core::iter::once(self.tables.identity());
                round = self.tables.identity().length;
                self.tables.lay_out(slot, Command::Identify, &mut identity, platform);
                Command::Identify
            }
            Work::Command(AhciCommand::Flush) => {
                // A second flush would not write what a failed flush has dropped.
                pending.tried = true;
                let command = Command::Flush(self.limits.flush?);
                self.tables.lay_out(slot, command, &mut core::iter::empty(), platform);
                command
            }
            Work::Transfer(request) => {
                let bounce = self.bounces.get_mut(usize::from(slot)).and_then(Option::as_mut);
                let bounce = bounce.filter(|_| !reaches_all(self.hba.cap(), request));
                let mut addressing = self.limits.addressing;
                if self.recovering && addressing == Addressing::Queued {
                    addressing = Addressing::Lba48;
                }
                round = whole_blocks(total(spans(request, done).take(PRDS)).min(self.limits.round));
                let block = request.block.wrapping_add((done / BLOCK_SIZE) as u64);
                let command = Command::Transfer {
                    write: request.direction == Direction::Write,
                    sector: block.wrapping_shl(self.limits.shift),
                    count: ((round / BLOCK_SIZE) as u32).wrapping_shl(self.limits.shift),
                    addressing,
                };
                if let Some(bounce) = bounce {
                    bounced = true;
                    if request.direction == Direction::Write {
                        let from = request.buffer.bytes().get(done..).unwrap_or_default();
                        copy(from, bounce.bytes_mut(), round);
                    }
                    bounce.clean_for_device(platform);
                    let mut bounce = core::iter::once(Span { bus: bounce.bus_address(), length: round });
                    self.tables.lay_out(slot, command, &mut bounce, platform);
                } else {
                    self.tables.lay_out(
                        slot,
                        command,
                        &mut first_bytes(spans(request, done), round),
                        platform,
                    );
                }
                command
            }
        };
        pending.round = round;
        pending.state = Issued { slot: Some(slot), bounced, queued: command.is_queued(), failed: None };
        Some(command)
    }

    /// Polls the HBA for completions and errors.
    fn look(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // In this order: an error that occurs in between completes no command.
        let pending = self.port.pending(&self.hba, self.queued);
        let events = self.port.events(&self.hba);
        if pending & !self.in_flight != 0 {
            return Err(DeviceError::Protocol { what: "its commands under way", value: pending.into() });
        }
        if events.bits() == u32::MAX {
            return Err(DeviceError::Gone);
        }
        let errors = events.intersection(Event::ERRORS);
        // Some HBAs count the failed command as completed. For queued commands, the disk itself reports the
        // completed ones.
        let all_failed = errors.contains(Event::TASK_FILE) && !self.queued;
        // After an error with no command reported as pending, every command is in doubt.
        let doubtful = pending == 0 && !errors.difference(Event::LINK | Event::OVERFLOW).is_empty();
        self.finished = if all_failed || doubtful { 0 } else { self.in_flight & !pending };
        if self.finished != 0 {
            // Read the completion before its data.
            barrier::observe();
        }
        if errors.intersects(Event::CONNECT | Event::PHY_READY) {
            // The disk was unplugged or lost power: its cache is lost, and it may be another disk.
            let code = self.port.error_code(&self.hba, errors);
            return Err(DeviceError::Status { what: "stay connected", code });
        }
        if errors.is_empty() { Ok(()) } else { self.recover(errors, requests, wait) }
    }

    /// Resets the port after an error. Commands in flight are reissued one at a time; one that was alone
    /// already, and has failed before, has failed for good.
    #[inline(never)]
    fn recover(
        &mut self,
        errors: Event,
        requests: &mut Requests<Self>,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let lost = self.in_flight & !self.finished;
        let alone = lost.is_power_of_two();
        let code = self.port.error_code(&self.hba, errors);
        for pending in requests.iter_mut() {
            let Some(slot) = pending.state.slot.filter(|slot| lost >> slot & 1 == 1) else { continue };
            pending.state.slot = None;
            if pending.tried && alone {
                pending.state.failed = Some(DeviceError::Status { what: pending.verb(Self::called), code });
            }
            pending.tried = true;
            // The HBA no longer has it.
            self.in_flight &= !1_u32.wrapping_shl(slot.into());
        }
        self.recovering = true;
        self.port.restart(&self.hba, wait.now())
    }

    /// Finishes the round of a command slot that the HBA has completed. Checks its byte count.
    fn finish(
        &self,
        slot: u8,
        pending: &mut Pending<Self>,
        platform: &dyn Platform,
    ) -> Result<(), DeviceError> {
        pending.state.slot = None;
        let (done, round) = (pending.done, pending.round);
        // There is no byte count for queued commands.
        if !pending.state.queued && round > 0 {
            let moved = self.tables.transferred(slot, platform);
            // Some HBAs do not count.
            if moved != 0 && moved as usize != round {
                return Err(DeviceError::Protocol { what: "its bytes transferred", value: moved.into() });
            }
        }
        if pending.state.bounced
            && let Some(Some(bounce)) = self.bounces.get(usize::from(slot))
            && let Some(Request { direction: Direction::Read, buffer, .. }) = pending.request_mut()
        {
            bounce.invalidate_from_device(platform);
            copy(bounce.bytes(), buffer.bytes_mut().get_mut(done..).unwrap_or_default(), round);
            // The caller invalidates the cache where it believes that the HBA wrote.
            buffer.clean_for_device(platform);
        }
        Ok(())
    }
}

/// Copies up to `limit` bytes.
fn copy(from: &[u8], to: &mut [u8], limit: usize) {
    for (to, from) in to.iter_mut().zip(from).take(limit) {
        *to = *from;
    }
}

/// Whether an HBA reaches a span.
fn reaches(cap: Cap, span: Span) -> bool {
    cap.contains(Cap::WIDE) || span.bus.checked_add(span.length as u64).is_some_and(|end| end <= REACH_32)
}

/// Whether an HBA reaches all spans of a request.
fn reaches_all(cap: Cap, request: &Request) -> bool {
    cap.contains(Cap::WIDE) || spans(request, 0).all(|span| reaches(cap, span))
}

// SAFETY: a request is over when the HBA no longer has its command, or has been stopped after an error; the
// driver's own record says which command slots the HBA has. Command tables name the spans of pending
// requests, or a bounce buffer, which like the tables belongs to the driver; the direction is the request's.
unsafe impl<R: Registers, C: ConfigSpace> PolledDisk for Ahci<R, C> {
    type Command = AhciCommand;
    type State = Issued;

    const READ: &'static str = "an AHCI read";
    const WRITE: &'static str = "an AHCI write";
    const POLLS_MEMORY: bool = false;

    fn called(command: AhciCommand) -> Called {
        match command {
            AhciCommand::Identify => {
                Called { noun: "an AHCI disk that identifies itself", verb: "identify itself" }
            }
            AhciCommand::Flush => Called { noun: "an AHCI flush", verb: "flush" },
        }
    }

    fn timeout(&self) -> Nanoseconds {
        self.hba.timeout()
    }

    fn controller(&self) -> u64 {
        self.hba.pci().number()
    }

    /// `None` until the disk has been identified: that takes a command.
    fn blocks(&self) -> Option<u64> {
        Some(self.limits.blocks).filter(|blocks| *blocks > 0)
    }

    fn sector_size(&self) -> Option<u32> {
        self.blocks().map(|_| (BLOCK_SIZE as u32).wrapping_shr(self.limits.shift))
    }

    /// None if the HBA has only 32-bit addresses.
    fn max_extents(&self) -> usize {
        if self.hba.cap().contains(Cap::WIDE) { MAX_EXTENTS } else { 0 }
    }

    fn integrity(&self, digest: &mut Digest) {
        self.hba.integrity(digest);
        self.tables.integrity(digest);
        digest.number(self.port.number().into());
        for bounce in self.bounces.iter().flatten() {
            bounce.place().integrity(digest);
        }
    }

    fn health(&mut self) -> Health {
        match self.hba.health() {
            Health::Healthy => self.port.health(&self.hba),
            otherwise => otherwise,
        }
    }

    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.port.clear_state();
        // The registers may have moved, so explain an error without reading them.
        self.hba.take_over(wait).map_err(|error| self.hba.pci().explain(error))
    }

    /// Starts the port and the link.
    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.in_flight = 0;
        self.finished = 0;
        self.queued = false;
        self.recovering = false;
        self.port.stop(&self.hba, wait)?;
        self.tables.clear(wait.platform());
        self.hba.pci().enable_bus_master()?;
        self.port.set_up(&self.hba, self.tables.list(), self.tables.received())?;
        self.port.restart(&self.hba, wait.now())?;
        let limit = self.hba.timeout().saturating_mul(RESTART_TIMES);
        wait.until("an AHCI port that starts", limit, || match self.port.step(&self.hba, wait.now()) {
            Ok(runs) => runs.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })??;
        self.limits = Limits::UNKNOWN;
        Ok(())
    }

    /// Identifies the disk.
    fn explore(disk: &mut AhciDisk<R, C>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        disk.command(AhciCommand::Identify, disk.device.hba.timeout(), wait)?;
        let Ahci { hba, tables, bounces, limits, .. } = &mut disk.device;
        tables.read_identity(wait.platform());
        let identity = Identity::read(|word| tables.identity_word(word))?;
        if !identity.has_dma() {
            let value = identity.capabilities.into();
            return Err(DeviceError::Unsupported { what: "a disk with DMA", value });
        }
        *limits = Limits::negotiate(hba.cap(), &identity);
        let bounces = bounces.iter().flatten();
        if let Some(least) = bounces.clone().map(DmaBuffer::len).min() {
            // Every command slot needs one, used or not.
            limits.depth = limits.depth.min(bounces.count() as u8);
            limits.round = limits.round.min(least);
        }
        Ok(())
    }

    fn give_up(&mut self, wait: &Wait<'_>) {
        // Discards any further data from the disk. Nothing is left to do if even this fails.
        if self.port.is_in_use() {
            let _ = self.port.stop(&self.hba, wait);
        }
        let _ = self.hba.pci().disable_bus_master();
    }

    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        // Memory is transferred in units of two bytes (4.2.3.3).
        if spans(request, 0).any(|span| span.bus & 1 != 0) {
            return Err(DeviceError::BadBuffer { length: request.length() as usize });
        }
        if !reaches_all(self.hba.cap(), request) && self.bounces.iter().all(Option::is_none) {
            let value = request.buffer.bus_address();
            let what = "a buffer below 4 GiB, as far as its HBA reaches";
            return Err(DeviceError::Unsupported { what, value });
        }
        Ok(())
    }

    fn flush_command(&self) -> Option<AhciCommand> {
        self.limits.flush.map(|_| AhciCommand::Flush)
    }

    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform) {
        self.recovering &= requests.iter().any(|pending| pending.tried);
        // Each turn takes a free command slot, and their number is fixed.
        while let Some(slot) = self.free_slot() {
            let waiting =
                requests.oldest(|pending| pending.state.slot.is_none() && pending.state.failed.is_none());
            let Some(pending) = waiting.and_then(|index| requests.get_mut(index)) else { return };
            let Some(command) = self.lay_out(slot, pending, platform) else { return };
            self.queued = command.is_queued();
            self.in_flight |= 1_u32.wrapping_shl(slot.into());
            self.port.issue(&self.hba, slot, self.queued);
        }
    }

    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError> {
        if !self.port.is_running() {
            if !self.port.step(&self.hba, wait.now())? {
                return Ok(Progress::Nothing);
            }
            let Some(index) = requests.position(|pending| pending.state.failed.is_some()) else {
                return Ok(Progress::Room);
            };
            let failed = requests.get_mut(index).and_then(|pending| pending.state.failed.take());
            return Ok(Progress::Over { index, result: failed.map_or(Ok(()), Err) });
        }
        if self.in_flight == 0 {
            return Ok(Progress::Nothing);
        }
        if self.finished == 0 {
            self.look(requests, wait)?;
        }
        let slot = self.finished.trailing_zeros() as u8;
        let Some(bit) = 1_u32.checked_shl(slot.into()) else { return Ok(Progress::Nothing) };
        self.finished &= !bit;
        self.in_flight &= !bit;
        // Every command in flight is pending.
        let lost = DeviceError::Protocol { what: "a finished command", value: slot.into() };
        let index = requests.position(|pending| pending.state.slot == Some(slot)).ok_or(lost)?;
        let pending = requests.get_mut(index).ok_or(lost)?;
        let result = self.finish(slot, pending, wait.platform());
        let more = pending.finish_round();
        Ok(if more && result.is_ok() { Progress::Room } else { Progress::Over { index, result } })
    }

    fn explain(&self, error: DeviceError) -> DeviceError {
        self.hba.explain(error)
    }

    fn shut_down(&mut self, _: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.hba.pci().function().check_present(self.hba.pci().config())?;
        // If the HBA did not complete its reset, do not touch its ports.
        let stopped = if self.port.is_in_use() { self.port.stop(&self.hba, wait) } else { Ok(()) };
        let stopped = stopped.map_err(|error| self.hba.explain(error));
        self.hba.pci().disable_bus_master()?;
        stopped
    }
}

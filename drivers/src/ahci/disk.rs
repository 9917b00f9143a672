//! A disk on a port of an HBA, as a disk that receives a dump.

use dumpcore::arena::Arena;
use dumpcore::device::{
    Completion, DeviceError, Direction, DumpDevice, Gather, Geometry, Health, Rejected, Request,
};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;
use static_assertions::const_assert;

use super::command::{Addressing, Command, PIECE_BYTES, PIECES, RUNS, TABLES_ALIGN, TABLES_BYTES, Tables};
use super::hba::Hba;
use super::identify::{Flush, Identity};
use super::port::{Port, RESTART_TIMES};
use super::registers::{Cap, Event, slots};
use crate::bus::barrier;
use crate::bus::pci::{ConfigSpace, Function};
use crate::bus::registers::Registers;

/// Requests that the driver takes at once.
const SLOTS: usize = RUNS as usize;
/// Bytes in a request at most. More would not be faster.
const MAX_TRANSFER: usize = 1 << 20;
// So a piece of a request is a piece for the HBA, however large.
const_assert!(MAX_TRANSFER <= PIECE_BYTES);
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;
/// Sectors that a command with a short address moves at most.
const SHORT_SECTORS: usize = 256;
/// A flush may take this many times as long as a request: there may be hundreds of megabytes in the cache.
const FLUSH_TIMES: u64 = 12;
/// Buffers below 4 GiB at most, for an HBA that reaches no further.
const BOUNCES: usize = 4;
/// How far such an HBA reaches.
const NARROW: u64 = 1 << 32;

/// What the driver was asked to do.
enum Work {
    Transfer(Request),
    Flush,
    Identify,
}

impl Work {
    /// What it is to do, as it is reported when it fails.
    fn what(&self) -> &'static str {
        match self {
            Work::Transfer(Request { direction: Direction::Read, .. }) => "read",
            Work::Transfer(Request { direction: Direction::Write, .. }) => "write",
            Work::Flush => "flush",
            Work::Identify => "identify itself",
        }
    }

    /// Bytes of data.
    fn length(&self) -> usize {
        match self {
            Work::Transfer(request) => request.length() as usize,
            Work::Flush | Work::Identify => 0,
        }
    }
}

/// Where the data of a request is after the first `done` bytes, in order: bus address and bytes.
fn parts(request: &Request, done: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
    let mut before = done;
    let buffer = (request.buffer.bus_address(), request.buffer.len());
    let extents = extents(request).iter().map(|extent| (extent.bus, extent.length as usize));
    core::iter::once(buffer).chain(extents).filter_map(move |(start, length)| {
        let skip = before.min(length);
        before = before.saturating_sub(skip);
        (skip < length).then(|| (start.wrapping_add(skip as u64), length.saturating_sub(skip)))
    })
}

fn extents(request: &Request) -> &[dumpcore::device::Extent] {
    request.gather.as_ref().map_or(&[], Gather::extents)
}

/// Room for one request. What the HBA cannot take at once goes to it in rounds.
struct Slot {
    work: Option<Work>,
    /// Bytes that are done.
    done: usize,
    /// Bytes that the HBA has now.
    round: usize,
    /// Whether that round goes by way of a buffer below 4 GiB.
    bounced: bool,
    /// Whether that round is a queued command.
    queued: bool,
    /// `None` while the HBA has none of it; else the run.
    run: Option<u8>,
    /// When it came, to serve those that wait in order.
    turn: u32,
    /// It was under way when something failed; a second time is the last.
    tried: bool,
    /// It has failed for good, which is reported when the port runs again: only then the buffers are free.
    failed: Option<DeviceError>,
}

impl Slot {
    const FREE: Slot = Slot {
        work: None,
        done: 0,
        round: 0,
        queued: false,
        bounced: false,
        run: None,
        turn: 0,
        tried: false,
        failed: None,
    };

    fn waits(&self) -> bool {
        self.work.is_some() && self.run.is_none() && self.failed.is_none()
    }
}

/// A request that is over.
enum Finished {
    Transfer(Completion),
    Command(Result<(), DeviceError>),
}

/// What is known of the disk, and how it is used.
#[derive(Clone, Copy)]
struct Terms {
    /// Whole 4096-byte blocks.
    blocks: u64,
    /// Sectors in a block, as a power of two.
    shift: u32,
    addressing: Addressing,
    /// Commands that it has at once.
    runs: u8,
    /// Bytes in a command at most.
    round: usize,
    flush: Flush,
}

impl Terms {
    /// Enough to ask the disk for the rest.
    const UNKNOWN: Terms =
        Terms { blocks: 0, shift: 0, addressing: Addressing::Long, runs: 1, round: 0, flush: Flush::None };

    fn agree(cap: Cap, identity: &Identity) -> Terms {
        let depth = slots(cap).min(identity.queue).min(RUNS.into()) as u8;
        let queues = cap.contains(Cap::NCQ) && depth > 1;
        let addressing = match (identity.long, queues) {
            (false, _) => Addressing::Short,
            (true, false) => Addressing::Long,
            (true, true) => Addressing::Queued,
        };
        let short = SHORT_SECTORS.saturating_mul(identity.sector as usize);
        Terms {
            blocks: identity.blocks(),
            shift: identity.block_shift(),
            addressing,
            runs: if queues { depth } else { 1 },
            round: if identity.long { MAX_TRANSFER } else { short.min(MAX_TRANSFER) },
            flush: identity.flush,
        }
    }
}

/// A Serial ATA disk on an AHCI port: takes its HBA over, and polls.
///
/// [`open`](AhciDisk::open) it while the kernel is healthy, move it into the arena with
/// [`Arena::place`], and give it to `arm()`. Opening only looks: another driver may be using the HBA, until
/// [`quiesce`](DumpDevice::quiesce) takes it over by reset, with all its ports. So only one disk of an HBA can be in use at a
/// time. How large the disk is, it says only then.
///
/// An error that disk, link or HBA report is recovered from once: the port is reset by COMRESET, and all that was under way is
/// done again, one by one. What then fails a second time is reported as failed. A flush is not repeated: the disk has forgotten
/// what it could not write.
///
/// Reset ends everything that was in flight. Buffers of requests that the driver had in flight itself when it
/// failed stay lost: neither a failed device nor a fresh `quiesce` gives them back. Any failure of the HBA itself (a wrong answer,
/// a link that does not come back, a request of [`rw_block`](DumpDevice::rw_block) or [`flush`](DumpDevice::flush) that does not
/// end) ends its use: everything is [`DeviceError::NotReady`] until `quiesce` succeeds again.
///
/// DMA need not be coherent: command list, tables and what the disk says of itself are cleaned and invalidated through the
/// platform.
pub struct AhciDisk<R, C> {
    hba: Hba<R, C>,
    port: Port,
    tables: Tables,
    /// For an HBA that does not reach the buffers of requests: one for each run.
    bounces: [Option<DmaBuffer>; BOUNCES],
    slots: [Slot; SLOTS],
    /// Requests taken so far.
    turns: u32,
    name: [u8; 20],
    terms: Terms,
    /// Runs that the HBA has, or has finished without our having told.
    in_flight: u32,
    /// Those of them that it has finished.
    finished: u32,
    /// Whether what it has are queued commands.
    queued: bool,
    /// One command at a time, until all that was under way at an error is over.
    careful: bool,
    /// Quiesced, and not failed since.
    ready: bool,
}

impl<R: Registers, C: ConfigSpace> AhciDisk<R, C> {
    /// Looks at a disk and carves what it needs from the arena, 39 KiB. Does not write to the HBA.
    ///
    /// `port` is the number of the disk's port, 0 to 31; `None` means the first that has a disk. `map` maps a number of bytes at a
    /// physical address for device registers: uncached, readable and writable, on every CPU and for ever. Memory decoding has to be
    /// on, as any kernel or firmware leaves it. `request_timeout` is how many nanoseconds a reset or a request may take.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is no HBA in AHCI mode, cannot be mapped, has no disk there, or reaches only 4 GiB
    /// of memory while the arena is beyond (see [`open_narrow`](AhciDisk::open_narrow)); [`DeviceError::Gone`];
    /// [`DeviceError::Protocol`] if what it says makes no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        config: C,
        function: Function,
        port: Option<u8>,
        map: impl FnMut(u64, usize) -> Option<R>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let hba = Hba::open(config, function, map, request_timeout)?;
        let memory = arena.dma(TABLES_BYTES, TABLES_ALIGN)?;
        AhciDisk::new(hba, port, memory, [const { None }; BOUNCES])
    }

    /// As [`open`](AhciDisk::open), but for an HBA that may reach only 4 GiB of memory: it is given `low`, below that, which begins
    /// at a multiple of 1024 and has at least 43 KiB. Data of requests that the HBA does not reach goes by way of
    /// what is left of it. 295 KiB make that fast. An HBA that reaches all memory takes what it needs from the arena, and nothing of `low`.
    ///
    /// # Errors
    /// As `open`, and [`DeviceError::BadBuffer`] if `low` is not as it should be.
    pub fn open_narrow(
        config: C,
        function: Function,
        port: Option<u8>,
        map: impl FnMut(u64, usize) -> Option<R>,
        arena: &mut Arena<'_>,
        low: DmaBuffer,
        request_timeout: Nanoseconds,
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let hba = Hba::open(config, function, map, request_timeout)?;
        if hba.cap().contains(Cap::WIDE) {
            let memory = arena.dma(TABLES_BYTES, TABLES_ALIGN)?;
            return AhciDisk::new(hba, port, memory, [const { None }; BOUNCES]);
        }
        let length = low.len();
        let aligned = low.bus_address().is_multiple_of(TABLES_ALIGN as u64);
        let (memory, mut rest) = low.split(TABLES_BYTES);
        if !aligned || rest.len() < BLOCK_SIZE || !reaches(hba.cap(), rest.bus_address(), rest.len()) {
            return Err(DeviceError::BadBuffer { length });
        }
        // Equal parts, but no part is smaller than a block.
        let part = (rest.len() / BOUNCES).max(BLOCK_SIZE) & !BLOCK_SIZE.wrapping_sub(1);
        let mut bounces = [const { None }; BOUNCES];
        for slot in &mut bounces {
            let (bounce, behind) = rest.split(part);
            *slot = Some(bounce).filter(|bounce| bounce.len() == part);
            rest = behind;
        }
        AhciDisk::new(hba, port, memory, bounces)
    }

    fn new(
        hba: Hba<R, C>,
        port: Option<u8>,
        memory: DmaBuffer,
        bounces: [Option<DmaBuffer>; BOUNCES],
    ) -> Result<AhciDisk<R, C>, DeviceError> {
        let port = hba.find_disk(port)?;
        if !reaches(hba.cap(), memory.bus_address(), memory.len()) {
            let what = "memory below 4 GiB, as far as its HBA reaches";
            return Err(DeviceError::Unsupported { what, value: memory.bus_address() });
        }
        let mut name = *b"ahci 00:00.0 port 00";
        let place = hba.pci().address().text();
        let number = [b'0'.wrapping_add(port / 10), b'0'.wrapping_add(port % 10)];
        for (slot, byte) in name.iter_mut().skip(5).zip(place) {
            *slot = byte;
        }
        for (slot, byte) in name.iter_mut().skip(18).zip(number) {
            *slot = byte;
        }
        Ok(AhciDisk {
            hba,
            port: Port::new(port),
            tables: Tables::new(memory),
            bounces,
            slots: [Slot::FREE; SLOTS],
            turns: 0,
            name,
            terms: Terms::UNKNOWN,
            in_flight: 0,
            finished: 0,
            queued: false,
            careful: false,
            ready: false,
        })
    }

    /// After the HBA's reset: the port, the link, the disk.
    fn set_up(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.port.stop(&self.hba, wait)?;
        self.tables.clear(wait.platform());
        self.hba.pci().let_access_memory()?;
        self.port.equip(&self.hba, self.tables.list(), self.tables.received())?;
        self.port.restart(&self.hba, wait.now())?;
        let limit = self.hba.timeout().saturating_mul(RESTART_TIMES);
        wait.until("an AHCI port that starts", limit, || match self.port.step(&self.hba, wait.now()) {
            Ok(runs) => runs.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })??;
        self.terms = Terms::UNKNOWN;
        self.ready = true;
        self.command(Work::Identify, "an AHCI disk that identifies itself", self.hba.timeout(), wait)?;
        self.tables.read_identity(wait.platform());
        let identity = Identity::read(|word| self.tables.identity_word(word))?;
        self.terms = Terms::agree(self.hba.cap(), &identity);
        let bounces = self.bounces.iter().flatten();
        if let Some(least) = bounces.clone().map(DmaBuffer::len).min() {
            // A run has one, if it needs it or not.
            self.terms.runs = self.terms.runs.min(bounces.count() as u8);
            self.terms.round = self.terms.round.min(least);
        }
        Ok(())
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.hba.explain(error)
    }

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.work.is_none())
    }

    /// Takes a request; back if there is no room.
    fn take(&mut self, work: Work, platform: &dyn Platform) -> Result<(), (Work, DeviceError)> {
        if !self.ready {
            return Err((work, DeviceError::NotReady));
        }
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.work.is_none()) else {
            return Err((work, DeviceError::QueueFull));
        };
        self.turns = self.turns.wrapping_add(1);
        // What a failed flush has not written, the next one does not write either.
        let tried = matches!(work, Work::Flush);
        *slot = Slot { work: Some(work), turn: self.turns, tried, ..Slot::FREE };
        self.serve(platform);
        Ok(())
    }

    /// A run for another command, if the disk takes one.
    fn free_run(&self) -> Option<u8> {
        if !self.port.is_running() {
            return None;
        }
        let run = self.in_flight.trailing_ones() as u8;
        let runs = if self.careful { 1 } else { self.terms.runs };
        (run < runs && (self.queued || self.in_flight == 0)).then_some(run)
    }

    /// Gives the HBA what waits, oldest first, while it has room.
    fn serve(&mut self, platform: &dyn Platform) {
        // Each turn takes a free run, and their number is fixed.
        while let Some(run) = self.free_run() {
            let now = self.turns;
            let waiting = self.slots.iter_mut().filter(|slot| slot.waits());
            let Some(slot) = waiting.max_by_key(|slot| now.wrapping_sub(slot.turn)) else { return };
            let Some(work) = &slot.work else { return };
            slot.run = Some(run);
            let command = match work {
                Work::Identify => {
                    let mut pieces = core::iter::once(self.tables.identity());
                    slot.round = self.tables.identity().1;
                    self.tables.lay_out(run, Command::Identify, &mut pieces, platform);
                    Command::Identify
                }
                Work::Flush => {
                    let command = Command::Flush { long: self.terms.flush == Flush::Long };
                    self.tables.lay_out(run, command, &mut core::iter::empty(), platform);
                    command
                }
                Work::Transfer(request) => {
                    let bounce = self.bounces.get_mut(usize::from(run)).and_then(Option::as_mut);
                    let bounce = bounce.filter(|_| !reaches_all(self.hba.cap(), request));
                    let mut addressing = self.terms.addressing;
                    if self.careful && addressing == Addressing::Queued {
                        addressing = Addressing::Long;
                    }
                    let fit = parts(request, slot.done)
                        .take(PIECES)
                        .fold(0_usize, |sum, (_, length)| sum.saturating_add(length));
                    // What a command moves ends where a block does.
                    slot.round = fit.min(self.terms.round) & !BLOCK_SIZE.wrapping_sub(1);
                    slot.bounced = bounce.is_some();
                    let blocks = (slot.round / BLOCK_SIZE) as u32;
                    let block = request.block.wrapping_add((slot.done / BLOCK_SIZE) as u64);
                    let command = Command::Transfer {
                        write: request.direction == Direction::Write,
                        sector: block.wrapping_shl(self.terms.shift),
                        count: blocks.wrapping_shl(self.terms.shift),
                        addressing,
                    };
                    if let Some(bounce) = bounce {
                        if request.direction == Direction::Write {
                            let from = request.buffer.bytes().get(slot.done..).unwrap_or_default();
                            copy(from, bounce.bytes_mut(), slot.round);
                        }
                        bounce.clean_for_device(platform);
                        let mut pieces = core::iter::once((bounce.bus_address(), slot.round));
                        self.tables.lay_out(run, command, &mut pieces, platform);
                    } else {
                        let mut left = slot.round;
                        let mut pieces = parts(request, slot.done).map_while(|(address, length)| {
                            let length = length.min(left);
                            left = left.saturating_sub(length);
                            (length > 0).then_some((address, length))
                        });
                        self.tables.lay_out(run, command, &mut pieces, platform);
                    }
                    command
                }
            };
            self.queued = command.is_queued();
            slot.queued = self.queued;
            self.in_flight |= 1_u32.wrapping_shl(run.into());
            self.port.issue(&self.hba, run, self.queued);
        }
    }

    /// Starts a transfer; back if it cannot be.
    fn transfer(&mut self, request: Request, platform: &dyn Platform) -> Result<(), Rejected> {
        if !self.ready {
            return Err(Rejected { request, error: DeviceError::NotReady });
        }
        let length = request.length() as usize;
        let ragged = |bytes: u64| bytes == 0 || !bytes.is_multiple_of(BLOCK_SIZE as u64);
        let bad = ragged(request.buffer.len() as u64)
            || extents(&request).iter().any(|extent| ragged(extent.length))
            || extents(&request).len() > self.max_extents()
            || length > MAX_TRANSFER
            || (!extents(&request).is_empty() && request.direction == Direction::Read)
            // Two bytes at least move at once (4.2.3.3).
            || parts(&request, 0).any(|(address, _)| address & 1 != 0);
        if bad {
            return Err(Rejected { request, error: DeviceError::BadBuffer { length } });
        }
        if !reaches_all(self.hba.cap(), &request) && self.bounces.iter().all(Option::is_none) {
            let value = request.buffer.bus_address();
            let what = "a buffer below 4 GiB, as far as its HBA reaches";
            return Err(Rejected { request, error: DeviceError::Unsupported { what, value } });
        }
        let blocks = self.terms.blocks;
        let end = request.block.saturating_add((length / BLOCK_SIZE) as u64);
        if end > blocks {
            return Err(Rejected { request, error: DeviceError::OutOfRange { end, blocks } });
        }
        match self.take(Work::Transfer(request), platform) {
            Err((Work::Transfer(request), error)) => Err(Rejected { request, error }),
            // take() gives back what it was given, so there is no other failure.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// The next request that is over.
    fn next_finished(&mut self, wait: &Wait<'_>) -> Result<Option<Finished>, DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.port.is_running() {
            match self.port.step(&self.hba, wait.now()) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return Err(self.fail(error)),
            }
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.failed.is_some()) {
                let result = slot.failed.take().map_or(Ok(()), Err);
                let over = slot.work.take();
                return Ok(self.end(over, result, wait.platform()));
            }
            self.serve(wait.platform());
        }
        if self.in_flight == 0 {
            return Ok(None);
        }
        if self.finished == 0 {
            self.look(wait)?;
        }
        let run = self.finished.trailing_zeros() as u8;
        let bit = 1_u32.checked_shl(run.into()).unwrap_or(0);
        if bit == 0 {
            return Ok(None);
        }
        self.finished &= !bit;
        self.in_flight &= !bit;
        // What is in flight is in a slot.
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.run == Some(run)) else {
            return Err(self.fail(DeviceError::Protocol { what: "a finished command", value: run.into() }));
        };
        slot.run = None;
        let Some(work) = &mut slot.work else { return Ok(None) };
        let mut result = Ok(());
        // Of queued commands, nothing says how much they moved.
        if !slot.queued && slot.round > 0 {
            let moved = self.tables.transferred(run, wait.platform());
            // Some HBAs do not count.
            if moved != 0 && moved as usize != slot.round {
                result = Err(DeviceError::Protocol { what: "its bytes transferred", value: moved.into() });
            }
        }
        if let Work::Transfer(Request { direction: Direction::Read, buffer, .. }) = work
            && let Some(Some(bounce)) = self.bounces.get(usize::from(run))
            && slot.bounced
        {
            bounce.invalidate_from_device(wait.platform());
            let to = buffer.bytes_mut().get_mut(slot.done..).unwrap_or_default();
            copy(bounce.bytes(), to, slot.round);
            // The caller drops from its caches what it believes the HBA to have written.
            buffer.clean_for_device(wait.platform());
        }
        slot.done = slot.done.saturating_add(slot.round);
        let more = slot.done < work.length();
        let over = if result.is_err() || !more { slot.work.take() } else { None };
        Ok(self.end(over, result, wait.platform()))
    }

    /// Goes on with what waits, and tells what is over.
    fn end(
        &mut self,
        over: Option<Work>,
        result: Result<(), DeviceError>,
        platform: &dyn Platform,
    ) -> Option<Finished> {
        self.careful = self.slots.iter().any(|slot| slot.work.is_some() && slot.tried);
        self.serve(platform);
        Some(match over? {
            Work::Transfer(Request { id, buffer, gather, .. }) => {
                Finished::Transfer(Completion { id, buffer, gather, result })
            }
            Work::Flush | Work::Identify => Finished::Command(result),
        })
    }

    /// Looks at what the HBA has finished, and at errors.
    fn look(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // In this order: an error that comes in between has not finished anything.
        let pending = self.port.pending(&self.hba, self.queued);
        let events = self.port.events(&self.hba);
        if pending & !self.in_flight != 0 {
            let what = "its commands under way";
            return Err(self.fail(DeviceError::Protocol { what, value: pending.into() }));
        }
        if events.bits() == u32::MAX {
            return Err(self.fail(DeviceError::Gone));
        }
        let errors = events.intersection(Event::ERRORS);
        // Some HBAs count the one that has failed as finished. Of queued ones, the disk names those that are.
        let all_failed = errors.contains(Event::TASK_FILE) && !self.queued;
        // Where something went wrong and nothing is said to be unfinished, all of it is in doubt.
        let doubtful = pending == 0 && !errors.difference(Event::LINK | Event::OVERFLOW).is_empty();
        self.finished = if all_failed || doubtful { 0 } else { self.in_flight & !pending };
        if self.finished != 0 {
            // That it is finished, before its data.
            barrier::observe();
        }
        if errors.intersects(Event::CONNECT | Event::PHY_READY) {
            // Pulled, or without power for a moment: what its cache held is gone, and it may be another disk.
            let code = self.port.error_code(&self.hba, errors);
            return Err(self.fail(DeviceError::Status { what: "stay connected", code }));
        }
        if errors.is_empty() { Ok(()) } else { self.recover(errors, wait) }
    }

    /// Resets the port after an error. What was under way is done again, each by itself; what was by itself already, and
    /// has failed before, has failed.
    #[inline(never)]
    fn recover(&mut self, errors: Event, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let lost = self.in_flight & !self.finished;
        let alone = lost.is_power_of_two();
        let code = self.port.error_code(&self.hba, errors);
        for slot in &mut self.slots {
            let Some(run) = slot.run.filter(|run| lost >> run & 1 == 1) else { continue };
            slot.run = None;
            if slot.tried && alone {
                let what = slot.work.as_ref().map_or("go on", Work::what);
                slot.failed = Some(DeviceError::Status { what, code });
            }
            slot.tried = true;
            // Nothing of it is still in flight.
            self.in_flight &= !1_u32.wrapping_shl(run.into());
        }
        self.careful = true;
        match self.port.restart(&self.hba, wait.now()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Waits for the only request in flight.
    fn wait_for_it(
        &mut self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Finished, DeviceError> {
        let waited = wait.until(what, limit, || match self.next_finished(wait) {
            Ok(None) => None,
            Ok(Some(finished)) => Some(Ok(finished)),
            Err(error) => Some(Err(error)),
        });
        match waited {
            Ok(result) => result,
            // The request stays in flight, so the queue is no longer what rw_block takes it for.
            Err(timed_out) => Err(self.fail(timed_out.into())),
        }
    }

    /// A command without data of the caller's, while nothing else is in flight.
    fn command(
        &mut self,
        work: Work,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        self.take(work, wait.platform()).map_err(|(_, error)| error)?;
        match self.wait_for_it(what, limit, wait)? {
            Finished::Command(result) => result,
            Finished::Transfer(_) => Err(self.fail(DeviceError::NotReady)),
        }
    }
}

/// Copies up to `limit` bytes.
fn copy(from: &[u8], to: &mut [u8], limit: usize) {
    for (to, from) in to.iter_mut().zip(from).take(limit) {
        *to = *from;
    }
}

/// Whether an HBA reaches this many bytes at an address.
fn reaches(cap: Cap, bus: u64, length: usize) -> bool {
    cap.contains(Cap::WIDE) || bus.checked_add(length as u64).is_some_and(|end| end <= NARROW)
}

/// Whether an HBA reaches all data of a request.
fn reaches_all(cap: Cap, request: &Request) -> bool {
    cap.contains(Cap::WIDE) || parts(request, 0).all(|(address, length)| reaches(cap, address, length))
}

// SAFETY: a request is in a slot from transfer() on, until it goes back out of that slot, once, when the HBA no longer has its
// command, or has been stopped at an error; which runs it has, the driver's own record says. Slots are emptied when a reset is
// confirmed. Command tables name the parts of what is in a slot, or a bounce buffer, which like the tables is the driver's;
// which way data goes is the request's.
unsafe impl<R: Registers, C: ConfigSpace> DumpDevice for AhciDisk<R, C> {
    fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or_default()
    }

    /// `None` until `quiesce`: it takes a command to find out.
    fn geometry(&self) -> Option<Geometry> {
        (self.terms.blocks > 0).then_some(Geometry { blocks: self.terms.blocks })
    }

    fn sector_size(&self) -> Option<u32> {
        (self.terms.blocks > 0).then_some((BLOCK_SIZE as u32).wrapping_shr(self.terms.shift))
    }

    fn seal(&self, digest: &mut Digest) {
        self.hba.seal(digest);
        self.tables.seal(digest);
        digest.number(self.port.number().into()).bytes(&self.name);
        for bounce in self.bounces.iter().flatten() {
            bounce.place().seal(digest);
        }
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        match self.hba.health() {
            Health::Healthy => self.port.health(&self.hba),
            otherwise => otherwise,
        }
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        self.port.forget();
        // The registers are not known to be where they were, so an error is explained without looking at them.
        self.hba.take_over(wait).map_err(|error| self.hba.pci().explain(error))?;
        // The reset is confirmed. Buffers that were in flight are forgotten, not given back: whoever gave them has
        // been told so.
        for slot in &mut self.slots {
            *slot = Slot::FREE;
        }
        self.in_flight = 0;
        self.finished = 0;
        self.queued = false;
        self.careful = false;
        match self.set_up(wait) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.fail(error);
                // What the disk still has to say goes nowhere. Nothing is left to do if even this fails.
                if self.port.is_in_use() {
                    let _ = self.port.stop(&self.hba, wait);
                }
                let _ = self.hba.pci().keep_from_memory();
                Err(error)
            }
        }
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
        if let Err(Rejected { request, error }) =
            self.transfer(Request { id: 0, direction, block, buffer, gather: None }, wait.platform())
        {
            return (Some(request.buffer), Err(error));
        }
        let what = match direction {
            Direction::Read => "an AHCI read",
            Direction::Write => "an AHCI write",
        };
        match self.wait_for_it(what, self.hba.timeout(), wait) {
            Ok(Finished::Transfer(completion)) => (Some(completion.buffer), completion.result),
            Ok(Finished::Command(result)) => (None, result),
            Err(error) => (None, Err(error)),
        }
    }

    fn controller(&self) -> Option<u64> {
        Some(self.hba.pci().number())
    }

    /// 16, whatever the disk queues: what it does not take waits in the driver.
    fn depth(&self) -> usize {
        SLOTS
    }

    /// 1 MiB, whatever the disk takes at once: a larger request goes to it in rounds.
    fn max_transfer(&self) -> usize {
        MAX_TRANSFER
    }

    /// As many as the largest transfer has blocks; none if the HBA does not reach all memory.
    fn max_extents(&self) -> usize {
        if self.hba.cap().contains(Cap::WIDE) { MAX_EXTENTS } else { 0 }
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        self.transfer(request, wait.platform()).map(|()| None)
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        match self.next_finished(wait)? {
            Some(Finished::Transfer(completion)) => Ok(Some(completion)),
            Some(Finished::Command(_)) | None => Ok(None),
        }
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if self.terms.flush == Flush::None {
            return Ok(());
        }
        if !self.is_idle() {
            return Err(DeviceError::QueueFull);
        }
        let limit = self.hba.timeout().saturating_mul(FLUSH_TIMES);
        self.command(Work::Flush, "an AHCI flush", limit, wait)
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        self.hba.pci().function().check_present(self.hba.pci().config())?;
        // Of an HBA that did not get through its reset, nothing else is touched.
        let stopped = if self.port.is_in_use() { self.port.stop(&self.hba, wait) } else { Ok(()) };
        let stopped = stopped.map_err(|error| self.hba.explain(error));
        self.hba.pci().keep_from_memory()?;
        flushed.and(stopped)
    }
}

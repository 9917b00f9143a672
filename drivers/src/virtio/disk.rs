//! What all virtio disks have in common: requests in slots, given to the device in rounds, oldest first.
//!
//! A kind of disk is a [`Protocol`]: what surrounds a request's data, and what the device's answer means.

use core::num::NonZeroU64;

use dumpcore::arena::Arena;
use dumpcore::device::{
    Completion, DeviceError, Direction, DumpDevice, Gather, Geometry, Health, Rejected, Request,
};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::{MILLISECOND, Wait};
use zerocopy::FromBytes;

use super::queue::{Piece, QUEUE_ALIGN, QUEUE_BYTES, QUEUE_MAX, Queue};
use super::transport::{Place, Rings, Status, Transport};
use crate::bus::shared::{LINE, Shared};

/// Header and footer stand around the data.
const OVERHEAD: u16 = 2;
/// Requests that the driver takes at once. They fit into the largest queue together; in a smaller one, some wait.
const SLOTS: usize = 16;
/// Runs that are in use at most: a request has one, and takes the first that is free.
const RUNS: usize = SLOTS;
/// A flush may take this many times as long as a request: there may be gigabytes in the cache.
const FLUSH_TIMES: u64 = 12;
/// Pieces of scattered memory that one round should take.
const SCATTERED: usize = 16;
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;
/// Bytes in a request at most. More would not be faster.
const MAX_TRANSFER: usize = 1 << 20;
/// Pieces of data are cut at multiples of this many bytes, if they are so large: no disk has smaller blocks.
const SECTOR: usize = 512;

/// So many looks in a row that find nothing are followed by one at the device's status. That register is slow, so it is
/// not done more often; a device that is gone is noticed within milliseconds even so.
const LOOKS_PER_STATUS: u32 = 1 << 14;
/// A device that is busy is left alone for so long.
const BUSY_PAUSE: Nanoseconds = MILLISECOND;

/// What a request is for.
#[derive(Clone, Copy)]
pub enum Order<C> {
    /// Data between disk and memory.
    Transfer {
        /// Which way.
        direction: Direction,
        /// First block, in units of 4096 bytes.
        block: u64,
        /// Bytes, a multiple of 4096.
        bytes: usize,
    },
    /// A command of the driver's own.
    Command(C),
}

/// What became of a request.
pub enum Verdict {
    /// It is done. So many bytes of a command's answer are there.
    Done(usize),
    /// It has failed; the device continues.
    Failed(DeviceError),
    /// It was not done because of something that has happened meanwhile: once more. The error is for the second time.
    Again(DeviceError),
    /// The device is busy: once more, but later. The error is for when that has lasted too long.
    Later(DeviceError),
    /// The device can no longer be trusted.
    Fatal(DeviceError),
}

/// What was agreed upon with the device.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The device has a cache.
    pub flush: bool,
    /// Bytes in a piece of data at most, at least 1.
    pub size_max: u32,
    /// Pieces of data in a request at most, at least 1.
    pub seg_max: u32,
    /// Bytes of data in a request that the device should get at most.
    pub round: usize,
    /// Requests that the device should get at once at most.
    pub most: u16,
}

/// What a kind of disk is called.
pub struct Names {
    /// The kind.
    pub kind: &'static str,
    /// A read, for what is said of one that did not end.
    pub read: &'static str,
    /// A write.
    pub write: &'static str,
}

/// A kind of virtio disk.
pub trait Protocol: Send + Sized {
    /// What it can be asked besides transfers.
    type Command: Copy + Send;

    /// What it is called.
    const NAMES: Names;
    /// Which queue takes requests.
    const QUEUE: u16;
    /// Bytes before the data, read by the device.
    const HEADER: usize;
    /// Bytes that the device writes when it is done.
    const FOOTER: usize;
    /// Bytes that all commands' answers take together.
    const ANSWERS: usize;
    /// Whether those come before the data that it writes, not after.
    const FOOTER_FIRST: bool;
    /// The command that brings what is in the cache to the medium.
    const FLUSH: Self::Command;

    /// Size in blocks of 4096 bytes; `None` before it is known.
    fn blocks(&self) -> Option<u64>;

    /// Bytes in the disk's own blocks; `None` before it is known.
    fn sector_size(&self) -> Option<u32>;

    /// Feeds what stays.
    fn seal(&self, digest: &mut Digest);

    /// After a reset: agrees on features, and reads what the device says of itself.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn negotiate(&mut self, transport: &impl Transport) -> Result<Limits, DeviceError>;

    /// Once requests can be made: what takes some to find out.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn explore<T: Transport>(disk: &mut Disk<T, Self>, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// What a command is called that did not end; and where in [`ANSWERS`](Protocol::ANSWERS) its answer goes, and how many
    /// bytes it has at most.
    fn command(command: Self::Command) -> (&'static str, usize, usize);

    /// Writes the header, and a footer that cannot be the device's.
    fn prepare(&self, order: Order<Self::Command>, requests: &mut Shared, header: usize, footer: usize);

    /// What the footer says of a request, for which the device says that it wrote this many bytes.
    fn judge(&self, order: Order<Self::Command>, requests: &Shared, footer: usize, written: u32) -> Verdict;
}

/// What the driver was asked to do.
enum Work<C> {
    Transfer(Request),
    /// A command whose answer goes to this many bytes at a bus address.
    Command(C, u64, usize),
}

impl<C: Copy> Work<C> {
    /// Bytes of data.
    fn length(&self) -> usize {
        match self {
            Work::Transfer(request) => request.length() as usize,
            Work::Command(.., length) => *length,
        }
    }

    /// What the device has to do of it: `bytes` after the first `done`.
    fn order(&self, done: usize, bytes: usize) -> Order<C> {
        match self {
            Work::Transfer(Request { direction, block, .. }) => Order::Transfer {
                direction: *direction,
                block: block.wrapping_add((done / BLOCK_SIZE) as u64),
                bytes,
            },
            Work::Command(command, ..) => Order::Command(*command),
        }
    }

    /// Whether the device writes the data.
    fn is_read(&self) -> bool {
        !matches!(self, Work::Transfer(Request { direction: Direction::Write, .. }))
    }

    /// Bytes that the device gets at once must be a multiple of this.
    fn unit(&self) -> usize {
        match self {
            Work::Transfer(_) => BLOCK_SIZE,
            Work::Command(..) => 1,
        }
    }

    /// Where its data is, in order: bus address and bytes.
    fn parts(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let (first, gather) = match self {
            Work::Transfer(request) => {
                ((request.buffer.bus_address(), request.buffer.len()), request.gather.as_ref())
            }
            Work::Command(_, bus, length) => ((*bus, *length), None),
        };
        let extents = gather.map_or(&[][..], Gather::extents);
        core::iter::once(first).chain(extents.iter().map(|extent| (extent.bus, extent.length as usize)))
    }

    /// The pieces of at most `size` bytes that hold its data after the first `done` bytes, and as many bytes as are
    /// in each.
    fn pieces(&self, done: usize, size: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
        let mut before = done;
        self.parts().flat_map(move |(start, length)| {
            let skip = before.min(length);
            before = before.saturating_sub(skip);
            (skip..length).step_by(size.max(1)).map(move |offset| {
                (start.wrapping_add(offset as u64), length.saturating_sub(offset).min(size))
            })
        })
    }
}

/// Room for one request. What the device cannot take at once goes to it in rounds.
struct Slot<C> {
    work: Option<Work<C>>,
    /// Bytes that are done.
    done: usize,
    /// Bytes that the device has now.
    round: usize,
    /// `None` while the device has none of it; else the run.
    run: Option<u16>,
    /// When it came, to serve those that wait in order.
    turn: u32,
    /// The device got it a second time.
    again: bool,
}

impl<C> Slot<C> {
    const FREE: Slot<C> = Slot { work: None, done: 0, round: 0, run: None, turn: 0, again: false };
}

/// A request that is over.
enum Finished {
    Transfer(Completion),
    Command(Result<usize, DeviceError>),
}

/// How requests are cut.
#[derive(Clone, Copy)]
struct Terms {
    /// The device has a cache.
    flush: bool,
    /// Bytes in a piece of data at most.
    piece: usize,
    /// Bytes that the device takes at once at most.
    round: usize,
    /// Pieces of data that it takes at once at most.
    pieces: usize,
    /// Requests that it takes at once at most.
    most: u16,
}

/// A virtio disk: takes it over, and polls.
///
/// `open` it while the kernel is healthy, move it into the arena with [`Arena::place`], and give it to `arm()`. Opening
/// only looks: another driver may be using the disk, until [`quiesce`](DumpDevice::quiesce) takes it over by reset.
///
/// Reset ends everything that was in flight. Buffers of requests that the driver had in flight itself when it
/// failed stay lost: neither a failed device nor a fresh `quiesce` gives them back, so that a device that still
/// writes to them harms nobody. Any failure of the device itself (a wrong answer, a request of
/// [`rw_block`](DumpDevice::rw_block) or [`flush`](DumpDevice::flush) that does not end) ends its use: everything
/// is [`DeviceError::NotReady`] until `quiesce` succeeds again.
///
/// DMA need not be coherent: rings, headers and footers are cleaned and invalidated through the platform.
pub struct Disk<T, P: Protocol> {
    pub(super) transport: T,
    pub(super) protocol: P,
    queue: Queue,
    /// Headers and footers, one each per run, and the answers to commands.
    requests: Shared,
    slots: [Slot<P::Command>; SLOTS],
    /// Requests taken so far.
    turns: u32,
    name: [u8; NAME],
    name_length: usize,
    timeout: Nanoseconds,
    /// Size when opened.
    armed_blocks: Option<u64>,
    terms: Terms,
    /// Quiesced, and not failed since.
    ready: bool,
    /// Looks in a row that found nothing.
    idle: u32,
    /// Since when the device has been busy.
    busy_since: Option<Nanoseconds>,
    /// The device is busy: it gets nothing before.
    held_until: Option<NonZeroU64>,
}

/// Bytes in a name at most.
const NAME: usize = 12 + Place::CAPACITY;

/// Where the parts of the shared memory are.
struct Layout;

impl Layout {
    const fn header_stride<P: Protocol>() -> usize {
        P::HEADER.next_multiple_of(16)
    }

    /// The device writes footers. Each has cache lines of its own: one is made ready while the device writes another.
    const fn footer_stride<P: Protocol>() -> usize {
        P::FOOTER.next_multiple_of(LINE)
    }

    const fn footers<P: Protocol>() -> usize {
        RUNS.saturating_mul(Layout::header_stride::<P>()).next_multiple_of(LINE)
    }

    const fn answers<P: Protocol>() -> usize {
        Layout::footers::<P>().saturating_add(RUNS.saturating_mul(Layout::footer_stride::<P>()))
    }

    const fn bytes<P: Protocol>() -> usize {
        Layout::answers::<P>().saturating_add(P::ANSWERS.next_multiple_of(LINE))
    }

    /// Where the header of a run is.
    fn header<P: Protocol>(run: u16) -> usize {
        usize::from(run).wrapping_mul(Layout::header_stride::<P>())
    }

    /// Where the footer of a run is.
    fn footer<P: Protocol>(run: u16) -> usize {
        usize::from(run).wrapping_mul(Layout::footer_stride::<P>()).wrapping_add(Layout::footers::<P>())
    }
}

impl<T: Transport, P: Protocol> Disk<T, P> {
    /// A disk that is not touched before it is taken over. What it shares with the device is carved from the arena.
    pub(super) fn new(
        transport: T,
        protocol: P,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<Disk<T, P>, DeviceError> {
        let queue = Queue::new(Shared::new(arena.dma(QUEUE_BYTES, QUEUE_ALIGN.max(LINE))?));
        let requests = Shared::new(arena.dma(Layout::bytes::<P>(), LINE)?);
        let mut name = [0; NAME];
        let place = transport.place();
        let text = P::NAMES.kind.bytes().chain(core::iter::once(b' ')).chain(place.bytes().iter().copied());
        let mut name_length = 0_usize;
        for (slot, byte) in name.iter_mut().zip(text) {
            *slot = byte;
            name_length = name_length.saturating_add(1);
        }
        Ok(Disk {
            armed_blocks: protocol.blocks(),
            transport,
            protocol,
            queue,
            requests,
            slots: [const { Slot::FREE }; SLOTS],
            turns: 0,
            name,
            name_length,
            timeout: request_timeout,
            terms: Terms { flush: true, piece: MAX_TRANSFER, round: MAX_TRANSFER, pieces: 1, most: 1 },
            ready: false,
            idle: 0,
            busy_since: None,
            held_until: None,
        })
    }

    /// After a reset: features, limits, the queue, start.
    fn set_up(&mut self, platform: &dyn Platform) -> Result<(), DeviceError> {
        let limits = self.protocol.negotiate(&self.transport)?;
        let offer = self.transport.queue_offer(P::QUEUE)?;
        // A queue's size is a power of two (2.7); the driver may choose a smaller one (4.1.4.3, 4.2.2).
        let size = 1_u16.checked_shl(offer.size.min(QUEUE_MAX).checked_ilog2().unwrap_or(0)).unwrap_or(1);
        if offer.size <= OVERHEAD || size <= OVERHEAD {
            return Err(DeviceError::Unsupported {
                what: "a queue of at least 4 descriptors",
                value: offer.size.into(),
            });
        }
        let (terms, pieces) = cut(size, &limits)?;
        self.terms = terms;
        self.queue.start(size, pieces.saturating_add(OVERHEAD), platform);
        let rings = Rings {
            descriptors: self.queue.descriptors(),
            driver: self.queue.available_ring(),
            device: self.queue.used_ring(),
        };
        self.transport.set_up_queue(offer, size, &rings)?;
        self.transport.start()
    }

    /// Takes over, sets up, and looks.
    fn bring_up(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.set_up(wait.platform())?;
        self.ready = true;
        P::explore(self, wait)
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.transport.explain(error)
    }

    /// Size in blocks of 4096 bytes.
    fn blocks(&self) -> u64 {
        self.protocol.blocks().unwrap_or(0)
    }

    /// How many nanoseconds a request may take.
    pub(super) fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    /// Whether the device takes requests: quiesced, and not failed since.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.work.is_none())
    }

    /// Takes a request; back if there is no room.
    fn take(
        &mut self,
        work: Work<P::Command>,
        platform: &dyn Platform,
    ) -> Result<(), (Work<P::Command>, DeviceError)> {
        if !self.ready {
            return Err((work, DeviceError::NotReady));
        }
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.work.is_none()) else {
            return Err((work, DeviceError::QueueFull));
        };
        self.turns = self.turns.wrapping_add(1);
        *slot = Slot { work: Some(work), turn: self.turns, ..Slot::FREE };
        self.idle = 0;
        self.serve(platform);
        Ok(())
    }

    /// Gives the device what waits, oldest first, while the queue has room.
    fn serve(&mut self, platform: &dyn Platform) {
        // Each turn takes a free run, and a queue has a fixed number.
        while let Some(run) = self.queue.free_run() {
            if self.held_until.is_some() || self.queue.in_flight() >= self.terms.most {
                return;
            }
            let now = self.turns;
            let waiting = self.slots.iter_mut().filter(|slot| slot.work.is_some() && slot.run.is_none());
            let Some(slot) = waiting.max_by_key(|slot| now.wrapping_sub(slot.turn)) else { return };
            let Some(work) = &slot.work else { return };

            let Terms { piece, round, pieces, .. } = self.terms;
            let round = whole(work.pieces(slot.done, piece).take(pieces), round, work.unit());
            let work_pieces = work.pieces(slot.done, piece);
            slot.round = round;
            slot.run = Some(run);

            let (header_at, footer_at) = (Layout::header::<P>(run), Layout::footer::<P>(run));
            self.protocol.prepare(work.order(slot.done, round), &mut self.requests, header_at, footer_at);
            self.requests.clean(header_at, P::HEADER, platform);
            self.requests.clean(footer_at, P::FOOTER, platform);

            let (mut left, writable) = (round, work.is_read());
            let data = work_pieces.map_while(|(address, length)| {
                let length = length.min(left);
                left = left.saturating_sub(length);
                (length > 0).then_some(Piece { address, length: length as u32, writable })
            });
            let header = Piece {
                address: self.requests.bus_address(header_at),
                length: P::HEADER as u32,
                writable: false,
            };
            let footer = Piece {
                address: self.requests.bus_address(footer_at),
                length: P::FOOTER as u32,
                writable: true,
            };
            // Whatever the device writes comes last (2.7.4.2).
            let first = P::FOOTER_FIRST && writable;
            let mut pieces = core::iter::once(header)
                .chain(first.then_some(footer))
                .chain(data)
                .chain((!first).then_some(footer));
            // By reference: this is deep on a small stack.
            if self.queue.publish(run, &mut pieces, platform) {
                self.transport.notify();
            }
        }
    }

    /// Starts a transfer; back if it cannot be.
    fn transfer(&mut self, request: Request, platform: &dyn Platform) -> Result<(), Rejected> {
        if !self.ready {
            return Err(Rejected { request, error: DeviceError::NotReady });
        }
        let length = request.length() as usize;
        let extents = request.gather.as_ref().map_or(&[][..], Gather::extents);
        let ragged = |bytes: u64| bytes == 0 || !bytes.is_multiple_of(BLOCK_SIZE as u64);
        let bad = ragged(request.buffer.len() as u64)
            || extents.iter().any(|extent| ragged(extent.length))
            || length > MAX_TRANSFER
            || (!extents.is_empty() && request.direction == Direction::Read);
        if bad {
            return Err(Rejected { request, error: DeviceError::BadBuffer { length } });
        }
        let blocks = self.blocks();
        let end = request.block.saturating_add((length / BLOCK_SIZE) as u64);
        if end > blocks {
            return Err(Rejected { request, error: DeviceError::OutOfRange { end, blocks } });
        }
        match self.take(Work::Transfer(request), platform) {
            Err((Work::Transfer(request), error)) => Err(Rejected { request, error }),
            // take() gives back what it was given, so there is no other failure.
            Err((Work::Command(..), _)) | Ok(()) => Ok(()),
        }
    }

    /// The next request that is over.
    fn finished(&mut self, platform: &dyn Platform) -> Result<Option<Finished>, DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        let used = match self.queue.pop(platform) {
            Ok(Some(used)) => used,
            Ok(None) => {
                self.idle = self.idle.wrapping_add(1);
                if self.idle.is_multiple_of(LOOKS_PER_STATUS) {
                    self.check_alive()?;
                }
                if let Some(until) = self.held_until
                    && platform.now() >= until.get()
                {
                    self.held_until = None;
                    self.serve(platform);
                }
                return Ok(None);
            }
            Err(error) => return Err(self.fail(error)),
        };
        self.idle = 0;
        let footer_at = Layout::footer::<P>(used.run);
        self.requests.invalidate(footer_at, P::FOOTER, platform);
        let owner = self.slots.iter_mut().find(|slot| slot.run == Some(used.run));
        // The queue knows what is in flight, and so do the slots.
        let wrong = DeviceError::Protocol { what: "a finished request's id", value: used.run.into() };
        let Some(slot) = owner else { return Err(self.fail(wrong)) };
        let Some(work) = &slot.work else { return Err(self.fail(wrong)) };
        let order = work.order(slot.done, slot.round);
        slot.run = None;
        let result = match self.protocol.judge(order, &self.requests, footer_at, used.length) {
            Verdict::Done(bytes) => {
                self.busy_since = None;
                slot.done = slot.done.saturating_add(slot.round);
                Some(Ok(bytes))
            }
            Verdict::Failed(error) => Some(Err(error)),
            Verdict::Again(error) => {
                let second = core::mem::replace(&mut slot.again, true);
                second.then_some(Err(error))
            }
            Verdict::Later(error) => {
                let now = platform.now();
                let since = *self.busy_since.get_or_insert(now);
                self.held_until = NonZeroU64::new(now.saturating_add(BUSY_PAUSE));
                // Well before whoever waits for the request gives the device up.
                (now.saturating_sub(since) > self.timeout / 2).then_some(Err(error))
            }
            Verdict::Fatal(error) => return Err(self.fail(error)),
        };
        let over = match result {
            Some(Ok(_)) if slot.work.as_ref().is_some_and(|work| slot.done < work.length()) => None,
            Some(result) => slot.work.take().map(|work| (work, result)),
            None => None,
        };
        // The next round of this one, or whoever has waited longest.
        self.serve(platform);
        Ok(over.map(|(work, result)| match work {
            Work::Transfer(Request { id, buffer, gather, .. }) => {
                Finished::Transfer(Completion { id, buffer, gather, result: result.map(|_| ()) })
            }
            Work::Command(..) => Finished::Command(result),
        }))
    }

    fn check_alive(&mut self) -> Result<(), DeviceError> {
        // What explain() would put in the place of "nothing wrong" is the error.
        let error = self.transport.explain(DeviceError::NotReady);
        if error == DeviceError::NotReady {
            return Ok(());
        }
        self.ready = false;
        Err(error)
    }

    /// Waits for the only request in flight.
    fn wait_for_it(
        &mut self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Finished, DeviceError> {
        let waited = wait.until(what, limit, || match self.finished(wait.platform()) {
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

    /// Has the device do a command within `limit` nanoseconds, and gives how many bytes it
    /// [answered](Disk::answer). Nothing else is in flight.
    pub(super) fn ask(
        &mut self,
        command: P::Command,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<usize, DeviceError> {
        if !self.is_idle() {
            return Err(DeviceError::QueueFull);
        }
        let (what, place, length) = P::command(command);
        let at = Layout::answers::<P>().wrapping_add(place);
        self.requests.clean(at, length, wait.platform());
        let bus = self.requests.bus_address(at);
        self.take(Work::Command(command, bus, length), wait.platform()).map_err(|(_, error)| error)?;
        let finished = self.wait_for_it(what, limit, wait)?;
        self.requests.invalidate(at, length, wait.platform());
        match finished {
            Finished::Command(result) => result,
            Finished::Transfer(_) => Err(self.fail(DeviceError::NotReady)),
        }
    }

    /// What is at a byte offset in [`ANSWERS`](Protocol::ANSWERS); zeros beyond.
    pub(super) fn answer<V: FromBytes + Copy>(&self, offset: usize) -> V {
        self.requests.read(Layout::answers::<P>().wrapping_add(offset)).unwrap_or_else(V::new_zeroed)
    }
}

/// Bytes in these pieces, at most `limit`, down to a multiple of `unit`: what a request moves ends where a block does.
fn whole(pieces: impl Iterator<Item = (u64, usize)>, limit: usize, unit: usize) -> usize {
    let bytes = pieces.fold(0_usize, |sum, (_, length)| sum.saturating_add(length));
    bytes.min(limit) & !unit.wrapping_sub(1)
}

/// How requests are cut for a queue of `size` descriptors. Returns the number of pieces, too.
fn cut(size: u16, limits: &Limits) -> Result<(Terms, u16), DeviceError> {
    let Limits { flush, size_max, seg_max, round, most } = *limits;
    let piece = (size_max as usize).clamp(1, MAX_TRANSFER);
    // Whole sectors, if there is one in a piece; never nothing, which the compiler does not see by itself.
    let piece = if piece >= SECTOR { piece & !SECTOR.wrapping_sub(1) } else { piece }.max(1);
    let room = usize::from(size.saturating_sub(OVERHEAD)).min(seg_max as usize);
    let least = BLOCK_SIZE.div_ceil(piece);
    if least > room {
        let what = "segments of which a request can hold a block";
        return Err(DeviceError::Unsupported { what, value: size_max.into() });
    }
    // Large requests out of scattered memory, but four of them in flight.
    let quarter = usize::from((size / 4).saturating_sub(OVERHEAD));
    let wanted = MAX_TRANSFER.div_ceil(piece).max(SCATTERED);
    let pieces = wanted.min(quarter.max(least)).min(room);
    let round = pieces.saturating_mul(piece).min(MAX_TRANSFER).min(round.max(BLOCK_SIZE));
    let round = round & !BLOCK_SIZE.wrapping_sub(1);
    Ok((Terms { flush, piece, round, pieces, most: most.max(1) }, pieces as u16))
}

// SAFETY: a request is in a slot from transfer() on, until it goes back out of that slot, once; which slot, the driver's own
// record of runs says, and of what the device writes only an id that must be in it. Slots are emptied when a reset is
// confirmed, and nothing goes back before they are filled again. The device is given the pieces of what is in a slot, as ones
// that it writes only of a read, and the rings, headers, footers and answers, which are the driver's.
unsafe impl<T: Transport, P: Protocol> DumpDevice for Disk<T, P> {
    fn name(&self) -> &str {
        core::str::from_utf8(self.name.get(..self.name_length).unwrap_or_default()).unwrap_or_default()
    }

    fn geometry(&self) -> Option<Geometry> {
        self.protocol.blocks().map(|blocks| Geometry { blocks })
    }

    fn sector_size(&self) -> Option<u32> {
        self.protocol.sector_size()
    }

    fn seal(&self, digest: &mut Digest) {
        self.transport.seal(digest);
        self.protocol.seal(digest);
        self.queue.seal(digest);
        self.requests.seal(digest);
        digest.bytes(&self.name).number(self.timeout);
        digest.number(self.armed_blocks.is_some().into()).number(self.armed_blocks.unwrap_or(0));
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        match self.transport.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        match self.transport.status() {
            Err(gone) => Health::Unusable(gone),
            Ok(status) if status.intersects(Status::NEEDS_RESET | Status::FAILED) => {
                Health::Risky(DeviceError::Status { what: "stay in operation", code: status.bits().into() })
            }
            // A device at rest needs no bus mastering; one that somebody uses does.
            Ok(status) if status.contains(Status::DRIVER_OK) => self.transport.health_in_use(),
            Ok(_) => Health::Healthy,
        }
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        // The registers are not known to be where they were, so an error is explained without looking at them.
        self.transport.take_over(wait).map_err(|error| self.transport.explain_place(error))?;
        // The reset is confirmed. Buffers that were in flight are forgotten, not given back: whoever gave them has
        // been told so.
        for slot in &mut self.slots {
            *slot = Slot::FREE;
        }
        self.idle = 0;
        self.busy_since = None;
        self.held_until = None;
        match self.bring_up(wait) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.fail(error);
                self.transport.give_up();
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
            Direction::Read => P::NAMES.read,
            Direction::Write => P::NAMES.write,
        };
        match self.wait_for_it(what, self.timeout, wait) {
            Ok(Finished::Transfer(completion)) => (Some(completion.buffer), completion.result),
            Ok(Finished::Command(result)) => (None, result.map(|_| ())),
            Err(error) => (None, Err(error)),
        }
    }

    fn controller(&self) -> Option<u64> {
        Some(self.transport.number())
    }

    /// 16, whatever the device's queue holds: what does not fit into it waits in the driver.
    fn depth(&self) -> usize {
        SLOTS
    }

    /// 1 MiB, whatever the device takes at once: a larger request goes to it in rounds.
    fn max_transfer(&self) -> usize {
        MAX_TRANSFER
    }

    /// As many as the largest transfer has blocks: what the device does not take at once goes to it in rounds.
    fn max_extents(&self) -> usize {
        MAX_EXTENTS
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        self.transfer(request, wait.platform()).map(|()| None)
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        match self.finished(wait.platform())? {
            Some(Finished::Transfer(completion)) => Ok(Some(completion)),
            Some(Finished::Command(_)) | None => Ok(None),
        }
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.terms.flush {
            // The device has said that it has no cache that could be lost.
            return Ok(());
        }
        self.ask(P::FLUSH, self.timeout.saturating_mul(FLUSH_TIMES), wait).map(|_| ())
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        let retired = self.transport.retire(wait);
        flushed.and(retired)
    }
}

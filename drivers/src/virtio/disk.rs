//! The common part of all virtio disks: requests as descriptor chains in one queue.
//!
//! A kind of disk is a [`Protocol`]: the header and footer of a request, and the meaning of the device's
//! response.
//!
//! One file: a request is cut, published, collected and recovered by one state machine.

use core::marker::PhantomData;
use core::num::NonZeroU64;

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, Health, Request};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::{MILLISECOND, Wait};
use zerocopy::FromBytes;

use super::mmio::{self, MmioSlot, MmioTransport};
use super::pci::{self, PciTransport};
use super::queue::{Piece, QUEUE_ALIGN, QUEUE_BYTES, QUEUE_MAX, Queue};
use super::transport::{Kind, Rings, Status, Transport};
use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::{LINE, Shared};
use crate::disk::driver::{Driver, Machine, Place, Site, Unit, access};
use crate::disk::pending::DEPTH;
use crate::disk::request::{MAX_TRANSFER, first_bytes, spans, total, whole_blocks};
use crate::disk::{Called, Name, Polled, PolledDisk, Progress, Requests, Shutdown, Span, Work};

/// Header and footer of a request.
const OVERHEAD: u16 = 2;
/// Minimum number of pieces per round for scattered memory.
const SCATTERED: usize = 16;
/// Large data is split at multiples of this many bytes: no disk has smaller blocks.
const SECTOR: usize = 512;
/// Pause before retrying a busy device.
const BUSY_PAUSE: Nanoseconds = MILLISECOND;

/// The purpose of a request.
#[derive(Clone, Copy)]
pub enum Order<C> {
    /// A transfer between disk and memory.
    Transfer {
        /// The direction.
        direction: Direction,
        /// First block, in units of 4096 bytes.
        block: u64,
        /// Bytes, a multiple of 4096.
        bytes: usize,
    },
    /// A command of the driver's own.
    Command(C),
}

/// The outcome of a request.
pub enum Verdict {
    /// It succeeded. The response to a command has this many bytes.
    Done(usize),
    /// It failed; the device continues.
    Failed(DeviceError),
    /// It was not executed because of an event in between: retry. The error is for a second time.
    Again(DeviceError),
    /// The device is busy: retry later. The error is for when that lasts too long.
    Later(DeviceError),
    /// The device can no longer be trusted.
    Fatal(DeviceError),
}

/// The negotiated limits.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The device has a cache.
    pub flush: bool,
    /// Maximum number of bytes per piece of data, at least 1.
    pub size_max: u32,
    /// Maximum number of pieces of data per request, at least 1.
    pub seg_max: u32,
    /// Preferred maximum of data bytes per request.
    pub round: usize,
    /// Preferred maximum of requests in flight.
    pub most: u16,
}

/// Location of a command's response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Byte offset in [`ANSWERS`](Protocol::ANSWERS).
    pub offset: usize,
    /// Maximum number of bytes.
    pub length: usize,
}

/// A kind of virtio disk.
pub trait Protocol: Send + Sized {
    /// Commands other than transfers.
    type Command: Copy + Send;

    /// The kind of device.
    const DEVICE: Kind;
    /// Its name.
    const KIND: &'static str;
    /// Name of a read for a timeout.
    const READ: &'static str;
    /// Name of a write.
    const WRITE: &'static str;
    /// The queue for requests.
    const QUEUE: u16;
    /// Bytes of the header, which the device reads.
    const HEADER: usize;
    /// Bytes of the footer, which the device writes on completion.
    const FOOTER: usize;
    /// Total bytes of the responses to commands.
    const ANSWERS: usize;
    /// Whether the footer precedes the data that the device writes, instead of following it.
    const FOOTER_FIRST: bool;
    /// The flush command.
    const FLUSH: Self::Command;

    /// What is known before the takeover. `unit` is which disk of the device; `None` means the first.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn new(transport: &impl Transport, unit: Option<Unit>) -> Result<Self, DeviceError>;

    /// Size in blocks of 4096 bytes; `None` before it is known.
    fn blocks(&self) -> Option<u64>;

    /// Bytes in the disk's own blocks; `None` before it is known.
    fn sector_size(&self) -> Option<u32>;

    /// Feeds everything that must not change.
    fn integrity(&self, digest: &mut Digest);

    /// After a reset: negotiates features, and reads the device's configuration.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn negotiate(&mut self, transport: &impl Transport) -> Result<Limits, DeviceError>;

    /// Finds out the properties that take requests, once these can be made.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn explore<T: Transport>(disk: &mut Disk<T, Self>, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Name of a command for a timeout.
    fn called(command: Self::Command) -> &'static str;

    /// Location of a command's response in [`ANSWERS`](Protocol::ANSWERS).
    fn answer(command: Self::Command) -> Answer;

    /// Writes the header, and an initial footer that the device cannot write, at these offsets.
    fn prepare(&self, order: Order<Self::Command>, requests: &mut Shared, header: usize, footer: usize);

    /// Judges a request by its footer; `written` is the length that the device reports.
    fn judge(&self, order: Order<Self::Command>, requests: &Shared, footer: usize, written: u32) -> Verdict;
}

/// Driver state of a request.
#[derive(Default)]
pub struct Published {
    /// Its descriptor chain; `None` while the device does not have it.
    chain: Option<u16>,
}

/// Limits for splitting requests.
#[derive(Clone, Copy)]
struct Cut {
    /// The device has a cache.
    flush: bool,
    /// Maximum number of bytes per piece of data.
    piece: usize,
    /// Maximum number of bytes per round.
    round: usize,
    /// Maximum number of pieces of data per round.
    pieces: usize,
    /// Maximum number of requests in flight.
    most: u16,
}

/// A virtio disk: takes it over, and polls.
pub type Disk<T, P> = Polled<Virtio<T, P>>;

/// The virtio device's part of the driver.
pub struct Virtio<T, P: Protocol> {
    transport: T,
    pub(super) protocol: P,
    queue: Queue,
    /// One header and one footer per chain, and the responses to commands.
    shared: Shared,
    /// Size at open.
    armed_blocks: Option<u64>,
    cut: Cut,
    /// Bytes of the last command's response.
    answered: usize,
    /// Since when the device has been busy.
    busy_since: Option<Nanoseconds>,
    /// The device is busy: issue nothing until then.
    held_until: Option<NonZeroU64>,
}

/// Layout of the shared memory.
struct Layout;

impl Layout {
    const fn header_stride<P: Protocol>() -> usize {
        P::HEADER.next_multiple_of(16)
    }

    /// The device writes footers. Each has its own cache lines: the CPU prepares one while the device writes
    /// another.
    const fn footer_stride<P: Protocol>() -> usize {
        P::FOOTER.next_multiple_of(LINE)
    }

    const fn footers<P: Protocol>() -> usize {
        DEPTH.saturating_mul(Layout::header_stride::<P>()).next_multiple_of(LINE)
    }

    const fn answers<P: Protocol>() -> usize {
        Layout::footers::<P>().saturating_add(DEPTH.saturating_mul(Layout::footer_stride::<P>()))
    }

    const fn bytes<P: Protocol>() -> usize {
        Layout::answers::<P>().saturating_add(P::ANSWERS.next_multiple_of(LINE))
    }

    /// Offset of a chain's header.
    fn header<P: Protocol>(chain: u16) -> usize {
        usize::from(chain).wrapping_mul(Layout::header_stride::<P>())
    }

    /// Offset of a chain's footer.
    fn footer<P: Protocol>(chain: u16) -> usize {
        usize::from(chain).wrapping_mul(Layout::footer_stride::<P>()).wrapping_add(Layout::footers::<P>())
    }
}

impl<T: Transport, P: Protocol> Disk<T, P> {
    /// A disk; the device is not touched until it is taken over. Its shared memory comes from the arena.
    fn on(transport: T, unit: Option<Unit>, arena: &mut Arena<'_>) -> Result<Disk<T, P>, DeviceError> {
        let protocol = P::new(&transport, unit)?;
        let queue = Queue::new(Shared::new(arena.dma(QUEUE_BYTES, QUEUE_ALIGN.max(LINE))?));
        let shared = Shared::new(arena.dma(Layout::bytes::<P>(), LINE)?);
        let name = transport.place(Name::new(P::KIND).text(b" "));
        let virtio = Virtio {
            armed_blocks: protocol.blocks(),
            transport,
            protocol,
            queue,
            shared,
            cut: Cut { flush: true, piece: MAX_TRANSFER, round: MAX_TRANSFER, pieces: 1, most: 1 },
            answered: 0,
            busy_since: None,
            held_until: None,
        };
        Ok(Polled::new(virtio, name))
    }

    /// Executes a command, and returns the number of bytes of its [response](Virtio::answer).
    pub(super) fn ask(&mut self, command: P::Command, wait: &Wait<'_>) -> Result<usize, DeviceError> {
        self.command(command, self.device.timeout(), wait)?;
        Ok(self.device.answered)
    }
}

/// The `index`th function on PCI that is a device of a protocol's kind, counted from 0 in the order of the bus.
pub(super) fn find<P: Protocol>(config: &(impl ConfigSpace + ?Sized), index: usize) -> Option<Function> {
    functions(config).filter(|function| pci::is(function, &P::DEVICE)).nth(index)
}

impl<R: Registers, C: ConfigSpace, P: Protocol> Disk<PciTransport<R, C>, P> {
    /// Looks at a disk behind PCI.
    pub(super) fn open_pci(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        unit: Option<Unit>,
        arena: &mut Arena<'_>,
    ) -> Result<Self, DeviceError> {
        Disk::on(PciTransport::open(access, function, &P::DEVICE)?, unit, arena)
    }
}

impl<R: Registers, P: Protocol> Disk<MmioTransport<R>, P> {
    /// Looks at a disk behind MMIO.
    pub(super) fn open_window(
        slot: MmioSlot<R>,
        unit: Option<Unit>,
        arena: &mut Arena<'_>,
        timeout: Nanoseconds,
    ) -> Result<Self, DeviceError> {
        Disk::on(MmioTransport::open(slot, &P::DEVICE, timeout)?, unit, arena)
    }
}

/// The driver of a kind of disk behind PCI, for the table.
pub struct OnPci<P>(PhantomData<P>);

impl<M: Machine, P: Protocol + 'static> Driver<M> for OnPci<P> {
    type Disk = Disk<PciTransport<M::Registers, M::Config>, P>;

    fn find(machine: &mut M, number: usize) -> Option<Site> {
        Site::on_pci(&machine.config(), number, |function| pci::is(function, &P::DEVICE))
    }

    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError> {
        Disk::open_pci(access(machine), site.need_function()?, site.unit, arena)
    }
}

/// The driver of a kind of disk behind MMIO, for the table.
pub struct OnMmio<P>(PhantomData<P>);

impl<M: Machine, P: Protocol + 'static> Driver<M> for OnMmio<P> {
    type Disk = Disk<MmioTransport<M::Registers>, P>;

    fn find(machine: &mut M, number: usize) -> Option<Site> {
        let windows = machine.windows().iter().copied();
        let map = |physical, length| machine.map(physical, length);
        let slot = mmio::find(windows, map, P::DEVICE.id, number)?;
        Some(Site { place: Place::Window(slot.physical), unit: None })
    }

    fn open(machine: &mut M, site: &Site, arena: &mut Arena<'_>) -> Result<Self::Disk, DeviceError> {
        let Place::Window(physical) = site.place else {
            return Err(DeviceError::Unsupported { what: "virtio registers that are on no bus", value: 0 });
        };
        let unmapped = DeviceError::Unsupported { what: "registers that can be mapped", value: physical };
        let registers = machine.map(physical, mmio::WINDOW).ok_or(unmapped)?;
        Disk::open_window(MmioSlot { physical, registers }, site.unit, arena, machine.timeout())
    }
}

impl<T: Transport, P: Protocol> Virtio<T, P> {
    /// The value at a byte offset in [`ANSWERS`](Protocol::ANSWERS); zeros beyond.
    pub(super) fn answer<V: FromBytes + Copy>(&self, offset: usize) -> V {
        self.shared.read(Layout::answers::<P>().wrapping_add(offset)).unwrap_or_else(V::new_zeroed)
    }

    /// The span for a command's response.
    fn answer_span(&self, command: P::Command) -> Span {
        let Answer { offset, length } = P::answer(command);
        Span { bus: self.shared.bus_address(Layout::answers::<P>().wrapping_add(offset)), length }
    }

    /// Publishes a descriptor chain: header, data, footer.
    fn publish(
        &mut self,
        chain: u16,
        order: Order<P::Command>,
        data: &mut dyn Iterator<Item = Piece>,
        platform: &dyn Platform,
    ) {
        let (header_at, footer_at) = (Layout::header::<P>(chain), Layout::footer::<P>(chain));
        self.protocol.prepare(order, &mut self.shared, header_at, footer_at);
        self.shared.clean(header_at, P::HEADER, platform);
        self.shared.clean(footer_at, P::FOOTER, platform);
        let address = self.shared.bus_address(header_at);
        let header = Piece { address, length: P::HEADER as u32, writable: false };
        let address = self.shared.bus_address(footer_at);
        let footer = Piece { address, length: P::FOOTER as u32, writable: true };
        // Everything that the device writes comes last (2.7.4.2).
        let first = P::FOOTER_FIRST && order.is_read();
        let mut pieces = core::iter::once(header)
            .chain(first.then_some(footer))
            .chain(data)
            .chain((!first).then_some(footer));
        // By reference, to save stack: the call is deep.
        if self.queue.publish(chain, &mut pieces, platform) {
            self.transport.notify();
        }
    }
}

/// Spans as pieces of at most `size` bytes.
fn pieces(spans: impl Iterator<Item = Span>, size: usize) -> impl Iterator<Item = Span> {
    spans.flat_map(move |Span { bus, length }| {
        (0..length).step_by(size.max(1)).map(move |offset| Span {
            bus: bus.wrapping_add(offset as u64),
            length: length.saturating_sub(offset).min(size),
        })
    })
}

/// The limits for splitting requests, for a queue of `size` descriptors.
fn cut(size: u16, limits: &Limits) -> Result<Cut, DeviceError> {
    let Limits { flush, size_max, seg_max, round, most } = *limits;
    let piece = (size_max as usize).clamp(1, MAX_TRANSFER);
    // Whole sectors, if a piece has room for one; never 0, which the compiler cannot see by itself.
    let piece = if piece >= SECTOR { piece & !SECTOR.wrapping_sub(1) } else { piece }.max(1);
    let room = usize::from(size.saturating_sub(OVERHEAD)).min(seg_max as usize);
    let least = BLOCK_SIZE.div_ceil(piece);
    if least > room {
        let what = "segments of which a request can hold a block";
        return Err(DeviceError::Unsupported { what, value: size_max.into() });
    }
    // Large requests from scattered memory, but four of them in flight.
    let quarter = usize::from((size / 4).saturating_sub(OVERHEAD));
    let wanted = MAX_TRANSFER.div_ceil(piece).max(SCATTERED);
    let pieces = wanted.min(quarter.max(least)).min(room);
    let round = pieces.saturating_mul(piece).min(MAX_TRANSFER).min(round.max(BLOCK_SIZE));
    Ok(Cut { flush, piece, round: whole_blocks(round), pieces, most: most.max(1) })
}

impl<C> Order<C> {
    /// Whether the device writes the data.
    fn is_read(&self) -> bool {
        !matches!(self, Order::Transfer { direction: Direction::Write, .. })
    }
}

/// The order for part of a transfer: `bytes` after the first `done`.
fn order<C>(request: &Request, done: usize, bytes: usize) -> Order<C> {
    let block = request.block.wrapping_add((done / BLOCK_SIZE) as u64);
    Order::Transfer { direction: request.direction, block, bytes }
}

// SAFETY: a request is over when the queue has returned its chain; the driver's own record says which chains
// the device has, and from the device it uses only an id that must be in that record. The device is given the
// pieces of pending requests, writable only for a read, and the rings, headers, footers and responses, which
// belong to the driver.
unsafe impl<T: Transport, P: Protocol> PolledDisk for Virtio<T, P> {
    type Command = P::Command;
    type State = Published;

    const READ: &'static str = P::READ;
    const WRITE: &'static str = P::WRITE;
    const POLLS_MEMORY: bool = true;

    fn called(command: P::Command) -> Called {
        // The protocol's own words tell what failed.
        Called { noun: P::called(command), verb: P::called(command) }
    }

    fn timeout(&self) -> Nanoseconds {
        self.transport.timeout()
    }

    fn controller(&self) -> u64 {
        self.transport.number()
    }

    fn blocks(&self) -> Option<u64> {
        self.protocol.blocks()
    }

    fn sector_size(&self) -> Option<u32> {
        self.protocol.sector_size()
    }

    fn integrity(&self, digest: &mut Digest) {
        self.transport.integrity(digest);
        self.protocol.integrity(digest);
        self.queue.integrity(digest);
        self.shared.integrity(digest);
        digest.number(self.armed_blocks.is_some().into()).number(self.armed_blocks.unwrap_or(0));
    }

    fn health(&mut self) -> Health {
        match self.transport.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        match self.transport.status() {
            Err(gone) => Health::Unusable(gone),
            Ok(status) if status.intersects(Status::NEEDS_RESET | Status::FAILED) => {
                Health::Risky(DeviceError::Status { what: "stay in operation", code: status.bits().into() })
            }
            // An idle device needs no bus mastering; a device in use does.
            Ok(status) if status.contains(Status::DRIVER_OK) => self.transport.health_in_use(),
            Ok(_) => Health::Healthy,
        }
    }

    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // The registers may have moved, so explain an error without reading them.
        self.transport.take_over(wait).map_err(|error| self.transport.explain_place(error))
    }

    /// Negotiates features and limits, sets up the queue, and starts the device.
    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.busy_since = None;
        self.held_until = None;
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
        self.cut = cut(size, &limits)?;
        self.queue.start(size, (self.cut.pieces as u16).saturating_add(OVERHEAD), wait.platform());
        let rings = Rings {
            descriptors: self.queue.descriptors(),
            driver: self.queue.available_ring(),
            device: self.queue.used_ring(),
        };
        self.transport.set_up_queue(offer, size, &rings)?;
        self.transport.start()
    }

    fn explore(disk: &mut Disk<T, P>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        P::explore(disk, wait)
    }

    fn give_up(&mut self, _: &Wait<'_>) {
        self.transport.give_up();
    }

    fn flush_command(&self) -> Option<P::Command> {
        // Without this feature, the device has no volatile cache.
        self.cut.flush.then_some(P::FLUSH)
    }

    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform) {
        // Each turn takes a free chain, and a queue's chains are limited.
        while let Some(chain) = self.queue.free_chain() {
            if self.held_until.is_some() || self.queue.in_flight() >= self.cut.most {
                return;
            }
            let waiting = requests.oldest(|pending| pending.state.chain.is_none());
            let Some(pending) = waiting.and_then(|index| requests.get_mut(index)) else { return };
            let Cut { piece, round: most, pieces: count, .. } = self.cut;
            let done = pending.done;
            pending.state.chain = Some(chain);
            let reached =
                |request| whole_blocks(total(pieces(spans(request, done), piece).take(count)).min(most));
            let round = pending.request().map_or(0, reached);
            pending.round = round;
            let piece_of =
                |span: Span, writable| Piece { address: span.bus, length: span.length as u32, writable };
            match pending.work() {
                Some(Work::Transfer(request)) => {
                    let order = order(request, done, round);
                    let writable = order.is_read();
                    let mut data = first_bytes(pieces(spans(request, done), piece), round)
                        .map(|span| piece_of(span, writable));
                    self.publish(chain, order, &mut data, platform);
                }
                Some(Work::Command(command)) => {
                    let span = self.answer_span(*command);
                    let at = Layout::answers::<P>().wrapping_add(P::answer(*command).offset);
                    self.shared.clean(at, span.length, platform);
                    let span = first_bytes(core::iter::once(span), most);
                    let mut data = pieces(span, piece).take(count).map(|span| piece_of(span, true));
                    self.publish(chain, Order::Command(*command), &mut data, platform);
                }
                None => return,
            }
        }
    }

    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError> {
        let platform = wait.platform();
        let Some(used) = self.queue.pop(platform)? else {
            if let Some(until) = self.held_until
                && platform.now() >= until.get()
            {
                self.held_until = None;
                return Ok(Progress::Room);
            }
            return Ok(Progress::Nothing);
        };
        let footer_at = Layout::footer::<P>(used.chain);
        self.shared.invalidate(footer_at, P::FOOTER, platform);
        // Both the queue and the requests know what is in flight.
        let wrong = DeviceError::Protocol { what: "a finished request's id", value: used.chain.into() };
        let index = requests.position(|pending| pending.state.chain == Some(used.chain)).ok_or(wrong)?;
        let pending = requests.get_mut(index).ok_or(wrong)?;
        let order = match pending.work().ok_or(wrong)? {
            Work::Transfer(request) => order(request, pending.done, pending.round),
            Work::Command(command) => {
                let Answer { offset, length } = P::answer(*command);
                self.shared.invalidate(Layout::answers::<P>().wrapping_add(offset), length, platform);
                Order::Command(*command)
            }
        };
        pending.state.chain = None;
        let result = match self.protocol.judge(order, &self.shared, footer_at, used.length) {
            Verdict::Done(bytes) => {
                self.busy_since = None;
                self.answered = bytes;
                if pending.finish_round() { None } else { Some(Ok(())) }
            }
            Verdict::Failed(error) => Some(Err(error)),
            Verdict::Again(error) => {
                let second = core::mem::replace(&mut pending.tried, true);
                second.then_some(Err(error))
            }
            Verdict::Later(error) => {
                let now = platform.now();
                let since = *self.busy_since.get_or_insert(now);
                self.held_until = NonZeroU64::new(now.saturating_add(BUSY_PAUSE));
                // Well before the timeout of the request.
                (now.saturating_sub(since) > self.timeout() / 2).then_some(Err(error))
            }
            Verdict::Fatal(error) => return Err(error),
        };
        Ok(result.map_or(Progress::Room, |result| Progress::Over { index, result }))
    }

    fn explain(&self, error: DeviceError) -> DeviceError {
        self.transport.explain(error)
    }

    fn shut_down(&mut self, _: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.transport.retire(wait)
    }
}

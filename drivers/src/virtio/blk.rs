//! The virtio block device (virtio 1.2, 5.2) as a disk that receives a dump.

use dumpcore::arena::Arena;
use dumpcore::device::{
    Completion, DeviceError, Direction, DumpDevice, Gather, Geometry, Health, Rejected, Request,
};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;
use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::queue::{Piece, QUEUE_ALIGN, QUEUE_BYTES, QUEUE_MAX, Queue};
use super::transport::{Feature, Status, Transport, VENDOR};
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::{LINE, Shared};

/// PCI device id of a modern-only block device (4.1.2).
const MODERN: u16 = 0x1042;
/// PCI device id of a transitional one; it has the modern registers too.
const TRANSITIONAL: u16 = 0x1001;

/// Device configuration (5.2.4).
mod configuration {
    /// Size in sectors, 64 bits.
    pub(super) const CAPACITY: usize = 0;
    /// Bytes in a piece at most.
    pub(super) const SIZE_MAX: usize = 8;
    /// Pieces of data in a request at most.
    pub(super) const SEG_MAX: usize = 12;
    /// Bytes in a block of the disk.
    pub(super) const BLK_SIZE: usize = 20;
    /// A device has at least the capacity.
    pub(super) const LEAST: u32 = 8;
    pub(super) const SIZE: u32 = 24;
}

/// Unit of capacity and of addresses, whatever the disk's own blocks are (5.2.4).
const SECTOR: u64 = 512;
const SECTORS_IN_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR;

bitflags::bitflags! {
    /// Features of a block device (5.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct BlkFeature: u64 {
        /// A piece has a largest size.
        const SIZE_MAX = 1 << 1;
        /// A request has a largest number of pieces.
        const SEG_MAX = 1 << 2;
        /// The disk is read-only.
        const RO = 1 << 5;
        /// The disk has blocks of its own.
        const BLK_SIZE = 1 << 6;
        /// There is a cache, and a command to flush it.
        const FLUSH = 1 << 9;
    }
}

/// Request types (5.2.6).
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;

/// Request status (5.2.6): done.
const STATUS_OK: u8 = 0;
/// Request status: device or driver error.
const STATUS_IO_ERROR: u8 = 1;
/// Request status: the device does not know the request.
const STATUS_UNSUPPORTED: u8 = 2;
/// What stands there before the device writes its own.
const STATUS_UNWRITTEN: u8 = 0xff;

/// What stands before the data of every request (5.2.6). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}
const_assert_eq!(size_of::<Header>(), 16);

/// Header and status stand around the data.
const OVERHEAD: u16 = 2;
/// Requests that the driver takes at once. They fit into the largest queue together; in a smaller one, some wait.
const SLOTS: usize = 16;
/// Runs that the largest queue has at most.
const RUNS: usize = (QUEUE_MAX / (OVERHEAD + 1)) as usize;
/// A flush may take so many times as long as a request: there may be gigabytes in the cache.
const FLUSH_TIMES: u64 = 12;
/// Pieces of scattered memory that one round should take.
const SCATTERED: usize = 16;
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;
/// Bytes in a request at most. More would not be faster.
const MAX_TRANSFER: usize = 1 << 20;

/// Where the status bytes, which the device writes, begin. Each has a cache line of its own: one is made ready while the
/// device writes another.
const STATUSES: usize = (RUNS * size_of::<Header>()).next_multiple_of(LINE);
const REQUESTS_BYTES: usize = STATUSES + RUNS * LINE;

/// Where the header of a run is.
fn header_at(run: u16) -> usize {
    usize::from(run).wrapping_mul(size_of::<Header>())
}

/// Where the status byte of a run is.
fn status_at(run: u16) -> usize {
    usize::from(run).wrapping_mul(LINE).wrapping_add(STATUSES)
}

/// What the driver was asked to do.
enum Work {
    Transfer(Request),
    Flush,
}

impl Work {
    /// Bytes of data.
    fn length(&self) -> usize {
        match self {
            Work::Transfer(request) => request.length() as usize,
            Work::Flush => 0,
        }
    }

    /// Where its data is, in order: bus address and bytes.
    fn parts(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let request = match self {
            Work::Transfer(request) => Some(request),
            Work::Flush => None,
        };
        let buffer = request.map(|request| (request.buffer.bus_address(), request.buffer.len()));
        let extents = request.and_then(|request| request.gather.as_ref()).map_or(&[][..], Gather::extents);
        buffer.into_iter().chain(extents.iter().map(|extent| (extent.bus, extent.length as usize)))
    }

    /// The pieces of at most `size` bytes that hold its data behind the first `done` bytes, and as many bytes as are
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
struct Slot {
    work: Option<Work>,
    /// Bytes that are done.
    done: usize,
    /// Bytes that the device has now.
    round: usize,
    /// `None` while the device has none of it; else the run.
    run: Option<u16>,
    /// When it came, to serve those that wait in order.
    turn: u32,
}

impl Slot {
    const FREE: Slot = Slot { work: None, done: 0, round: 0, run: None, turn: 0 };
}

/// A request that is over.
enum Finished {
    Transfer(Completion),
    Flush(Result<(), DeviceError>),
}

/// What was agreed upon with the device.
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
}

/// A virtio disk behind PCI: takes it over, and polls.
///
/// [`open`](VirtioBlk::open) it while the kernel is healthy, move it into the arena with
/// [`Arena::place`], and give it to `arm()`. Opening only looks: another driver may be using the disk, until
/// [`quiesce`](DumpDevice::quiesce) takes it over by reset.
///
/// Reset ends everything that was in flight. Buffers of requests that the driver had in flight itself when it
/// failed stay lost: neither a failed device nor a fresh `quiesce` gives them back, so that a device that still
/// writes to them harms nobody. Any failure of the device itself (a wrong answer, a request of
/// [`rw_block`](DumpDevice::rw_block) or [`flush`](DumpDevice::flush) that does not end) ends its use: everything
/// is [`DeviceError::NotReady`] until `quiesce` succeeds again.
///
/// DMA need not be coherent: rings, headers and status bytes are cleaned and invalidated through the platform.
pub struct VirtioBlk<R, C> {
    transport: Transport<R, C>,
    queue: Queue,
    /// Headers and status bytes, one each per run.
    requests: Shared,
    slots: [Slot; SLOTS],
    /// Requests taken so far.
    turns: u32,
    name: [u8; 18],
    timeout: Nanoseconds,
    /// Size when opened.
    armed_sectors: u64,
    /// Size as the device now says.
    sectors: u64,
    terms: Terms,
    /// Quiesced, and not failed since.
    ready: bool,
    /// Looks in a row that found nothing.
    idle: u32,
}

/// So many looks in a row that find nothing are followed by one at the device's status. That register is slow, so it is
/// not done more often; a device that is gone is noticed within milliseconds even so.
const LOOKS_PER_STATUS: u32 = 1 << 14;

/// The `index`th virtio disk on the machine, counted from 0 in the order of the bus.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config)
        .filter(|function| {
            function.vendor == VENDOR && (function.device == MODERN || function.device == TRANSITIONAL)
        })
        .nth(index)
}

impl<R: Registers, C: ConfigSpace> VirtioBlk<R, C> {
    /// Looks at a virtio disk and carves what it needs from the arena, about 7 KiB. Does not write to the device.
    ///
    /// `map` maps so many bytes at a physical address for device registers: uncached, readable and writable, on every
    /// CPU and for ever. Memory decoding has to be on, as any kernel or firmware leaves it. `request_timeout` is how
    /// many nanoseconds a reset, a flush or one block may take.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not a virtio disk, or legacy, or cannot be mapped, or does not decode memory; [`DeviceError::Gone`];
    /// [`DeviceError::Protocol`] if its capabilities make no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        config: C,
        function: Function,
        map: impl FnMut(u64, usize) -> Option<R>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<VirtioBlk<R, C>, DeviceError> {
        if function.vendor != VENDOR || (function.device != MODERN && function.device != TRANSITIONAL) {
            let id = u32::from(function.vendor) << 16 | u32::from(function.device);
            return Err(DeviceError::Unsupported { what: "a virtio disk", value: id.into() });
        }
        let transport = Transport::open(
            config,
            function,
            map,
            configuration::LEAST,
            configuration::SIZE,
            request_timeout,
        )?;
        let sectors = read_capacity(&transport)?;
        let queue = Queue::new(Shared::new(arena.dma(QUEUE_BYTES, QUEUE_ALIGN.max(LINE))?));
        let requests = Shared::new(arena.dma(REQUESTS_BYTES, LINE)?);
        let mut name = *b"virtio-blk 00:00.0";
        for (slot, byte) in name.iter_mut().rev().zip(function.address.text().iter().rev()) {
            *slot = *byte;
        }
        Ok(VirtioBlk {
            transport,
            queue,
            requests,
            slots: [Slot::FREE; SLOTS],
            turns: 0,
            name,
            timeout: request_timeout,
            armed_sectors: sectors,
            sectors,
            terms: Terms { flush: true, piece: MAX_TRANSFER, round: MAX_TRANSFER, pieces: 1 },
            ready: false,
            idle: 0,
        })
    }

    /// After a reset: features, limits, the queue, start.
    fn set_up(&mut self, platform: &dyn Platform) -> Result<(), DeviceError> {
        let offered = self.transport.offered_features()?;
        let general = Feature::from_bits_truncate(offered);
        let special = BlkFeature::from_bits_truncate(offered);
        if !general.contains(Feature::VERSION_1) {
            return Err(DeviceError::Unsupported { what: "virtio 1.0 or later", value: offered });
        }
        if special.contains(BlkFeature::RO) {
            return Err(DeviceError::Unsupported { what: "a disk that can be written", value: offered });
        }
        self.transport.accept_features(general.bits() | special.bits())?;

        self.sectors = read_capacity(&self.transport)?;
        let (size_max, seg_max, blk_size) = self.transport.device_config(|registers| {
            (
                registers.read32(configuration::SIZE_MAX),
                registers.read32(configuration::SEG_MAX),
                registers.read32(configuration::BLK_SIZE),
            )
        })?;
        if special.contains(BlkFeature::BLK_SIZE) {
            check_block_size(blk_size)?;
        }
        let size_max = if special.contains(BlkFeature::SIZE_MAX) { size_max } else { u32::MAX };
        let seg_max = if special.contains(BlkFeature::SEG_MAX) { seg_max } else { u32::MAX };

        let offer = self.transport.queue_offer()?;
        // A queue's size is a power of two (2.7); the driver may choose a smaller one (4.1.4.3).
        let size = 1_u16.checked_shl(offer.size.min(QUEUE_MAX).checked_ilog2().unwrap_or(0)).unwrap_or(1);
        if offer.size <= OVERHEAD || size <= OVERHEAD {
            return Err(DeviceError::Unsupported {
                what: "a queue of at least 4 descriptors",
                value: offer.size.into(),
            });
        }
        let (terms, pieces) = negotiate(size, size_max, seg_max, special.contains(BlkFeature::FLUSH))?;
        self.terms = terms;
        self.queue.start(size, pieces.saturating_add(OVERHEAD), platform);
        self.transport.set_up_queue(
            offer,
            size,
            self.queue.descriptors(),
            self.queue.available_ring(),
            self.queue.used_ring(),
        )?;
        self.transport.start()
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.transport.explain(error)
    }

    /// Size in blocks of 4096 bytes.
    fn blocks(&self) -> u64 {
        self.sectors / SECTORS_IN_BLOCK
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
        *slot = Slot { work: Some(work), turn: self.turns, ..Slot::FREE };
        self.idle = 0;
        self.serve(platform);
        Ok(())
    }

    /// Gives the device what waits, oldest first, while the queue has room.
    fn serve(&mut self, platform: &dyn Platform) {
        // Each turn takes a free run, and a queue has only so many.
        while let Some(run) = self.queue.free_run() {
            let now = self.turns;
            let waiting = self.slots.iter_mut().filter(|slot| slot.work.is_some() && slot.run.is_none());
            let Some(slot) = waiting.max_by_key(|slot| now.wrapping_sub(slot.turn)) else { return };
            let Some(work) = &slot.work else { return };

            let (kind, block) = match work {
                Work::Transfer(Request { direction: Direction::Read, block, .. }) => (TYPE_IN, *block),
                Work::Transfer(Request { direction: Direction::Write, block, .. }) => (TYPE_OUT, *block),
                Work::Flush => (TYPE_FLUSH, 0),
            };
            let sector = block.wrapping_mul(SECTORS_IN_BLOCK).wrapping_add(slot.done as u64 / SECTOR);
            let Terms { piece, round, pieces, .. } = self.terms;
            let round = whole_blocks(work.pieces(slot.done, piece).take(pieces), round);
            let work_pieces = work.pieces(slot.done, piece);
            slot.round = round;
            slot.run = Some(run);

            let (header_at, status_at) = (header_at(run), status_at(run));
            let header = Header { kind: kind.to_le(), reserved: 0, sector: sector.to_le() };
            self.requests.write(header_at, header);
            self.requests.write(status_at, STATUS_UNWRITTEN);
            self.requests.clean(header_at, size_of::<Header>(), platform);
            self.requests.clean(status_at, size_of::<u8>(), platform);

            let mut left = round;
            let data = work_pieces.map_while(|(address, length)| {
                let length = length.min(left);
                left = left.saturating_sub(length);
                (length > 0).then_some(Piece { address, length: length as u32, writable: kind == TYPE_IN })
            });
            let header = Piece {
                address: self.requests.bus_address(header_at),
                length: size_of::<Header>() as u32,
                writable: false,
            };
            let status = Piece { address: self.requests.bus_address(status_at), length: 1, writable: true };
            let mut pieces = core::iter::once(header).chain(data).chain(core::iter::once(status));
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
            Err((Work::Flush, _)) | Ok(()) => Ok(()),
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
                return Ok(None);
            }
            Err(error) => return Err(self.fail(error)),
        };
        self.idle = 0;
        let status_at = status_at(used.run);
        self.requests.invalidate(status_at, size_of::<u8>(), platform);
        let status = self.requests.read::<u8>(status_at).unwrap_or(STATUS_UNWRITTEN);
        let owner = self.slots.iter_mut().find(|slot| slot.run == Some(used.run));
        // The queue knows what is in flight, and so do the slots.
        let wrong = DeviceError::Protocol { what: "a finished request's id", value: used.run.into() };
        let Some(slot) = owner else { return Err(self.fail(wrong)) };
        let (what, data) = match &slot.work {
            Some(Work::Transfer(Request { direction: Direction::Read, .. })) => ("read", slot.round),
            Some(Work::Transfer(Request { direction: Direction::Write, .. })) => ("write", 0),
            Some(Work::Flush) | None => ("flush", 0),
        };
        // What it says that it wrote matters where it had data to write. (Some devices count a write's own data.)
        let reads = data > 0;
        if reads && used.length as usize > data.saturating_add(1) {
            // It says that it wrote more than it was given. If so, nothing around the buffer can be trusted.
            let error = DeviceError::Protocol { what: "its length written", value: used.length.into() };
            return Err(self.fail(error));
        }
        let written = if reads { used.length } else { 1 };
        let result = outcome(what, status, written, data);
        slot.done = slot.done.saturating_add(slot.round);
        slot.run = None;
        let more = slot.work.as_ref().is_some_and(|work| slot.done < work.length());
        let over = if result.is_err() || !more { slot.work.take() } else { None };
        // The next round of this one, or whoever has waited longest.
        self.serve(platform);
        Ok(over.map(|work| match work {
            Work::Transfer(Request { id, buffer, gather, .. }) => {
                Finished::Transfer(Completion { id, buffer, gather, result })
            }
            Work::Flush => Finished::Flush(result),
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
}

/// Bytes in these pieces, at most `limit`, down to a whole block: what a request moves ends where a block does.
fn whole_blocks(pieces: impl Iterator<Item = (u64, usize)>, limit: usize) -> usize {
    let bytes = pieces.fold(0_usize, |sum, (_, length)| sum.saturating_add(length));
    bytes.min(limit) & !BLOCK_SIZE.wrapping_sub(1)
}

fn read_capacity<R: Registers, C: ConfigSpace>(transport: &Transport<R, C>) -> Result<u64, DeviceError> {
    transport.device_config(|registers| {
        let low = registers.read32(configuration::CAPACITY);
        let high = registers.read32(configuration::CAPACITY.wrapping_add(4));
        u64::from(high) << 32 | u64::from(low)
    })
}

/// Requests of whole 4096-byte blocks suit disks whose own blocks are no larger.
fn check_block_size(size: u32) -> Result<(), DeviceError> {
    if !size.is_power_of_two() || u64::from(size) < SECTOR {
        return Err(DeviceError::Protocol { what: "its block size", value: size.into() });
    }
    if size as usize > BLOCK_SIZE {
        let what = "a disk with blocks of 4096 bytes or less";
        return Err(DeviceError::Unsupported { what, value: size.into() });
    }
    Ok(())
}

/// How requests are cut: into pieces of `size_max` bytes at most, `seg_max` of them at most, in a queue of `size`
/// descriptors. Gives the number of pieces, too.
fn negotiate(size: u16, size_max: u32, seg_max: u32, flush: bool) -> Result<(Terms, u16), DeviceError> {
    if size_max == 0 {
        return Err(DeviceError::Protocol { what: "its largest segment size", value: 0 });
    }
    if seg_max == 0 {
        return Err(DeviceError::Protocol { what: "its largest number of segments", value: 0 });
    }
    let sector = SECTOR as usize;
    let piece = (size_max as usize).min(MAX_TRANSFER);
    // Whole sectors, if there is one in a piece.
    let piece = if piece >= sector { piece & !sector.wrapping_sub(1) } else { piece };
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
    let round = pieces.saturating_mul(piece).min(MAX_TRANSFER) & !BLOCK_SIZE.wrapping_sub(1);
    Ok((Terms { flush, piece, round, pieces }, pieces as u16))
}

/// What became of a request, by its status byte and by how much the device says it wrote, which is at most the
/// `data` bytes it was to read from the disk, and the status.
fn outcome(what: &'static str, status: u8, written: u32, data: usize) -> Result<(), DeviceError> {
    match status {
        STATUS_OK if written as usize == data.saturating_add(1) => Ok(()),
        STATUS_OK => Err(DeviceError::Protocol { what: "its length written", value: written.into() }),
        STATUS_IO_ERROR | STATUS_UNSUPPORTED => Err(DeviceError::Status { what, code: status.into() }),
        _ => Err(DeviceError::Protocol { what: "a request's status", value: status.into() }),
    }
}

impl<R: Registers, C: ConfigSpace> DumpDevice for VirtioBlk<R, C> {
    fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or_default()
    }

    fn geometry(&self) -> Option<Geometry> {
        Some(Geometry { blocks: self.blocks() })
    }

    fn seal(&self, digest: &mut Digest) {
        self.transport.seal(digest);
        self.queue.seal(digest);
        self.requests.seal(digest);
        digest.bytes(&self.name).number(self.timeout).number(self.armed_sectors);
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        match self.transport.pci().health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        match self.transport.status() {
            Err(gone) => Health::Unusable(gone),
            Ok(status) if status.intersects(Status::NEEDS_RESET | Status::FAILED) => {
                Health::Risky(DeviceError::Status { what: "stay in operation", code: status.bits().into() })
            }
            // A device at rest needs no bus mastering; one that somebody uses does.
            Ok(status) if status.contains(Status::DRIVER_OK) => self.transport.pci().health_in_use(),
            Ok(_) => Health::Healthy,
        }
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        // The registers are not known to be where they were, so an error is explained without looking at them.
        self.transport.take_over(wait).map_err(|error| self.transport.pci().explain(error))?;
        // The reset is confirmed. Buffers that were in flight are forgotten, not given back: whoever gave them has
        // been told so.
        for slot in &mut self.slots {
            *slot = Slot::FREE;
        }
        self.idle = 0;
        match self.set_up(wait.platform()) {
            Ok(()) => {
                self.ready = true;
                Ok(())
            }
            Err(error) => {
                let error = self.transport.explain(error);
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
            Direction::Read => "a virtio-blk read",
            Direction::Write => "a virtio-blk write",
        };
        match self.wait_for_it(what, self.timeout, wait) {
            Ok(Finished::Transfer(completion)) => (Some(completion.buffer), completion.result),
            Ok(Finished::Flush(result)) => (None, result),
            Err(error) => (None, Err(error)),
        }
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
            Some(Finished::Flush(_)) | None => Ok(None),
        }
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.terms.flush {
            // Without that feature the device has no cache that could be lost (5.2.6.2).
            return Ok(());
        }
        if !self.is_idle() {
            return Err(DeviceError::QueueFull);
        }
        self.take(Work::Flush, wait.platform()).map_err(|(_, error)| error)?;
        let limit = self.timeout.saturating_mul(FLUSH_TIMES);
        match self.wait_for_it("a virtio-blk flush", limit, wait)? {
            Finished::Flush(result) => result,
            Finished::Transfer(_) => Err(self.fail(DeviceError::NotReady)),
        }
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        let retired = self.transport.retire(wait);
        flushed.and(retired)
    }
}

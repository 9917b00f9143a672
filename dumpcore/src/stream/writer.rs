//! The writer: one chunk is filled while others are on their way to the disk.

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::device::{Direction, Extent};
use crate::dma::DmaBuffer;
use crate::format::chunk::{ChunkHeader, ChunkKind, MAX_PAYLOAD_BLOCKS, MAX_RUNS, Run, RunKind};
use crate::format::{BLOCK_SIZE, Block, Uuid, checksum, frame};
use crate::partition::io::{Load, Pool};
use crate::partition::verify::{Verify, every_block};
use crate::partition::window::Window;
use crate::stream::Ended;
use crate::wait::Wait;

/// With [`Verify::Ahead`], so many blocks are checked at a time (8 MiB).
const ZONE_BLOCKS: u64 = 2048;

/// The chunk that is being filled.
struct Open {
    kind: ChunkKind,
    slot: usize,
    buffer: DmaBuffer,
    /// Payload blocks that the partition has room for.
    room: usize,
    /// Its pages are not copied: the buffer's second block lists where they are.
    still: bool,
    /// Entries in that list.
    extents: usize,
    /// Payload blocks that it has.
    payload: usize,
    /// Bytes of payload in use.
    bytes: usize,
    /// Runs that it has.
    runs: usize,
}

impl Open {
    /// Payload blocks that fit into its buffer, and the partition.
    fn copied_capacity(&self) -> usize {
        (self.buffer.len() / BLOCK_SIZE).saturating_sub(1).min(self.room)
    }

    /// Whether it takes one more page of this sort; a chunk that has none yet becomes of the sort that comes first.
    fn takes(&mut self, still: bool, still_capacity: usize) -> bool {
        if self.payload == 0 {
            self.still = still;
        }
        let capacity = if still { still_capacity.min(self.room) } else { self.copied_capacity() };
        self.still == still && self.payload < capacity
    }

    /// One more page is in it.
    fn took_a_page(&mut self) {
        self.payload = self.payload.saturating_add(1);
        self.bytes = self.bytes.saturating_add(BLOCK_SIZE);
    }

    /// Adds a page to the list of those that the device reads where they are.
    fn add_extent(&mut self, bus: u64) {
        let table = self.buffer.blocks_mut().get_mut(1).map(<[u8; BLOCK_SIZE]>::as_mut_slice);
        let Some(table) = table.and_then(|bytes| <[Extent]>::mut_from_bytes(bytes).ok()) else { return };
        let last = self.extents.checked_sub(1).and_then(|last| table.get_mut(last));
        if let Some(last) = last
            && last.bus.wrapping_add(last.length) == bus
        {
            last.length = last.length.saturating_add(BLOCK_SIZE as u64);
        } else if let Some(slot) = table.get_mut(self.extents) {
            *slot = Extent { bus, length: BLOCK_SIZE as u64 };
            self.extents = self.extents.saturating_add(1);
        }
    }
}

/// The number of the block that payload block `place` of a chunk at `chunk` stands in.
fn position(chunk: u64, place: usize) -> u64 {
    chunk.saturating_add(1).saturating_add(place as u64)
}

/// Pages in the chunks that were sent, by what became of them.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Pages whose bytes were sent.
    pub data: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Pages of the arena.
    pub arena: u64,
    /// Pages that could not be read.
    pub unreadable: u64,
}

impl Counts {
    fn add(&mut self, run: &Run) {
        let count = match run.kind() {
            RunKind::Data => &mut self.data,
            RunKind::Zero => &mut self.zero,
            RunKind::Arena => &mut self.arena,
            RunKind::Unreadable => &mut self.unreadable,
        };
        *count = count.saturating_add(run.count.get().into());
    }
}

/// Writes chunks one behind another.
pub struct Writer<'w, 'd> {
    window: &'w mut Window<'d>,
    pool: &'w mut Pool,
    uuid: Uuid,
    nonce: u64,
    /// Where the next chunk goes.
    next: u64,
    /// Blocks before this one may be written.
    verified: u64,
    /// Payload blocks in a chunk whose pages are not copied; 0 if the device cannot read them where they are.
    still_capacity: usize,
    /// Chunks so far.
    chunks: u64,
    counts: Counts,
    open: Option<Open>,
}

impl<'w, 'd> Writer<'w, 'd> {
    /// A writer that begins at block `next`. With [`Verify::Ahead`], nothing has been checked yet; otherwise all that
    /// will be.
    pub fn new(
        window: &'w mut Window<'d>,
        pool: &'w mut Pool,
        (uuid, nonce): (Uuid, u64),
        next: u64,
        verify: Verify,
    ) -> Writer<'w, 'd> {
        let device = window.device();
        let still_capacity = if device.max_extents() >= MAX_PAYLOAD_BLOCKS {
            (device.max_transfer() / BLOCK_SIZE).saturating_sub(1).min(MAX_PAYLOAD_BLOCKS)
        } else {
            0
        };
        let verified = if verify == Verify::Ahead { next } else { window.blocks() };
        Writer {
            window,
            pool,
            uuid,
            nonce,
            next,
            verified,
            still_capacity,
            chunks: 0,
            counts: Counts::default(),
            open: None,
        }
    }

    /// The partition.
    pub fn window(&mut self) -> &mut Window<'d> {
        self.window
    }

    /// The first block behind what was written.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Chunks written.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Pages in the chunks written.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Makes sure that blocks before `end` may be written; with [`Verify::Ahead`] it looks.
    ///
    /// # Errors
    /// A block that does not hold its pattern, or why that could not be seen.
    pub fn verify_up_to(&mut self, end: u64, wait: &Wait<'_>) -> Result<(), Ended> {
        if end <= self.verified {
            return Ok(());
        }
        self.drain(wait)?;
        let zone = end.max(self.verified.saturating_add(ZONE_BLOCKS)).min(self.window.blocks());
        let range = (self.verified, zone);
        every_block(self.window, self.pool, &self.uuid, range, wait, &mut |_, _| ()).map_err(|unfit| {
            // Reads may still be under way; their buffers are needed again.
            let _ = self.pool.drain(self.window, wait);
            match unfit {
                crate::partition::place::Unfit::Device { error, .. } => Ended::Device(error),
                crate::partition::place::Unfit::Budget => Ended::Budget,
                other => Ended::Pattern(other),
            }
        })?;
        self.verified = zone;
        Ok(())
    }

    /// A free buffer, once one is.
    fn buffer(&mut self, wait: &Wait<'_>) -> Result<(usize, DmaBuffer), Ended> {
        // Each turn brings one buffer back, so there are at most as many turns as buffers.
        loop {
            if self.pool.has_room()
                && let Some(taken) = self.pool.take()
            {
                return Ok(taken);
            }
            let done = self.pool.next(self.window, wait).map_err(Ended::Device)?;
            let Some(done) = done else {
                // Nothing is free and nothing is in flight: the device has kept every buffer.
                return Err(Ended::Device(crate::device::DeviceError::NotReady));
            };
            self.pool.give_back(done.slot, done.buffer);
            done.result.map_err(Ended::Device)?;
        }
    }

    /// Begins a chunk, unless time (the wait's own) or room is up.
    fn begin(&mut self, kind: ChunkKind, wait: &Wait<'_>) -> Result<(), Ended> {
        wait.breathe();
        if wait.expired() {
            return Err(Ended::Budget);
        }
        // Header, at least one block of payload, and the back header that closes the dump.
        let room = self.window.blocks().saturating_sub(self.next).saturating_sub(2);
        if room == 0 {
            return Err(Ended::Full);
        }
        let (slot, mut buffer) = self.buffer(wait)?;
        let room = usize::try_from(room).unwrap_or(MAX_PAYLOAD_BLOCKS).min(MAX_PAYLOAD_BLOCKS);
        if let Some((first, payload)) = buffer.blocks_mut().split_first_mut() {
            if let Some(header) = ChunkHeader::of_mut(first) {
                header.clear();
                header.kind = (kind as u32).into();
                header.nonce = self.nonce.into();
                header.index = self.chunks.into();
                header.block = self.next.into();
            }
            if kind == ChunkKind::Notes {
                payload.as_flattened_mut().fill(0);
            }
        }
        self.open =
            Some(Open { kind, slot, buffer, room, still: false, extents: 0, payload: 0, bytes: 0, runs: 0 });
        Ok(())
    }

    /// Seals the open chunk and sends it on its way.
    ///
    /// # Errors
    /// Why it could not be sent; the chunk is lost.
    pub fn close_chunk(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.runs == 0 && open.bytes == 0 {
            self.pool.give_back(open.slot, open.buffer);
            return Ok(());
        }
        if open.kind == ChunkKind::Notes {
            sum_notes(&mut open, self.next);
        }
        let count = (open.payload as u64).saturating_add(1);
        if let Some(first) = open.buffer.blocks_mut().first_mut() {
            if let Some(header) = ChunkHeader::of_mut(first) {
                header.payload_blocks = (open.payload as u32).into();
                header.payload_bytes = (open.bytes as u64).into();
                header.run_count = (open.runs as u32).into();
            }
            frame::seal(first);
        }
        let mut counts = self.counts;
        if let Some(header) = header(&mut open.buffer) {
            header.runs().iter().for_each(|run| counts.add(run));
        }
        // The back header has to fit behind, and may go nowhere unchecked either.
        let end = self.next.saturating_add(count);
        if let Err(ended) = self.verify_up_to(end.saturating_add(1), wait) {
            self.pool.give_back(open.slot, open.buffer);
            return Err(ended);
        }
        let load = if open.still { Load::Gathered(open.extents) } else { Load::Blocks(count) };
        let started = self
            .pool
            .start(self.window, Direction::Write, open.slot, open.buffer, (self.next, load), wait)
            .map_err(Ended::Device)?;
        self.counts = counts;
        self.next = end;
        self.chunks = self.chunks.saturating_add(1);
        if let Some(done) = started {
            self.pool.give_back(done.slot, done.buffer);
            done.result.map_err(Ended::Device)?;
        }
        Ok(())
    }

    /// Waits until everything that was sent has arrived.
    ///
    /// # Errors
    /// The first that did not.
    pub fn drain(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        self.pool.drain(self.window, wait).map_err(Ended::Device)
    }

    /// Makes sure that a memory chunk is open and takes one more run, if `run`, and one more page, if `page`:
    /// `Some(true)` for one that is not copied.
    fn ready(&mut self, page: Option<bool>, run: bool, wait: &Wait<'_>) -> Result<(), Ended> {
        if let Some(open) = &mut self.open {
            let fits = open.kind == ChunkKind::Memory
                && !(run && open.runs >= MAX_RUNS)
                && page.is_none_or(|still| open.takes(still, self.still_capacity));
            if fits {
                return Ok(());
            }
            self.close_chunk(wait)?;
        }
        self.begin(ChunkKind::Memory, wait)?;
        if let Some(open) = &mut self.open {
            open.still = page == Some(true);
        }
        Ok(())
    }

    /// Whether the open chunk's last run can take `pfn` as its next page of `kind`.
    fn continues(&mut self, kind: RunKind, pfn: u64) -> bool {
        let Some(open) = &mut self.open else { return false };
        let Some(last) = open.runs.checked_sub(1) else { return false };
        let Some(run) = header(&mut open.buffer).and_then(|header| header.runs.get(last).copied()) else {
            return false;
        };
        run.kind.get() == kind as u32
            && run.pfn.get().saturating_add(run.count.get().into()) == pfn
            && run.count.get() < u32::MAX
    }

    /// Notes in the open chunk that page `pfn` is of `kind`. The chunk has room.
    fn note_run(&mut self, kind: RunKind, pfn: u64) {
        let continues = self.continues(kind, pfn);
        let Some(open) = &mut self.open else { return };
        let place = if continues { open.runs.saturating_sub(1) } else { open.runs };
        let Some(run) = header(&mut open.buffer).and_then(|header| header.runs.get_mut(place)) else {
            return;
        };
        if continues {
            run.count = run.count.get().saturating_add(1).into();
        } else {
            *run = Run { pfn: pfn.into(), count: 1.into(), kind: (kind as u32).into() };
            open.runs = open.runs.saturating_add(1);
        }
    }

    /// Puts a page without payload on record.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn absent(&mut self, kind: RunKind, pfn: u64, wait: &Wait<'_>) -> Result<(), Ended> {
        if !self.continues(kind, pfn) {
            self.ready(None, true, wait)?;
        }
        self.note_run(kind, pfn);
        Ok(())
    }

    /// Writes a page: `fill` lays its bytes into a block and returns their checksum for that block's number.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn page(
        &mut self,
        pfn: u64,
        wait: &Wait<'_>,
        fill: impl FnOnce(&mut Block, u64) -> u64,
    ) -> Result<(), Ended> {
        let new_run = !self.continues(RunKind::Data, pfn);
        self.ready(Some(false), new_run, wait)?;
        let next = self.next;
        if let Some(open) = &mut self.open {
            let place = open.payload;
            if let Some((first, payload)) = open.buffer.blocks_mut().split_first_mut()
                && let Some(block) = payload.get_mut(place)
            {
                set_sum(first, place, fill(block, position(next, place)));
            }
            open.took_a_page();
        }
        self.note_run(RunKind::Data, pfn);
        Ok(())
    }

    /// Whether the device can read pages from where they are.
    pub fn takes_still_pages(&self) -> bool {
        self.still_capacity > 0
    }

    /// Writes a page that the device reads at `bus`: `sum` gives its checksum for a block's number.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn still_page(
        &mut self,
        pfn: u64,
        bus: u64,
        wait: &Wait<'_>,
        sum: impl FnOnce(u64) -> u64,
    ) -> Result<(), Ended> {
        let new_run = !self.continues(RunKind::Data, pfn);
        self.ready(Some(true), new_run, wait)?;
        let next = self.next;
        if let Some(open) = &mut self.open {
            let place = open.payload;
            open.add_extent(bus);
            if let Some(first) = open.buffer.blocks_mut().first_mut() {
                set_sum(first, place, sum(position(next, place)));
            }
            open.took_a_page();
        }
        self.note_run(RunKind::Data, pfn);
        Ok(())
    }

    /// Gives room for `bytes` bytes in a notes chunk to `fill`. More than a chunk can hold is not given: ask
    /// [`notes_room`](Writer::notes_room) first.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn notes(
        &mut self,
        bytes: usize,
        wait: &Wait<'_>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Ended> {
        if self.notes_room(wait)? < bytes {
            self.close_chunk(wait)?;
        }
        if self.notes_room(wait)? < bytes {
            return Err(Ended::Full);
        }
        if let Some(open) = &mut self.open {
            let begin = open.bytes;
            let end = begin.saturating_add(bytes);
            let payload = open.buffer.bytes_mut().get_mut(BLOCK_SIZE..).unwrap_or_default();
            if let Some(room) = payload.get_mut(begin..end) {
                fill(room);
                open.bytes = end;
                open.payload = end.div_ceil(BLOCK_SIZE);
            }
        }
        Ok(())
    }

    /// Bytes that the open notes chunk still takes; begins one if none is open.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn notes_room(&mut self, wait: &Wait<'_>) -> Result<usize, Ended> {
        if self.open.is_none() {
            self.begin(ChunkKind::Notes, wait)?;
        }
        let room = self
            .open
            .as_ref()
            .map_or(0, |open| open.copied_capacity().saturating_mul(BLOCK_SIZE).saturating_sub(open.bytes));
        Ok(room)
    }

    /// Forgets the open chunk: the stream ended before it was full, and for a reason that keeps it from being
    /// written.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.pool.give_back(open.slot, open.buffer);
        }
    }
}

/// The header of a chunk in its buffer.
fn header(buffer: &mut DmaBuffer) -> Option<&mut ChunkHeader> {
    ChunkHeader::of_mut(buffer.blocks_mut().first_mut()?)
}

/// Sets the checksums of a notes chunk at block `chunk`. A page's is made when it is copied.
fn sum_notes(open: &mut Open, chunk: u64) {
    if let Some((header, payload)) = open.buffer.blocks_mut().split_first_mut() {
        for (place, block) in payload.iter().take(open.payload).enumerate() {
            set_sum(header, place, checksum::block_sum(block, position(chunk, place)));
        }
    }
}

/// Sets the checksum of a payload block in the chunk's header.
fn set_sum(first: &mut Block, place: usize, sum: u64) {
    if let Some(slot) = ChunkHeader::of_mut(first).and_then(|header| header.sums.get_mut(place)) {
        *slot = U64::new(sum);
    }
}

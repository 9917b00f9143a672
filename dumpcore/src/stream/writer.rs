//! The writer: fills one chunk while others are in flight.
//!
//! One file: a chunk is opened, filled, closed and queued by methods that share its buffer and its
//! header.

use zerocopy::{FromBytes, IntoBytes};

use crate::device::{Direction, Extent};
use crate::dma::DmaBuffer;
use crate::format::chunk::{
    ChunkHeader, ChunkKind, Encoding, MAX_CHUNK_PAGES, MAX_PAYLOAD_BLOCKS, MAX_RUNS, Packing, Run, RunKind,
    UnitHeader,
};
use crate::format::cipher::Cipher;
use crate::format::class::PASSES;
use crate::format::integer::U64;
use crate::format::{BLOCK_SIZE, Block, checksum, frame};
use crate::helpers::job::{OUT_BYTES, UNIT_PAGES};
use crate::limits::MAX_TARGETS;
use crate::memory::bytes;
use crate::memory::class::ClassedPfn;
use crate::memory::page::Look;
use crate::outcome::Ended;
use crate::partition::member::EncryptionKeys;
use crate::partition::scheduler::IoScheduler;
use crate::partition::transfer::{Lease, Load, Transfer};
use crate::time::Nanoseconds;
use crate::wait::Wait;

/// Maximum number of payload bytes that a unit takes.
const UNIT_ROOM: usize = size_of::<UnitHeader>() + OUT_BYTES;

/// How the pages of a chunk reach the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// They are copied into its buffer.
    Copied,
    /// The device reads them in place: the buffer's second block lists them.
    Still,
}

/// What an open chunk needs room for.
#[derive(Clone, Copy)]
enum Room {
    /// A run of pages without payload.
    Run,
    /// A page, in a new run.
    Page(Sort),
    /// A page that extends the last run.
    PageOfLastRun(Sort),
}

/// The chunk that is being filled.
struct Open {
    kind: ChunkKind,
    encoding: Encoding,
    member: usize,
    lease: Lease,
    /// Payload blocks that fit into the partition.
    room: usize,
    sort: Sort,
    /// Number of entries in the list of pages that are read in place.
    extents: usize,
    /// Number of payload blocks; not kept up to date in a chunk with units.
    payload: usize,
    /// Bytes of payload in use.
    bytes: usize,
    /// Number of runs.
    runs: usize,
    /// Number of pages in its payload.
    pages: u64,
}

impl Open {
    /// Payload blocks that fit into its buffer and the partition.
    fn copied_capacity(&self) -> usize {
        (self.lease.buffer.len() / BLOCK_SIZE).saturating_sub(1).min(self.room)
    }

    /// Payload bytes that still fit.
    fn left(&self) -> usize {
        self.copied_capacity().saturating_mul(BLOCK_SIZE).saturating_sub(self.bytes)
    }

    /// Whether one more page of this sort fits. A chunk without pages takes on the sort of its first page.
    fn takes(&mut self, sort: Sort, still_capacity: usize) -> bool {
        if self.payload == 0 {
            self.sort = sort;
        }
        let capacity = match sort {
            Sort::Still => still_capacity.min(self.room),
            Sort::Copied => self.copied_capacity(),
        };
        self.sort == sort && self.payload < capacity
    }

    /// Counts one more page.
    fn took_a_page(&mut self) {
        self.payload = self.payload.saturating_add(1);
        self.bytes = self.bytes.saturating_add(BLOCK_SIZE);
        self.pages = self.pages.saturating_add(1);
    }

    /// Adds a page to the list of those that the device reads in place.
    fn add_extent(&mut self, bus: u64) {
        let table = self.lease.buffer.blocks_mut().get_mut(1).map(<[u8; BLOCK_SIZE]>::as_mut_slice);
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

    /// Encrypts the payload, if there is a key, and sets the checksums of a chunk that goes to block `chunk`.
    /// Returns `false` if encryption fails.
    fn set_checksums(&mut self, keys: Option<EncryptionKeys<'_>>, chunk: u64) -> bool {
        let copied = if self.sort == Sort::Still { 0 } else { self.payload };
        let Some((first, blocks)) = self.lease.buffer.blocks_mut().split_first_mut() else { return true };
        let blocks = blocks.get_mut(..copied).unwrap_or_default();
        if !keys.is_none_or(|keys| keys.key.encrypt_chunk(first, blocks.as_flattened_mut())) {
            return false;
        }
        if let Some(header) = ChunkHeader::of_mut(first) {
            if self.sort == Sort::Still {
                // The content sums were computed when the pages were read.
                for (place, sum) in header.sums.iter_mut().take(self.payload).enumerate() {
                    *sum = U64::new(checksum::placed(sum.get(), position(chunk, place)));
                }
            } else {
                for (place, (sum, block)) in header.sums.iter_mut().zip(&*blocks).enumerate() {
                    *sum = U64::new(checksum::block_sum(block, position(chunk, place)));
                }
            }
        }
        frame::set_checksum(first);
        true
    }

    /// The payload's bytes.
    fn payload_mut(&mut self) -> &mut [u8] {
        self.lease.buffer.bytes_mut().get_mut(BLOCK_SIZE..).unwrap_or_default()
    }
}

/// The block number of payload block `place` in a chunk at `chunk`.
fn position(chunk: u64, place: usize) -> u64 {
    chunk.saturating_add(1).saturating_add(place as u64)
}

/// Pages in closed chunks, by [`RunKind`], whose numbers begin at 1.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts([u64; RunKind::ALL.len()]);

impl Counts {
    fn add(&mut self, run: &Run) {
        let place = (run.kind() as usize).wrapping_sub(1);
        if let Some(count) = self.0.get_mut(place) {
            *count = count.saturating_add(run.count.get().into());
        }
    }

    /// Number of pages of a kind.
    pub fn of(&self, kind: RunKind) -> u64 {
        self.0.get((kind as usize).wrapping_sub(1)).copied().unwrap_or(0)
    }

    /// The counts of all kinds.
    pub fn all(&self) -> &[u64; RunKind::ALL.len()] {
        &self.0
    }

    /// Number of pages left out on purpose.
    pub fn left_out(&self) -> u64 {
        let kinds = RunKind::ALL.into_iter().filter(|kind| kind.is_left_out());
        kinds.fold(0, |sum, kind| sum.saturating_add(self.of(kind)))
    }

    /// Number of pages that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.of(RunKind::Unreadable).saturating_add(self.of(RunKind::Faulted))
    }
}

/// The results of a pass.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pass {
    /// Number of pages covered.
    pub pages: u64,
    /// Bytes written, including chunk headers.
    pub bytes: u64,
    /// Duration in nanoseconds.
    pub time: Nanoseconds,
}

/// The results of the writer.
#[derive(Clone, Copy, Default, Debug)]
pub struct Written {
    /// Pages by kind.
    pub counts: Counts,
    /// Each pass.
    pub passes: [Pass; PASSES.len()],
    /// Bytes of memory given to compression.
    pub packed_from: u64,
    /// Bytes that compression produced.
    pub packed_to: u64,
    /// Number of units that did not shrink.
    pub units_stored: u64,
}

/// Identifies a dump and an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its nonce.
    pub nonce: u64,
    /// Number of the attempt.
    pub attempt: u32,
}

/// Writes chunks, one after another.
pub struct Writer<'w, 'l, 'c, 'a> {
    scheduler: IoScheduler<'w, 'l, 'c, 'a>,
    identity: Identity,
    /// Payload blocks in a zero-copy chunk; 0 if not all devices can read pages in place.
    still_capacity: usize,
    /// Number of chunks so far, in all members.
    chunks: u64,
    /// The next member.
    turn: usize,
    /// The current pass.
    pass: usize,
    written: &'w mut Written,
    open: Option<Open>,
}

impl<'w, 'l, 'c, 'a> Writer<'w, 'l, 'c, 'a> {
    /// A writer that continues at each member's next block and counts in `written`.
    pub fn new(
        scheduler: IoScheduler<'w, 'l, 'c, 'a>,
        identity: Identity,
        written: &'w mut Written,
    ) -> Writer<'w, 'l, 'c, 'a> {
        *written = Written::default();
        let mut still_capacity = MAX_PAYLOAD_BLOCKS;
        for (_, member) in scheduler.members.iter_mut() {
            let device = member.window.device();
            // Encrypted pages have to be copied first.
            let takes = if device.max_extents() >= MAX_PAYLOAD_BLOCKS && member.keys.is_none() {
                (device.max_transfer() / BLOCK_SIZE).saturating_sub(1)
            } else {
                0
            };
            still_capacity = still_capacity.min(takes);
        }
        Writer { scheduler, identity, still_capacity, chunks: 0, turn: 0, pass: 0, written, open: None }
    }

    /// The I/O scheduler.
    pub fn scheduler(&mut self) -> &mut IoScheduler<'w, 'l, 'c, 'a> {
        &mut self.scheduler
    }

    /// The I/O scheduler, and the results so far.
    pub fn parts(&mut self) -> (&mut IoScheduler<'w, 'l, 'c, 'a>, &Written) {
        (&mut self.scheduler, self.written)
    }

    /// Closes the open chunk; the following chunks belong to another pass.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn begin_pass(&mut self, pass: usize, wait: &Wait<'_>) -> Result<(), Ended> {
        self.close_chunk(wait)?;
        self.pass = pass;
        Ok(())
    }

    /// Records how long a pass took.
    pub fn pass_took(&mut self, pass: usize, time: Nanoseconds) {
        if let Some(pass) = self.written.passes.get_mut(pass) {
            pass.time = time;
        }
    }

    /// The next member in turn that has room, and how much.
    fn choose_member(&mut self) -> Option<(usize, u64)> {
        for step in 0..MAX_TARGETS {
            let number = self.turn.wrapping_add(step) % MAX_TARGETS;
            let room = self.scheduler.members.get(number).map_or(0, |member| member.room());
            if room > 0 {
                self.turn = number.wrapping_add(1);
                return Some((number, room));
            }
        }
        None
    }

    /// Begins a chunk, unless the time of `wait` is over or there is no room.
    fn begin(&mut self, kind: ChunkKind, encoding: Encoding, wait: &Wait<'_>) -> Result<(), Ended> {
        wait.breathe();
        if wait.expired() {
            return Err(Ended::Budget);
        }
        let (member, room) = self.choose_member().ok_or(Ended::Full)?;
        let mut lease = self.scheduler.buffer(wait)?;
        let room = usize::try_from(room).unwrap_or(MAX_PAYLOAD_BLOCKS).min(MAX_PAYLOAD_BLOCKS);
        let here = self.scheduler.members.get(member);
        let (block, keys) = here.map_or((0, None), |member| (member.state.next, member.keys));
        if let Some((first, payload)) = lease.buffer.blocks_mut().split_first_mut() {
            if let Some(header) = ChunkHeader::of_mut(first) {
                header.clear();
                header.kind = (kind as u32).into();
                header.encoding = (encoding as u32).into();
                header.nonce = self.identity.nonce.into();
                header.attempt = self.identity.attempt.into();
                header.index = self.chunks.into();
                header.pass = (self.pass as u32).into();
                header.block = block.into();
                if let Some(keys) = keys {
                    header.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
                    header.ephemeral = *keys.ephemeral;
                }
            }
            if kind == ChunkKind::Notes {
                payload.as_flattened_mut().fill(0);
            }
        }
        self.open = Some(Open {
            kind,
            encoding,
            member,
            lease,
            room,
            sort: Sort::Copied,
            extents: 0,
            payload: 0,
            bytes: 0,
            runs: 0,
            pages: 0,
        });
        Ok(())
    }

    /// Encrypts the open chunk, sets its checksums, and queues it.
    ///
    /// # Errors
    /// Why it could not be sent; the chunk is lost.
    pub fn close_chunk(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.runs == 0 && open.bytes == 0 {
            self.scheduler.pool.give_back(open.lease);
            return Ok(());
        }
        let member = open.member;
        let here = self.scheduler.members.get(member);
        let (next, keys) = here.map_or((0, None), |member| (member.state.next, member.keys));
        open.payload = open.bytes.div_ceil(BLOCK_SIZE);
        if open.sort == Sort::Copied {
            // The rest of the last block.
            let (used, end) = (open.bytes, open.payload.saturating_mul(BLOCK_SIZE));
            if let Some(rest) = open.payload_mut().get_mut(used..end) {
                rest.fill(0);
            }
        }
        let (payload, bytes, runs) = (open.payload, open.bytes, open.runs);
        if let Some(header) = header(&mut open.lease.buffer) {
            header.payload_blocks = (payload as u32).into();
            header.payload_bytes = (bytes as u64).into();
            header.run_count = (runs as u32).into();
        }
        if !open.set_checksums(keys, next) {
            // Cannot happen, because the cipher takes whole blocks; but if it did, unencrypted data must not
            // be written.
            self.scheduler.pool.give_back(open.lease);
            return Err(Ended::Full);
        }
        let count = (payload as u64).saturating_add(1);
        // The back header must fit after the chunk, and its block must be checked too.
        let end = next.saturating_add(count);
        if let Err(ended) = self.scheduler.check_up_to(member, end.saturating_add(1), wait) {
            self.scheduler.pool.give_back(open.lease);
            return Err(ended);
        }
        // From here on these blocks may hold the chunk, even if the write fails.
        if let Some(member) = self.scheduler.members.get_mut(member) {
            member.state.next = end;
            member.state.chunks = member.state.chunks.saturating_add(1);
        }
        self.chunks = self.chunks.saturating_add(1);
        if let Some(header) = header(&mut open.lease.buffer) {
            for run in header.runs() {
                self.written.counts.add(run);
                if let Some(pass) = self.written.passes.get_mut(self.pass) {
                    pass.pages = pass.pages.saturating_add(run.count.get().into());
                }
            }
        }
        let load = match open.sort {
            Sort::Still => Load::Gathered(open.extents),
            Sort::Copied => Load::Blocks(count),
        };
        let transfer = Transfer { member, direction: Direction::Write, block: next, load };
        self.scheduler.write(open.lease, transfer, wait)?;
        if let Some(pass) = self.written.passes.get_mut(self.pass) {
            pass.bytes = pass.bytes.saturating_add(count.saturating_mul(BLOCK_SIZE as u64));
        }
        Ok(())
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// The first failure.
    pub fn drain(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        self.scheduler.drain(wait)
    }

    /// Opens a memory chunk with one page per block and room for this, unless the open chunk is one. Pages
    /// without payload may also go into a chunk with units.
    fn ready(&mut self, room: Room, wait: &Wait<'_>) -> Result<(), Ended> {
        let (sort, run) = match room {
            Room::Run => (None, true),
            Room::Page(sort) => (Some(sort), true),
            Room::PageOfLastRun(sort) => (Some(sort), false),
        };
        if let Some(open) = &mut self.open {
            let fits = open.kind == ChunkKind::Memory
                && !(run && open.runs >= MAX_RUNS)
                && sort.is_none_or(|sort| {
                    open.encoding == Encoding::Plain && open.takes(sort, self.still_capacity)
                });
            if fits {
                return Ok(());
            }
            self.close_chunk(wait)?;
        }
        self.begin(ChunkKind::Memory, Encoding::Plain, wait)?;
        if let Some(open) = &mut self.open {
            open.sort = sort.unwrap_or(Sort::Copied);
        }
        Ok(())
    }

    /// Opens a chunk with room for a whole unit, unless the open chunk has it. Returns `false` if partition
    /// or buffer are too small for one.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn ready_for_unit(&mut self, wait: &Wait<'_>) -> Result<bool, Ended> {
        let fits = |open: &Open| {
            open.kind == ChunkKind::Memory
                && (open.encoding == Encoding::Units || open.payload == 0)
                && open.left() >= UNIT_ROOM
                && open.runs.saturating_add(UNIT_PAGES) <= MAX_RUNS
                && open.pages.saturating_add(UNIT_PAGES as u64) <= MAX_CHUNK_PAGES
        };
        if !self.open.as_ref().is_some_and(fits) {
            self.close_chunk(wait)?;
            self.begin(ChunkKind::Memory, Encoding::Units, wait)?;
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        if !fits(open) {
            return Ok(false);
        }
        open.encoding = Encoding::Units;
        open.sort = Sort::Copied;
        if let Some(header) = header(&mut open.lease.buffer) {
            header.encoding = (Encoding::Units as u32).into();
        }
        Ok(true)
    }

    /// Puts the coordinator's own unit into the open chunk, which [has room](Writer::ready_for_unit) for it.
    pub fn put_own_unit(&mut self) {
        let mut place = 0;
        // Each turn takes one page, and a unit has a limited number.
        while let Some((page, look)) = self.scheduler.coordinator.own.look(place) {
            match look {
                Look::Packed => self.note_run(RunKind::Data, page, 1),
                Look::Absent(kind) => self.note_run(kind, page, 1),
                Look::Still { .. } | Look::Moving => (),
            }
            place = place.saturating_add(1);
        }
        let Writer { scheduler, open, written, .. } = self;
        let (pages, packing, packed) = scheduler.coordinator.own.packed();
        let Some(open) = open else { return };
        let stored = packed.len().next_multiple_of(8);
        let begin = open.bytes;
        let end = begin.saturating_add(size_of::<UnitHeader>()).saturating_add(stored);
        let header = UnitHeader {
            stored: (packed.len() as u32).into(),
            pages: (pages as u16).into(),
            packing: (packing as u16).into(),
        };
        let Some(room) = open.payload_mut().get_mut(begin..end) else { return };
        let (head, body) = room.split_at_mut(size_of::<UnitHeader>().min(room.len()));
        bytes::copy(head, header.as_bytes());
        let (body, padding) = body.split_at_mut(packed.len().min(body.len()));
        bytes::copy(body, packed);
        padding.fill(0);
        open.bytes = end;
        open.pages = open.pages.saturating_add(pages as u64);
        let raw = (pages as u64).saturating_mul(BLOCK_SIZE as u64);
        written.packed_from = written.packed_from.saturating_add(raw);
        written.packed_to = written.packed_to.saturating_add(packed.len() as u64);
        if packing == Packing::Stored {
            written.units_stored = written.units_stored.saturating_add(1);
        }
    }

    /// Whether `page` can extend the open chunk's last run as its next page of `kind`.
    fn continues(&mut self, kind: RunKind, page: ClassedPfn) -> bool {
        let Some(open) = &mut self.open else { return false };
        let Some(last) = open.runs.checked_sub(1) else { return false };
        let Some(run) = header(&mut open.lease.buffer).and_then(|header| header.runs.get(last).copied())
        else {
            return false;
        };
        run.kind.get() == kind as u16
            && run.class.get() == page.class_number()
            && run.pfn.get().saturating_add(run.count.get().into()) == page.pfn()
            && run.count.get() < u32::MAX / 2
    }

    /// Records in the open chunk that `count` pages of one class, from `page` on, are of `kind`. The chunk
    /// has room.
    fn note_run(&mut self, kind: RunKind, page: ClassedPfn, count: u32) {
        let continues = self.continues(kind, page);
        let Some(open) = &mut self.open else { return };
        let place = if continues { open.runs.saturating_sub(1) } else { open.runs };
        let Some(run) = header(&mut open.lease.buffer).and_then(|header| header.runs.get_mut(place)) else {
            return;
        };
        if continues {
            run.count = run.count.get().saturating_add(count).into();
        } else {
            *run = Run {
                pfn: page.pfn().into(),
                count: count.into(),
                kind: (kind as u16).into(),
                class: page.class_number().into(),
            };
            open.runs = open.runs.saturating_add(1);
        }
    }

    /// Records `count` pages of one class without payload, from `first` on.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn absent(
        &mut self,
        kind: RunKind,
        first: ClassedPfn,
        count: u64,
        wait: &Wait<'_>,
    ) -> Result<(), Ended> {
        let (mut page, mut left) = (first, count);
        // Each turn records some of them.
        while left > 0 {
            let part = u32::try_from(left).unwrap_or(u32::MAX).min(u32::MAX / 2);
            if !self.continues(kind, page) {
                self.ready(Room::Run, wait)?;
            }
            self.note_run(kind, page, part);
            page = page.behind(part.into());
            left = left.saturating_sub(part.into());
        }
        Ok(())
    }

    /// Writes a page that `fill` copies into a block, or records why it could not be copied.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn page(
        &mut self,
        page: ClassedPfn,
        wait: &Wait<'_>,
        fill: impl FnOnce(&mut Block) -> Result<(), RunKind>,
    ) -> Result<(), Ended> {
        // The run that it needs is only known after it has been read.
        self.ready(Room::Page(Sort::Copied), wait)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        let place = open.payload;
        let block = open.lease.buffer.blocks_mut().get_mut(place.saturating_add(1));
        let kind = match block.map(fill) {
            Some(Ok(())) => {
                open.took_a_page();
                RunKind::Data
            }
            Some(Err(kind)) => kind,
            None => RunKind::Unreadable,
        };
        self.note_run(kind, page, 1);
        Ok(())
    }

    /// Whether all devices can read pages in place.
    pub fn takes_still_pages(&self) -> bool {
        self.still_capacity > 0
    }

    /// Writes a page that the device reads at `bus` and whose content has this checksum.
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn still_page(
        &mut self,
        page: ClassedPfn,
        bus: u64,
        content: u64,
        wait: &Wait<'_>,
    ) -> Result<(), Ended> {
        let continues = self.continues(RunKind::Data, page);
        let room = if continues { Room::PageOfLastRun(Sort::Still) } else { Room::Page(Sort::Still) };
        self.ready(room, wait)?;
        if let Some(open) = &mut self.open {
            let place = open.payload;
            open.add_extent(bus);
            if let Some(header) = header(&mut open.lease.buffer)
                && let Some(sum) = header.sums.get_mut(place)
            {
                // Only the content's sum; the block number is mixed in when the chunk is closed.
                *sum = content.into();
            }
            open.took_a_page();
        }
        self.note_run(RunKind::Data, page, 1);
        Ok(())
    }

    /// Calls `fill` with room for `bytes` bytes in a notes chunk. If no chunk can hold that many, the stream
    /// ends.
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
            if let Some(room) = open.payload_mut().get_mut(begin..end) {
                fill(room);
                open.bytes = end;
            }
        }
        Ok(())
    }

    /// Free bytes in the open notes chunk; opens one if necessary.
    ///
    /// # Errors
    /// Why the stream ended.
    fn notes_room(&mut self, wait: &Wait<'_>) -> Result<usize, Ended> {
        if self.open.is_none() {
            self.begin(ChunkKind::Notes, Encoding::Plain, wait)?;
        }
        Ok(self.open.as_ref().map_or(0, Open::left))
    }

    /// Discards the open chunk: the stream has ended for a reason that keeps it from being written.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.scheduler.pool.give_back(open.lease);
        }
    }
}

/// The chunk header in a buffer.
fn header(buffer: &mut DmaBuffer) -> Option<&mut ChunkHeader> {
    ChunkHeader::of_mut(buffer.blocks_mut().first_mut()?)
}

//! The simulated disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::numbers::Numbers;
use crate::device::{
    Completion, DeviceError, Direction, DumpDevice, Extent, Gather, Geometry, Health, Rejected, Request,
};
use crate::dma::DmaBuffer;
use crate::format::cipher::PublicKey;
use crate::format::{BLOCK_SIZE, Block, Uuid, label::Label, pattern};
use crate::integrity::Digest;
use crate::time::SECOND;
use crate::wait::Wait;

/// How a disk misbehaves. Requests and blocks are counted from 0, starting when the fault is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// No fault.
    None,
    /// The power is cut after this many blocks were written, also for all disks on the [same
    /// supply](Disk::share_power); nothing happens afterwards. With `torn`, half of the next block is written
    /// too.
    PowerCut {
        /// Blocks written.
        after_blocks: u64,
        /// Whether the next one is torn.
        torn: bool,
    },
    /// The n-th read request reports an error.
    ReadError(u64),
    /// The n-th write request reports an error after writing half of its blocks.
    WriteError(u64),
    /// From the n-th request on, nothing completes.
    Stuck(u64),
    /// From the n-th request on, nothing completes until the device is taken over again.
    StuckOnce(u64),
    /// From the n-th request on, nothing completes. When it is taken over again, it is a different disk, with
    /// [`FOREIGN`] in every byte.
    Exchanged(u64),
    /// From the n-th request on, the device is gone.
    Gone(u64),
    /// It reports itself as unusable before it is taken over.
    Unusable,
    /// It cannot be taken over.
    NoQuiesce,
    /// Flushes fail.
    NoFlush,
    /// After quiesce it has only this many blocks.
    Shrinks(u64),
    /// Completions have an id that was never used.
    WrongId(u64),
}

/// Content of a disk that [was exchanged](DiskFault::Exchanged).
pub const FOREIGN: u8 = 0xf0;

struct State {
    bytes: Vec<u8>,
    fault: DiskFault,
    risky: bool,
    off: bool,
    /// Requests since the fault was set.
    reads: u64,
    writes: u64,
    /// Blocks written up to when the fault was set, and up to now.
    written_before: u64,
    blocks_written: u64,
    /// Every block that reached the disk, in order.
    journal: Vec<(u64, Box<Block>)>,
    /// Other disks on the same power supply.
    neighbours: Vec<Weak<Mutex<State>>>,
    quiesced: bool,
    queue: Vec<Request>,
    /// With a write-back cache: the content of each block at the last flush.
    cached: Option<BTreeMap<u64, Block>>,
    numbers: Numbers,
    flushes: u64,
}

/// A simulated disk; clones are handles to the same one.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// A disk with these bytes, a whole number of blocks. `seed` decides the order in which requests complete
    /// and which blocks a lost cache loses.
    pub fn new(bytes: Vec<u8>, seed: u64) -> Disk {
        Disk {
            state: Arc::new(Mutex::new(State {
                bytes,
                fault: DiskFault::None,
                risky: false,
                off: false,
                reads: 0,
                writes: 0,
                written_before: 0,
                blocks_written: 0,
                journal: Vec::new(),
                neighbours: Vec::new(),
                quiesced: false,
                queue: Vec::new(),
                cached: None,
                numbers: Numbers::new(seed),
                flushes: 0,
            })),
        }
    }

    /// A disk of `disk_blocks` pseudo-random blocks, with a freshly formatted dump partition of `blocks`
    /// blocks from block `first` on.
    pub fn formatted(disk_blocks: u64, first: u64, blocks: u64, uuid: &Uuid, seed: u64) -> Disk {
        let mut numbers = Numbers::new(seed);
        let mut bytes = vec![0; disk_blocks as usize * BLOCK_SIZE];
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = numbers.number().to_le_bytes();
        }
        for number in 0..blocks {
            let at = (first + number) as usize;
            let Some(block) = bytes.as_chunks_mut::<BLOCK_SIZE>().0.get_mut(at) else { continue };
            if number == 0 {
                Label::new(*uuid, blocks, 1, "simulated").to_block(block);
            } else {
                pattern::fill(block, uuid, number);
            }
        }
        Disk::new(bytes, seed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rewrites the label of its partition, which begins at block `first`, to demand encryption to
    /// `recipient`.
    ///
    /// # Panics
    /// If there is no label.
    pub fn demand_encryption(&self, first: u64, recipient: &PublicKey) {
        let mut state = self.state();
        let block = &mut state.bytes.as_chunks_mut::<BLOCK_SIZE>().0[first as usize];
        let mut label = Label::parse(block).expect("a formatted partition").clone();
        label.set_recipient(recipient);
        label.to_block(block);
    }

    /// Sets the disk's fault.
    pub fn set_fault(&self, fault: DiskFault) {
        let mut state = self.state();
        state.fault = fault;
        (state.reads, state.writes) = (0, 0);
        state.written_before = state.blocks_written;
    }

    /// Makes it report itself as risky, whatever other faults it has.
    pub fn set_risky(&self) {
        self.state().risky = true;
    }

    /// Puts these disks on one power supply: a power cut for one of them is one for all.
    pub fn share_power(disks: &[Disk]) {
        for disk in disks {
            let others = disks.iter().filter(|other| !Arc::ptr_eq(&other.state, &disk.state));
            disk.state().neighbours = others.map(|other| Arc::downgrade(&other.state)).collect();
        }
    }

    /// Gives it a write-back cache, of which a power cut loses an arbitrary part.
    pub fn set_write_back(&self) {
        self.state().cached = Some(BTreeMap::new());
    }

    /// Switches it off, as a reset of the machine does.
    pub fn switch_off(&self) {
        self.state().off = true;
    }

    /// Switches it on again and clears faults and requests.
    pub fn switch_on(&self) {
        let mut state = self.state();
        state.off = false;
        state.fault = DiskFault::None;
        state.queue.clear();
        state.quiesced = false;
    }

    /// Its current bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Changes its bytes.
    pub fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.state().bytes);
    }

    /// Number of blocks written since it was made.
    pub fn blocks_written(&self) -> u64 {
        self.state().blocks_written
    }

    /// Every block written since the last call: its number and its new content.
    pub fn take_journal(&self) -> Vec<(u64, Box<Block>)> {
        core::mem::take(&mut self.state().journal)
    }

    /// Number of flushes since it was made.
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// A driver for it that keeps up to `depth` requests in flight; with 1, it only has `rw_block`.
    pub fn device(&self, depth: usize) -> SimDevice {
        let blocks = self.state().bytes.len() as u64 / BLOCK_SIZE as u64;
        SimDevice { disk: self.clone(), depth, blocks, controller: None }
    }
}

impl State {
    fn check(&mut self) -> Result<(), DeviceError> {
        let requests = self.reads + self.writes;
        if self.off || matches!(self.fault, DiskFault::Gone(from) if requests >= from) {
            return Err(DeviceError::Gone);
        }
        if !self.quiesced {
            return Err(DeviceError::NotReady);
        }
        Ok(())
    }

    fn stuck(&self) -> bool {
        let requests = self.reads + self.writes;
        matches!(self.fault, DiskFault::Stuck(from) | DiskFault::StuckOnce(from) | DiskFault::Exchanged(from) if requests >= from)
    }

    /// Cuts the power, here and for the neighbours.
    fn cut(&mut self) {
        self.lose_power();
        for neighbour in self.neighbours.iter().filter_map(Weak::upgrade) {
            neighbour.lock().unwrap_or_else(PoisonError::into_inner).lose_power();
        }
    }

    /// A write-back cache loses an arbitrary part of the unflushed blocks.
    fn lose_power(&mut self) {
        self.off = true;
        for (number, before) in self.cached.take().unwrap_or_default() {
            if self.numbers.below(2) == 0
                && let Some(block) = self.bytes.as_chunks_mut::<BLOCK_SIZE>().0.get_mut(number as usize)
            {
                *block = before;
            }
        }
    }

    fn write_block(&mut self, number: u64, bytes: &Block) -> Result<(), DeviceError> {
        let mut length = BLOCK_SIZE;
        let mut cut = false;
        if let DiskFault::PowerCut { after_blocks, torn } = self.fault
            && self.blocks_written - self.written_before >= after_blocks
        {
            cut = true;
            length = if torn { BLOCK_SIZE / 2 } else { 0 };
        }
        if let Some(block) = self.bytes.as_chunks_mut::<BLOCK_SIZE>().0.get_mut(number as usize) {
            if let Some(cached) = &mut self.cached {
                cached.entry(number).or_insert(*block);
            }
            block[..length].copy_from_slice(&bytes[..length]);
            if length > 0 {
                self.journal.push((number, Box::new(*block)));
            }
        }
        if cut {
            self.cut();
            return Err(DeviceError::Gone);
        }
        self.blocks_written += 1;
        Ok(())
    }

    fn transfer(
        &mut self,
        direction: Direction,
        first: u64,
        buffer: &mut DmaBuffer,
        gather: Option<&Gather>,
    ) -> Result<(), DeviceError> {
        let disk_blocks = self.bytes.len() as u64 / BLOCK_SIZE as u64;
        let extents = gather.map_or(&[][..], Gather::extents);
        let outside: Vec<Block> = extents.iter().flat_map(memory_of).collect();
        let count = buffer.blocks().len() as u64 + outside.len() as u64;
        let end = first.saturating_add(count);
        if count == 0 || end > disk_blocks {
            return Err(DeviceError::OutOfRange { end, blocks: disk_blocks });
        }
        match direction {
            Direction::Read => {
                let failed = matches!(self.fault, DiskFault::ReadError(n) if n == self.reads);
                self.reads += 1;
                if failed {
                    return Err(DeviceError::Status { what: "read", code: 1 });
                }
                let from = first as usize * BLOCK_SIZE;
                let length = buffer.len();
                buffer.bytes_mut().copy_from_slice(&self.bytes[from..from + length]);
            }
            Direction::Write => {
                let failed = matches!(self.fault, DiskFault::WriteError(n) if n == self.writes);
                self.writes += 1;
                let done = if failed { count / 2 } else { count };
                for (number, block) in (first..first + done).zip(buffer.blocks().iter().chain(&outside)) {
                    self.write_block(number, block)?;
                }
                if failed {
                    return Err(DeviceError::Status { what: "write", code: 1 });
                }
            }
        }
        Ok(())
    }
}

/// Reads the memory at a bus address, as a device would: the bus address of a simulated page is its host
/// address.
fn memory_of(extent: &Extent) -> Vec<Block> {
    let pages = extent.bus..extent.bus + extent.length;
    let read = |address: u64| {
        // SAFETY: Machine::still returned this address of a page of the machine, which is never freed.
        unsafe { *core::ptr::with_exposed_provenance::<Block>(address as usize) }
    };
    pages.step_by(BLOCK_SIZE).map(read).collect()
}

/// The driver of a simulated disk.
pub struct SimDevice {
    disk: Disk,
    depth: usize,
    blocks: u64,
    controller: Option<u64>,
}

impl SimDevice {
    /// Puts it on a controller that it shares with other disks of the same number.
    #[must_use]
    pub fn behind(self, controller: u64) -> SimDevice {
        SimDevice { controller: Some(controller), ..self }
    }
}

// SAFETY: requests in flight are in one queue, out of which each returns with its own buffer, and which a
// takeover empties. Only poll() and rw_block() move data, between this disk's own bytes and the buffer of the
// request.
unsafe impl DumpDevice for SimDevice {
    fn controller(&self) -> Option<u64> {
        self.controller
    }

    fn name(&self) -> &str {
        "simulated disk"
    }

    fn geometry(&self) -> Option<Geometry> {
        Some(Geometry { blocks: self.blocks })
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.depth as u64);
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        let state = self.disk.state();
        match state.fault {
            _ if state.off => Health::Unusable(DeviceError::Gone),
            DiskFault::Unusable => Health::Unusable(DeviceError::Gone),
            DiskFault::Gone(0) => Health::Unusable(DeviceError::Gone),
            _ if state.risky => {
                Health::Risky(DeviceError::Protocol { what: "the simulated health", value: 1 })
            }
            _ => Health::Healthy,
        }
    }

    fn quiesce(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> {
        let mut state = self.disk.state();
        if state.off {
            return Err(DeviceError::Gone);
        }
        match state.fault {
            DiskFault::NoQuiesce => return Err(DeviceError::TimedOut { what: "the reset", after: SECOND }),
            DiskFault::Gone(from) if state.reads + state.writes >= from => return Err(DeviceError::Gone),
            DiskFault::Shrinks(blocks) => self.blocks = blocks,
            DiskFault::StuckOnce(_) if state.stuck() => state.fault = DiskFault::None,
            DiskFault::Exchanged(_) if state.stuck() => {
                state.fault = DiskFault::None;
                state.bytes.fill(FOREIGN);
            }
            _ => (),
        }
        state.queue.clear();
        state.quiesced = true;
        Ok(())
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        mut buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        let mut state = self.disk.state();
        assert!(state.queue.is_empty(), "rw_block while requests are in flight");
        assert_eq!(buffer.len(), BLOCK_SIZE, "rw_block moves one block");
        if let Err(error) = state.check() {
            return (Some(buffer), Err(error));
        }
        if state.stuck() {
            drop(state);
            let timed_out = wait.until("a simulated block", SECOND, || None::<()>);
            return (None, timed_out.map_err(Into::into));
        }
        let result = state.transfer(direction, block, &mut buffer, None);
        (Some(buffer), result)
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn max_extents(&self) -> usize {
        if self.depth > 1 { crate::format::chunk::MAX_PAYLOAD_BLOCKS } else { 0 }
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        if self.depth <= 1 {
            return crate::device::transfer_by_blocks(self, request, wait).map(Some);
        }
        let mut state = self.disk.state();
        if let Err(error) = state.check() {
            return Err(Rejected { request, error });
        }
        assert!(state.queue.len() < self.depth, "more requests than the device's depth");
        state.queue.push(request);
        Ok(None)
    }

    fn poll(&mut self, _: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        let mut state = self.disk.state();
        state.check()?;
        if state.queue.is_empty() || state.stuck() || state.numbers.below(3) == 0 {
            return Ok(None);
        }
        let waiting = state.queue.len() as u64;
        let pick = state.numbers.below(waiting) as usize;
        let mut request = state.queue.swap_remove(pick);
        let lies = matches!(state.fault, DiskFault::WrongId(n) if n == state.reads + state.writes);
        let Request { direction, block, buffer, gather, .. } = &mut request;
        let result = state.transfer(*direction, *block, buffer, gather.as_ref());
        let id = if lies { request.id.wrapping_add(77) } else { request.id };
        Ok(Some(Completion { id, buffer: request.buffer, gather: request.gather, result }))
    }

    fn flush(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> {
        let mut state = self.disk.state();
        state.check()?;
        assert!(state.queue.is_empty(), "flush while requests are in flight");
        if state.fault == DiskFault::NoFlush {
            return Err(DeviceError::Status { what: "flush", code: 1 });
        }
        state.flushes += 1;
        if let Some(cached) = &mut state.cached {
            cached.clear();
        }
        Ok(())
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.flush(wait)?;
        self.disk.state().quiesced = false;
        Ok(())
    }
}

//! Many requests in flight, from a fixed pool of buffers.

use crate::device::{Completion, DeviceError, Direction, DumpDevice, Gather, Rejected, Request};
use crate::dma::DmaBuffer;
use crate::format::BLOCK_SIZE;
use crate::format::chunk::MAX_PAYLOAD_BLOCKS;
use crate::partition::window::Window;
use crate::platform::Nanoseconds;
use crate::wait::Wait;

/// Buffers in a pool, at most.
pub const MAX_BUFFERS: usize = 16;

/// Where a buffer is.
#[derive(Debug)]
enum Slot {
    /// There is no such buffer.
    None,
    /// Here.
    Free(DmaBuffer),
    /// With the caller, who took it.
    Taken,
    /// With the device: from which block of the partition on, and the part of the buffer that stayed here.
    InFlight { block: u64, rest: DmaBuffer },
}

/// What a transfer moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// The buffer's first so many blocks.
    Blocks(u64),
    /// The buffer's first block, then the RAM that the first so many extents in its second block name.
    Gathered(usize),
}

/// A finished transfer, its buffer whole again.
#[derive(Debug)]
pub struct Done {
    /// Which buffer.
    pub slot: usize,
    /// The buffer.
    pub buffer: DmaBuffer,
    /// First block, relative to the partition.
    pub block: u64,
    /// How many blocks went from or into the buffer.
    pub count: u64,
    /// Whether all of it was transferred.
    pub result: Result<(), DeviceError>,
}

/// A fixed set of equal buffers.
#[derive(Debug)]
pub struct Pool {
    slots: [Slot; MAX_BUFFERS],
    in_flight: usize,
    /// Most requests that were in flight at once.
    deepest: usize,
    depth: usize,
    timeout: Nanoseconds,
}

impl Pool {
    /// An empty pool; at most `depth` requests will be in flight, each for at most `timeout`.
    pub fn new(depth: usize, timeout: Nanoseconds) -> Pool {
        Pool {
            slots: [const { Slot::None }; MAX_BUFFERS],
            in_flight: 0,
            deepest: 0,
            depth: depth.max(1),
            timeout,
        }
    }

    /// Adds a buffer; one that does not fit is forgotten.
    pub fn add(&mut self, buffer: DmaBuffer) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| matches!(slot, Slot::None)) {
            *slot = Slot::Free(buffer);
        }
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Most requests that were in flight at once.
    pub fn deepest(&self) -> usize {
        self.deepest
    }

    /// Blocks that can be in flight together: in each buffer's name the largest chunk.
    pub fn span(&self) -> usize {
        let buffers = self.slots.iter().filter(|slot| matches!(slot, Slot::Free(_))).count();
        buffers.min(self.depth).saturating_mul(MAX_PAYLOAD_BLOCKS.saturating_add(1))
    }

    /// Everything that must be the same at the crash: the bounds, and where each buffer is.
    pub fn seal(&self, digest: &mut crate::integrity::Digest) {
        digest.number(self.depth as u64).number(self.timeout).number(self.in_flight as u64);
        for slot in &self.slots {
            if let Slot::Free(buffer) = slot {
                digest.number(buffer.address().as_ptr() as u64);
                digest.number(buffer.bus_address()).number(buffer.len() as u64);
            }
        }
    }

    /// A free buffer, if there is one.
    pub fn take(&mut self) -> Option<(usize, DmaBuffer)> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if matches!(slot, Slot::Free(_))
                && let Slot::Free(buffer) = core::mem::replace(slot, Slot::Taken)
            {
                return Some((number, buffer));
            }
        }
        None
    }

    /// Gives a taken buffer back.
    pub fn give_back(&mut self, slot: usize, buffer: DmaBuffer) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Slot::Free(buffer);
        }
    }

    /// Whether another request may be started.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.depth
    }

    /// Starts a transfer between a taken buffer and the blocks from `block` on. A transfer that is done at once
    /// comes back.
    ///
    /// # Errors
    /// Why it was not started; the buffer is free again.
    pub fn start(
        &mut self,
        window: &mut Window<'_>,
        direction: Direction,
        slot: usize,
        buffer: DmaBuffer,
        (block, load): (u64, Load),
        wait: &Wait<'_>,
    ) -> Result<Option<Done>, DeviceError> {
        let (part, gather, rest) = match load {
            Load::Blocks(count) => {
                let (part, rest) = buffer.split((count as usize).saturating_mul(BLOCK_SIZE));
                (part, None, rest)
            }
            Load::Gathered(count) => {
                let (part, rest) = buffer.split(BLOCK_SIZE);
                let (table, rest) = rest.split(BLOCK_SIZE);
                (part, Some(Gather::new(table, count)), rest)
            }
        };
        let request = Request { id: slot as u32, direction, block, buffer: part, gather };
        match window.submit(request, wait) {
            Ok(at_once) => {
                if let Some(place) = self.slots.get_mut(slot) {
                    *place = Slot::InFlight { block, rest };
                    self.in_flight = self.in_flight.saturating_add(1);
                    self.deepest = self.deepest.max(self.in_flight);
                }
                at_once.map(|completion| self.finish(completion)).transpose()
            }
            Err(Rejected { request, error }) => {
                if let Ok(buffer) = whole(request.buffer, request.gather, rest) {
                    self.give_back(slot, buffer);
                }
                Err(error)
            }
        }
    }

    /// Takes a completion apart: it must be for a request in flight and bring that request's buffer.
    fn finish(&mut self, completion: Completion) -> Result<Done, DeviceError> {
        let Completion { id, buffer, gather, result } = completion;
        let slot = id as usize;
        let wrong = DeviceError::Protocol { what: "a completion's id", value: id.into() };
        let place = self.slots.get_mut(slot).ok_or(wrong)?;
        match core::mem::replace(place, Slot::Taken) {
            Slot::InFlight { block, rest } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                let count = (buffer.len() / BLOCK_SIZE) as u64;
                // A device that kept the buffer has said why.
                let buffer = whole(buffer, gather, rest).map_err(|()| result.err().unwrap_or(wrong))?;
                Ok(Done { slot, buffer, block, count, result })
            }
            other => {
                *place = other;
                Err(wrong)
            }
        }
    }

    /// Waits for the next finished transfer; `None` if none is in flight.
    ///
    /// # Errors
    /// Nothing finished in time, or the device failed.
    pub fn next(&mut self, window: &mut Window<'_>, wait: &Wait<'_>) -> Result<Option<Done>, DeviceError> {
        if self.in_flight == 0 {
            return Ok(None);
        }
        let found = wait.until("a request to the disk", self.timeout, || window.poll(wait).transpose())?;
        self.finish(found?).map(Some)
    }

    /// Gets everything out of the device: waits for it, and where it does not come, resets the device. The buffers
    /// that it kept are lost.
    ///
    /// # Errors
    /// Why the device could not be reset.
    pub fn settle(&mut self, window: &mut Window<'_>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // A transfer that failed is out of the device, and that is all that counts here.
        let _ = self.drain(window, wait);
        if self.in_flight == 0 {
            return Ok(());
        }
        self.reset(window, wait)
    }

    /// Resets the device; what was in flight never comes back, and its buffers are lost.
    ///
    /// # Errors
    /// Why the device could not be reset.
    pub fn reset(&mut self, window: &mut Window<'_>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.forget();
        window.device().quiesce(wait)
    }

    fn forget(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::InFlight { .. } | Slot::Taken) {
                *slot = Slot::None;
            }
        }
        self.in_flight = 0;
    }

    /// Waits for everything in flight and frees its buffers, whatever became of it.
    ///
    /// # Errors
    /// The first transfer that failed, or why waiting ended early.
    pub fn drain(&mut self, window: &mut Window<'_>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let mut first = Ok(());
        while let Some(done) = self.next(window, wait)? {
            first = first.and(done.result);
            self.give_back(done.slot, done.buffer);
        }
        first
    }
}

/// A buffer put together again.
fn whole(part: DmaBuffer, gather: Option<Gather>, rest: DmaBuffer) -> Result<DmaBuffer, ()> {
    let front = match gather {
        Some(gather) => part.join(gather.into_table()).map_err(|_| ())?,
        None => part,
    };
    front.join(rest).map_err(|_| ())
}

/// A whole request by `rw_block`, one block after another: the default of [`DumpDevice::submit`].
///
/// # Errors
/// The request, if it names RAM outside of its buffer. A block that fails is told in the completion.
pub fn transfer_by_blocks<D: DumpDevice + ?Sized>(
    device: &mut D,
    request: Request,
    wait: &Wait<'_>,
) -> Result<Completion, Rejected> {
    if request.gather.is_some() {
        let length = request.length() as usize;
        return Err(Rejected { request, error: DeviceError::BadBuffer { length } });
    }
    let Request { id, direction, block, buffer, gather } = request;
    // Blocks that are done are joined on the left, those to come are split from the right.
    let (mut done, mut rest) = buffer.split(0);
    let mut at = block;
    while !rest.is_empty() {
        let (piece, behind) = rest.split(BLOCK_SIZE);
        let (piece, result) = device.rw_block(direction, at, piece, wait);
        done = match piece {
            Some(piece) => done.join(piece).unwrap_or_else(|(left, _)| left),
            None => done,
        };
        if let Err(error) = result {
            let buffer = done.join(behind).unwrap_or_else(|(left, _)| left);
            return Ok(Completion { id, buffer, gather, result: Err(error) });
        }
        rest = behind;
        at = at.wrapping_add(1);
    }
    Ok(Completion { id, buffer: done, gather, result: Ok(()) })
}

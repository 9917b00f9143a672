//! A fixed pool of buffers, and the requests that use them.

use crate::device::{Completion, DeviceError, Direction, Gather, Rejected, Request};
use crate::dma::{DmaBuffer, DmaPlace};
use crate::format::BLOCK_SIZE;
use crate::format::chunk::MAX_PAYLOAD_BLOCKS;
use crate::integrity::Digest;
use crate::limits::{MAX_BUFFERS, MAX_TARGETS};
use crate::outcome::Ended;
use crate::partition::label;
use crate::partition::member::Members;
use crate::partition::range::BlockRange;
use crate::partition::transfer::{Done, Lease, Load, Transfer};
use crate::partition::unfit::Unfit;
use crate::time::Nanoseconds;
use crate::wait::Wait;

/// Buffers that reads may not take, if there are more. Buffers of hanging reads are lost with their device,
/// which may write to them at any time; the next target needs some too.
const KEPT_FROM_READS: usize = 2;

/// The state of a buffer.
#[derive(Debug)]
enum Slot {
    /// There is no such buffer, or it is lost to a CPU or device that may still use it.
    None,
    /// In the pool.
    Free(DmaBuffer),
    /// The caller has it.
    Taken,
    /// A device has it; `block` is relative to the partition, and `rest` is the part of the buffer that was
    /// not passed on.
    InFlight { member: usize, direction: Direction, block: u64, rest: DmaBuffer },
    /// A device kept it and will not return it.
    Kept { member: usize, direction: Direction },
}

/// The in-flight buffers that a device may still access, and that must therefore be left to it.
#[derive(Clone, Copy)]
enum Reach {
    /// None: the device has been stopped.
    Nothing,
    /// The buffers that it reads into. A device that could not be stopped may still read the buffers of its
    /// writes; if they are reused, only its own blocks get wrong data.
    Reads,
    /// All.
    Everything,
}

/// A fixed set of equal buffers.
#[derive(Debug)]
pub struct Pool {
    places: [Option<DmaPlace>; MAX_BUFFERS],
    slots: [Slot; MAX_BUFFERS],
    /// Number of requests in flight for each member.
    in_flight: [usize; MAX_TARGETS],
    /// The most requests that were in flight at once.
    deepest: usize,
    timeout: Nanoseconds,
}

impl Pool {
    /// An empty pool. A device counts as hanging if nothing completes for `timeout`.
    pub fn new(timeout: Nanoseconds) -> Pool {
        Pool {
            places: [None; MAX_BUFFERS],
            slots: [const { Slot::None }; MAX_BUFFERS],
            in_flight: [0; MAX_TARGETS],
            deepest: 0,
            timeout,
        }
    }

    /// Adds a buffer; ignores it if the pool is full.
    pub fn add(&mut self, buffer: DmaBuffer) {
        let slots = self.places.iter_mut().zip(&mut self.slots);
        if let Some((place, slot)) = slots.into_iter().find(|(place, _)| place.is_none()) {
            *place = Some(buffer.place());
            *slot = Slot::Free(buffer);
        }
    }

    /// How long nothing may complete, in nanoseconds.
    pub fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Number of requests in flight for a member.
    pub fn in_flight_in(&self, member: usize) -> usize {
        self.in_flight.get(member).copied().unwrap_or(0)
    }

    /// The most requests that were in flight at once.
    pub fn deepest(&self) -> usize {
        self.deepest
    }

    /// Number of buffers.
    pub fn buffers(&self) -> usize {
        self.slots.iter().filter(|slot| !matches!(slot, Slot::None)).count()
    }

    /// The most blocks that can be in flight together: the largest chunk for each buffer.
    pub fn span(&self) -> usize {
        self.buffers().saturating_mul(MAX_PAYLOAD_BLOCKS.saturating_add(1))
    }

    /// Feeds everything into the digest that must be the same at the crash: the timeout, and the place and
    /// state of each buffer.
    pub fn integrity(&self, digest: &mut Digest) {
        self.places_integrity(digest);
        for count in &self.in_flight {
            digest.number(*count as u64);
        }
        for slot in &self.slots {
            match slot {
                Slot::Free(buffer) => buffer.place().integrity(digest),
                Slot::None | Slot::Taken | Slot::InFlight { .. } | Slot::Kept { .. } => {
                    digest.number(0);
                }
            }
        }
    }

    /// Feeds in the state that never changes while the pool is in use: the timeout and the place of each
    /// buffer.
    pub(crate) fn places_integrity(&self, digest: &mut Digest) {
        digest.number(self.timeout);
        for place in self.places.iter().flatten() {
            place.integrity(digest);
        }
    }

    /// Takes a free buffer, if there is one.
    pub fn take(&mut self) -> Option<Lease> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if matches!(slot, Slot::Free(_))
                && let Slot::Free(buffer) = core::mem::replace(slot, Slot::Taken)
            {
                return Some(Lease { slot: number, buffer });
            }
        }
        None
    }

    /// Takes a free buffer to read into, unless `most` buffers are being read into already or the remaining
    /// ones are reserved for writes.
    pub fn take_to_read(&mut self, most: usize) -> Option<Lease> {
        let reading = |slot: &&Slot| matches!(slot, Slot::InFlight { direction: Direction::Read, .. });
        let reads = self.slots.iter().filter(reading).count();
        let most = self.buffers().saturating_sub(KEPT_FROM_READS).min(most).max(1);
        if reads >= most { None } else { self.take() }
    }

    /// Returns a taken buffer to the pool.
    pub fn give_back(&mut self, lease: Lease) {
        if let Some(place) = self.slots.get_mut(lease.slot) {
            *place = Slot::Free(lease.buffer);
        }
    }

    /// Marks a taken buffer as lost: a CPU that stalled has it.
    pub fn lose(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Slot::None;
        }
    }

    /// Starts a transfer from or into a taken buffer. Returns the transfer if it finishes at once.
    ///
    /// # Errors
    /// Why it was not started. The buffer is free again.
    pub fn start(
        &mut self,
        members: &mut Members<'_>,
        lease: Lease,
        transfer: Transfer,
        wait: &Wait<'_>,
    ) -> Result<Option<Done>, Ended> {
        let Transfer { member, direction, block, load } = transfer;
        let Some(window) = members.get_mut(member).map(|member| &mut member.window) else {
            self.give_back(lease);
            return Err(Ended::Device { member, error: DeviceError::NotReady });
        };
        let Lease { slot, buffer } = lease;
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
                    *place = Slot::InFlight { member, direction, block, rest };
                    if let Some(count) = self.in_flight.get_mut(member) {
                        *count = count.saturating_add(1);
                    }
                    self.deepest = self.deepest.max(self.in_flight());
                }
                at_once.map(|completion| self.finish(member, completion, wait)).transpose()
            }
            Err(Rejected { request, error }) => {
                match whole(request.buffer, request.gather, rest) {
                    Ok(buffer) => self.give_back(Lease { slot, buffer }),
                    Err(()) => self.lose(slot),
                }
                Err(Ended::device(member, error, wait))
            }
        }
    }

    /// Processes a completion, which must be for a request in flight for this member and bring back that
    /// request's buffer.
    fn finish(&mut self, member: usize, completion: Completion, wait: &Wait<'_>) -> Result<Done, Ended> {
        let Completion { id, buffer, gather, result } = completion;
        let slot = id as usize;
        let wrong = DeviceError::Protocol { what: "a completion's id", value: id.into() };
        let place = self.slots.get_mut(slot).ok_or(Ended::Device { member, error: wrong })?;
        match core::mem::replace(place, Slot::Taken) {
            Slot::InFlight { member: of, direction, block, rest } if of == member => {
                if let Some(count) = self.in_flight.get_mut(member) {
                    *count = count.saturating_sub(1);
                }
                let count = (buffer.len() / BLOCK_SIZE) as u64;
                let Ok(buffer) = whole(buffer, gather, rest) else {
                    // If the device kept the buffer, the completion says why.
                    *place = Slot::Kept { member, direction };
                    return Err(Ended::device(member, result.err().unwrap_or(wrong), wait));
                };
                let range = BlockRange::of(block, count);
                Ok(Done { lease: Lease { slot, buffer }, member, direction, range, result })
            }
            other => {
                *place = other;
                Err(Ended::Device { member, error: wrong })
            }
        }
    }

    /// The next finished transfer of any member, if there is one.
    ///
    /// # Errors
    /// A device failed.
    pub fn poll(&mut self, members: &mut Members<'_>, wait: &Wait<'_>) -> Result<Option<Done>, Ended> {
        for (number, member) in members.iter_mut() {
            if self.in_flight_in(number) == 0 {
                continue;
            }
            let polled = member.window.poll(wait).map_err(|error| Ended::device(number, error, wait))?;
            if let Some(completion) = polled {
                return self.finish(number, completion, wait).map(Some);
            }
        }
        Ok(None)
    }

    /// A member with requests in flight: the one to blame for a timeout.
    pub fn waiting_for(&self) -> usize {
        self.in_flight.iter().position(|count| *count > 0).unwrap_or(0)
    }

    /// Waits for the next finished transfer; `None` if none is in flight.
    ///
    /// # Errors
    /// Nothing finished in time, or a device failed.
    pub fn next(&mut self, members: &mut Members<'_>, wait: &Wait<'_>) -> Result<Option<Done>, Ended> {
        if self.in_flight() == 0 {
            return Ok(None);
        }
        let member = self.waiting_for();
        let timeout = self.timeout;
        wait.until("a request to the disk", timeout, || self.poll(members, wait).transpose())
            .map_err(|error| Ended::device(member, error.into(), wait))?
            .map(Some)
    }

    /// Gets all of a member's requests out of its device: waits for them, and resets the device if they do
    /// not complete.
    ///
    /// # Errors
    /// Why the device could not be reset.
    pub fn settle(
        &mut self,
        members: &mut Members<'_>,
        member: usize,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let kept = |slot: &Slot| matches!(slot, Slot::Kept { member: of, .. } if *of == member);
        if self.slots.iter().any(kept) {
            return self.reset(members, member, wait);
        }
        // Each turn takes in a transfer. A failed one is out of the device too, which is all that matters
        // here.
        while self.in_flight_in(member) > 0 {
            match self.next(members, wait) {
                Ok(Some(done)) => self.give_back(done.lease),
                Ok(None) | Err(_) => return self.reset(members, member, wait),
            }
        }
        Ok(())
    }

    /// Resets a member's device and checks that its label is unchanged. Requests in flight never complete.
    ///
    /// Why the device could not be reset, or that it is a different one now. Buffers that it reads from are
    /// free nevertheless, unless the member's dump is encrypted; buffers that it may write to are lost.
    /// same, unless the member's dump is encrypted; those that it may write to are lost.
    pub fn reset(
        &mut self,
        members: &mut Members<'_>,
        member: usize,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let here = members.get_mut(member).ok_or(DeviceError::NotReady)?;
        let stopped = here.window.quiesce(wait);
        let reach = match (stopped, here.keys) {
            (Ok(()), _) => Reach::Nothing,
            // A late read by the device must not put another member's unencrypted data into an encrypted
            // dump.
            (Err(_), None) => Reach::Reads,
            (Err(_), Some(_)) => Reach::Everything,
        };
        self.recover(member, reach);
        stopped?;
        self.is_the_same(members, member, wait)
    }

    /// Checks that a device is still the same after a reset: a different one in its place must not be
    /// written.
    fn is_the_same(
        &self,
        members: &mut Members<'_>,
        member: usize,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let here = members.get_mut(member).ok_or(DeviceError::NotReady)?;
        if here.state.uuid == [0; 16] {
            // The device was never identified, and nothing is written to it.
            return Ok(());
        }
        let checked = label::check_size(&mut here.window)
            .and_then(|()| label::check_label(&mut here.window, Some(&here.state.uuid), wait));
        match checked {
            Ok(_) => Ok(()),
            Err(Unfit::Device { error, .. }) => Err(error),
            Err(_) => Err(DeviceError::Protocol { what: "its label after a reset", value: 0 }),
        }
    }

    /// Frees the buffers of a member whose device has been stopped or abandoned, except those within its
    /// `reach`.
    fn recover(&mut self, member: usize, reach: Reach) {
        for (slot, place) in self.slots.iter_mut().zip(&self.places) {
            let direction = match slot {
                Slot::InFlight { member: of, direction, .. } | Slot::Kept { member: of, direction }
                    if *of == member =>
                {
                    *direction
                }
                _ => continue,
            };
            let ours = match reach {
                Reach::Nothing => true,
                Reach::Reads => direction == Direction::Write,
                Reach::Everything => false,
            };
            *slot = match place.filter(|_| ours) {
                Some(place) => {
                    // SAFETY: a driver that was quiesced has forgotten its buffers, and its device accesses
                    // no memory. If quiesce failed, only quiesce is called again, and the device does not
                    // write to this buffer.
                    Slot::Free(unsafe { place.buffer() })
                }
                None => Slot::None,
            };
        }
        if let Some(count) = self.in_flight.get_mut(member) {
            *count = 0;
        }
    }

    /// Prepares for other members: buffers that devices still have are lost.
    pub fn forget_members(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::InFlight { .. } | Slot::Kept { .. }) {
                *slot = Slot::None;
            }
        }
        self.in_flight = [0; MAX_TARGETS];
    }

    /// Prepares for another dump: statistics start again. Nothing may be in flight.
    pub fn renew(&mut self) {
        self.forget_members();
        self.deepest = 0;
    }
}

/// Joins the parts of a buffer.
fn whole(part: DmaBuffer, gather: Option<Gather>, rest: DmaBuffer) -> Result<DmaBuffer, ()> {
    let front = match gather {
        Some(gather) => part.join(gather.into_table()).map_err(|_| ())?,
        None => part,
    };
    front.join(rest).map_err(|_| ())
}

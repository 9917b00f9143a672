//! The I/O scheduler: runs a dump's writes, the reads that check ahead of them, and the checks by helpers
//! concurrently.

use crate::device::{DeviceError, Direction};
use crate::format::{BLOCK_SIZE, Block};
use crate::helpers::coordinator::{Checked, Coordinator};
use crate::helpers::job::first_foreign;
use crate::limits::MAX_TARGETS;
use crate::outcome::Ended;
use crate::partition::member::Members;
use crate::partition::pool::Pool;
use crate::partition::range::BlockRange;
use crate::partition::transfer::{Done, Lease, Load, Transfer};
use crate::partition::unfit::Unfit;
use crate::time::Nanoseconds;
use crate::wait::Wait;

/// How far reads go ahead of the writes: 16 MiB.
const AHEAD_BLOCKS: u64 = 4096;

/// The fewest buffers that a dump can continue with: one is filled while another is written or read into.
const ENOUGH_BUFFERS: usize = 2;

/// The I/O scheduler: the pool, the members, and the helpers.
pub struct IoScheduler<'t, 'l, 'c, 'a> {
    /// The transfer buffers.
    pub pool: &'t mut Pool,
    /// The members that the dump goes to.
    pub members: &'t mut Members<'l>,
    /// The helpers.
    pub coordinator: &'t mut Coordinator<'c, 'a>,
    /// Number of blocks checked.
    pub checked: u64,
}

/// Callback for the progress of a check: blocks done, blocks in total.
pub type Tell<'p> = dyn FnMut(u64, u64) + 'p;

/// Callback for each block: its number, its bytes.
pub type Visit<'v> = dyn FnMut(u64, &Block) + 'v;

impl IoScheduler<'_, '_, '_, '_> {
    /// Processes one event, if there is one: a check that is finished or late, or a finished transfer. Never
    /// waits.
    ///
    /// # Errors
    /// A device failed.
    fn step(&mut self, wait: &Wait<'_>) -> Result<bool, Ended> {
        if let Some(checked) = self.coordinator.collect_check() {
            self.take_checked(checked);
            return Ok(true);
        }
        if self.coordinator.checks_outstanding() > 0
            && let Some(reading) = self.coordinator.check_to_redo(wait.now())
        {
            self.pool.lose(reading.slot);
            if let Some(member) = self.members.get_mut(reading.member) {
                member.state.checker.read_again(reading.range);
            }
            return Ok(true);
        }
        match self.pool.poll(self.members, wait)? {
            Some(done) => self.take_in(done, wait).map(|()| true),
            None => Ok(false),
        }
    }

    /// Processes a finished transfer.
    fn take_in(&mut self, done: Done, wait: &Wait<'_>) -> Result<(), Ended> {
        if let Err(error) = done.result {
            self.pool.give_back(done.lease);
            return Err(Ended::device(done.member, error, wait));
        }
        if done.direction == Direction::Write {
            self.pool.give_back(done.lease);
            return Ok(());
        }
        let Some(uuid) = self.members.get(done.member).map(|member| member.state.uuid) else {
            self.pool.give_back(done.lease);
            return Ok(());
        };
        // A helper that does not finish keeps its buffer, so enough buffers must remain whatever the helpers
        // do.
        let spare =
            self.pool.buffers() > self.coordinator.checks_outstanding().saturating_add(ENOUGH_BUFFERS);
        let unposted = if spare { self.coordinator.post_check(done, &uuid).err() } else { Some(done) };
        if let Some(read) = unposted {
            let bad = first_foreign(&read, &uuid);
            self.coordinator.tally.units = self.coordinator.tally.units.saturating_add(1);
            self.take_checked(Checked { read, bad });
        }
        Ok(())
    }

    /// Processes a finished check.
    fn take_checked(&mut self, checked: Checked) {
        let Checked { read, bad } = checked;
        let Done { lease, member, range, .. } = read;
        self.pool.give_back(lease);
        self.checked = self.checked.saturating_add(range.count());
        if let Some(member) = self.members.get_mut(member) {
            // A bad block far ahead does not matter if the dump does not get that far.
            match bad {
                Some(bad) => {
                    member.state.checker.is_good(BlockRange { to: bad, ..range });
                    member.state.checker.is_bad(bad);
                }
                None => member.state.checker.is_good(range),
            }
        }
    }

    /// Waits until something happens, and processes it.
    ///
    /// # Errors
    /// Nothing happened in time, or a device failed.
    fn turn(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        let member = self.pool.waiting_for();
        if self.pool.in_flight() == 0 && self.coordinator.checks_outstanding() == 0 {
            // No free buffer, and nothing in flight: devices or helpers have kept every buffer.
            return Err(Ended::Device { member, error: DeviceError::NotReady });
        }
        let timeout = self.pool.timeout();
        wait.until("a request to the disk", timeout, || match self.step(wait) {
            Ok(false) => {
                // Instead of waiting, this CPU does a check that no helper has taken.
                let checked = self.coordinator.do_check()?;
                self.take_checked(checked);
                Some(Ok(true))
            }
            other => Some(other),
        })
        .map_err(|error| Ended::device(member, error.into(), wait))?
        .map(|_| ())
    }

    /// Starts reads ahead for a member, up to block `limit`, with at most `most_reads` in flight.
    fn read_ahead(
        &mut self,
        member: usize,
        limit: u64,
        most_reads: usize,
        wait: &Wait<'_>,
    ) -> Result<(), Ended> {
        // Each turn starts a read, until no buffer is free or nothing is left to read.
        while let Some(here) = self.members.get_mut(member)
            && !here.state.checker.is_done()
            && self.pool.in_flight_in(member) < here.window.device().depth()
            && let Some(lease) = self.pool.take_to_read(most_reads)
        {
            let Some(here) = self.members.get_mut(member) else { break };
            let most = (lease.buffer.len() / BLOCK_SIZE) as u64;
            let Some(range) = here.state.checker.next_read(most, limit) else {
                self.pool.give_back(lease);
                break;
            };
            if let Some(done) = self.pool.start(self.members, lease, read_of(member, range), wait)? {
                self.take_in(done, wait)?;
            }
        }
        Ok(())
    }

    /// Waits until a member's blocks before `end` are checked, and keeps reading further ahead.
    ///
    /// # Errors
    /// A block does not hold its pattern, or could not be read.
    pub fn check_up_to(&mut self, member: usize, end: u64, wait: &Wait<'_>) -> Result<(), Ended> {
        // Each turn processes an event, and there is a limited number of reads up to `end`.
        loop {
            // Half of the buffers are for writes.
            let most = self.pool.buffers() / 2;
            self.read_ahead(member, end.saturating_add(AHEAD_BLOCKS), most, wait)?;
            let Some(here) = self.members.get(member) else { return Ok(()) };
            if let Some(block) = here.state.checker.bad_before(end) {
                return Err(Ended::Pattern { member, block });
            }
            if here.state.checker.frontier() >= end {
                return Ok(());
            }
            self.turn(wait)?;
        }
    }

    /// Checks all of a member that has to be checked, and reports progress.
    ///
    /// # Errors
    /// As for [`check_up_to`](IoScheduler::check_up_to). After a timeout, reads may still be in flight.
    pub fn check_all(&mut self, member: usize, wait: &Wait<'_>, tell: &mut Tell<'_>) -> Result<(), Ended> {
        let begin = self.members.get(member).map_or(0, |member| member.state.checker.frontier());
        // Each turn processes an event, and there is a limited number of reads.
        loop {
            self.read_ahead(member, u64::MAX, usize::MAX, wait)?;
            let Some(here) = self.members.get(member) else { return Ok(()) };
            if let Some(block) = here.state.checker.bad_before(u64::MAX) {
                return Err(Ended::Pattern { member, block });
            }
            if here.state.checker.is_done() {
                return Ok(());
            }
            if wait.expired() {
                return Err(Ended::Budget);
            }
            wait.breathe();
            let all = here.window.blocks().saturating_sub(begin);
            tell(here.state.checker.frontier().saturating_sub(begin), all);
            self.turn(wait)?;
        }
    }

    /// Takes a free buffer, waiting for one if necessary.
    ///
    /// # Errors
    /// A device failed, or nothing completed in time.
    pub fn buffer(&mut self, wait: &Wait<'_>) -> Result<Lease, Ended> {
        // Each turn processes an event, and a limited number is outstanding.
        loop {
            if let Some(taken) = self.pool.take() {
                return Ok(taken);
            }
            self.turn(wait)?;
        }
    }

    /// Starts a write, waiting until the device accepts it.
    ///
    /// # Errors
    /// A device failed.
    pub fn write(&mut self, lease: Lease, transfer: Transfer, wait: &Wait<'_>) -> Result<(), Ended> {
        let member = transfer.member;
        let depth = self.members.get_mut(member).map_or(1, |member| member.window.device().depth());
        // Each turn processes an event, and a limited number is outstanding.
        while self.pool.in_flight_in(member) >= depth {
            if let Err(ended) = self.turn(wait) {
                self.pool.give_back(lease);
                return Err(ended);
            }
        }
        match self.pool.start(self.members, lease, transfer, wait)? {
            Some(done) => self.take_in(done, wait),
            None => Ok(()),
        }
    }

    /// Processes an event, if there is one, without waiting.
    ///
    /// # Errors
    /// A device failed, or nothing completed in time.
    pub fn tick(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        self.step(wait).map(|_| ())
    }

    /// Waits until nothing is in flight, including checks.
    ///
    /// # Errors
    /// The first failure; other requests may still be in flight.
    pub fn drain(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        // Each turn processes an event, and nothing new is started.
        while self.pool.in_flight() > 0 || self.coordinator.checks_outstanding() > 0 {
            self.turn(wait)?;
        }
        Ok(())
    }

    /// Gets all buffers back from devices and helpers, whatever the results; pending checks are dropped.
    ///
    /// Returns, for each member whose device could not be stopped, the reason. Such a device must not be used
    /// any more.
    pub fn settle(&mut self, wait: &Wait<'_>) -> [Option<DeviceError>; MAX_TARGETS] {
        let mut stuck = [None; MAX_TARGETS];
        for (number, stuck) in stuck.iter_mut().enumerate() {
            if self.members.get(number).is_some() {
                *stuck = self.pool.settle(self.members, number, wait).err();
            }
        }
        self.forget_checks(wait);
        for (_, member) in self.members.iter_mut() {
            member.state.checker.restart();
        }
        stuck
    }

    /// Waits for the checks that helpers still do. Checks that do not finish are lost with their buffers.
    fn forget_checks(&mut self, wait: &Wait<'_>) {
        let timeout = self.pool.timeout();
        let over = wait.until("other CPUs", timeout, || {
            let done = self.coordinator.collect_check().or_else(|| self.coordinator.do_check());
            if let Some(Checked { read, .. }) = done {
                self.pool.give_back(read.lease);
            } else if let Some(reading) = self.coordinator.check_to_redo(wait.now()) {
                self.pool.lose(reading.slot);
            }
            (self.coordinator.checks_outstanding() == 0).then_some(())
        });
        if over.is_err() {
            // If time is over or the clock stands still, everything that helpers hold is late. Each turn ends
            // a check.
            while let Some(Checked { read, .. }) =
                self.coordinator.collect_check().or_else(|| self.coordinator.do_check())
            {
                self.pool.give_back(read.lease);
            }
            // Each turn gives one up.
            while let Some(reading) = self.coordinator.check_to_redo(Nanoseconds::MAX) {
                self.pool.lose(reading.slot);
            }
        }
    }

    /// Reads all blocks of a member's range, many at once, and passes each to `visit`, in any order. Nothing
    /// else may be in flight. After an error, reads may still be in flight.
    ///
    /// # Errors
    /// A read that failed, or the end of the budget.
    pub fn scan(
        &mut self,
        member: usize,
        range: BlockRange,
        wait: &Wait<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Unfit> {
        let BlockRange { from: mut next, to } = range;
        let depth = self.members.get_mut(member).map_or(1, |member| member.window.device().depth());
        // Each turn starts a read or takes one in, and the number of blocks is limited.
        while next < to || self.pool.in_flight() > 0 {
            if wait.expired() {
                return Err(Unfit::Budget);
            }
            let failed = |ended: Ended| match ended {
                // A wait that was cut short by the end of the budget is not held against the device.
                Ended::Device { error, .. } if !wait.expired() => Unfit::Device { block: next, error },
                _ => Unfit::Budget,
            };
            let room = next < to && self.pool.in_flight_in(member) < depth;
            let free = if room { self.pool.take_to_read(usize::MAX) } else { None };
            let done = if let Some(lease) = free {
                let count = to.saturating_sub(next).min((lease.buffer.len() / BLOCK_SIZE) as u64);
                let read = read_of(member, BlockRange::of(next, count));
                let done = self.pool.start(self.members, lease, read, wait).map_err(failed)?;
                next = next.saturating_add(count);
                done
            } else {
                // With nothing in flight and no free buffer, the device has kept them all, and the loop would
                // never end.
                let kept = Ended::Device { member, error: DeviceError::NotReady };
                Some(self.pool.next(self.members, wait).map_err(failed)?.ok_or(failed(kept))?)
            };
            if let Some(Done { lease, range, result, .. }) = done {
                if result.is_ok() {
                    let blocks = lease.buffer.blocks().iter().zip(range.from..range.to);
                    blocks.for_each(|(block, number)| visit(number, block));
                    self.checked = self.checked.saturating_add(range.count());
                }
                self.pool.give_back(lease);
                result.map_err(|error| Unfit::Device { block: range.from, error })?;
                wait.breathe();
            }
        }
        Ok(())
    }
}

/// A read of a member's range.
fn read_of(member: usize, range: BlockRange) -> Transfer {
    Transfer { member, direction: Direction::Read, block: range.from, load: Load::Blocks(range.count()) }
}

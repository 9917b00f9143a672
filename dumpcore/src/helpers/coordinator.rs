//! The crashing CPU's side of the helper pool: posts work, collects results, and detects helpers that are
//! late.

use super::job::{Check, LOOK_PAGES, Unit, Way};
use super::pool::HelperPool;
use super::slots::{MAX_SLOTS, Owner, State, Ticket};
use crate::format::Uuid;
use crate::memory::class::ClassedPfn;
use crate::partition::range::BlockRange;
use crate::partition::transfer::Done;
use crate::time::Nanoseconds;
use crate::wait::Wait;

/// Blocks that were read and are being checked: enough to read them again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The buffer's number in the pool.
    pub slot: usize,
    /// The member that they were read from.
    pub member: usize,
    /// The blocks that were read.
    pub range: BlockRange,
}

/// Pages that were posted as one unit.
struct Posted {
    way: Way,
    count: usize,
    pages: [ClassedPfn; LOOK_PAGES],
}

/// The work that was posted, kept so that it can be done again. It is in the arena.
pub struct PostedWork {
    pages: [Posted; MAX_SLOTS],
    readings: [Option<Reading>; MAX_SLOTS],
    units_since: Since,
    checks_since: Since,
}

impl PostedWork {
    /// No posted work.
    pub const fn new() -> PostedWork {
        PostedWork {
            pages: [const { Posted { way: Way::Copy, count: 0, pages: [ClassedPfn::ZERO; LOOK_PAGES] } };
                MAX_SLOTS],
            readings: [None; MAX_SLOTS],
            units_since: [None; MAX_SLOTS],
            checks_since: [None; MAX_SLOTS],
        }
    }
}

impl Default for PostedWork {
    fn default() -> Self {
        Self::new()
    }
}

/// A finished check.
#[derive(Debug)]
pub struct Checked {
    /// What was read.
    pub read: Done,
    /// The first block that is not the pattern, if there is one.
    pub bad: Option<u64>,
}

/// What the helper pool did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Units and checks in total.
    pub units: u64,
    /// Those done by helpers.
    pub by_helpers: u64,
    /// Those that had to be done again.
    pub redone: u64,
    /// The most helpers present at a time.
    pub helpers: usize,
    /// Helpers that did not finish a job they had taken.
    pub lost: usize,
}

/// Hands out work to the helpers.
pub struct Coordinator<'c, 'a> {
    /// The unit that this CPU works on itself, and into which finished units are swapped.
    pub own: &'c mut &'a mut Unit<'a>,
    helper_pool: Option<&'c HelperPool<'a>>,
    units: Option<Owner<'c, &'a mut Unit<'a>>>,
    checks: Option<Owner<'c, Check>>,
    posted: &'c mut PostedWork,
    patience: Nanoseconds,
    /// What has been done so far.
    pub tally: Tally,
}

/// How long a helper may hold a job.
#[derive(Clone, Copy)]
struct Patience {
    /// The current time. `Nanoseconds::MAX` makes every job late.
    now: Nanoseconds,
    /// The longest time that a helper may hold a job.
    limit: Nanoseconds,
}

/// For each slot: since when its job has been seen in a helper's hands.
type Since = [Option<(Ticket, Nanoseconds)>; MAX_SLOTS];

/// The first job that its helper has held for too long, and that helper.
fn late<T>(owner: &Owner<'_, T>, since: &mut Since, patience: Patience) -> Option<(Ticket, u32)> {
    let Patience { now, limit } = patience;
    for (ticket, state) in owner.jobs() {
        if let State::Taken(helper) = state
            && now == Nanoseconds::MAX
        {
            return Some((ticket, helper));
        }
        let (Some(seen), State::Taken(helper)) = (since.get_mut(ticket.slot()), state) else { continue };
        match seen {
            Some((of, begin)) if *of == ticket => {
                if now.saturating_sub(*begin) > limit {
                    return Some((ticket, helper));
                }
            }
            _ => *seen = Some((ticket, now)),
        }
    }
    None
}

/// Gives up the first job that is late, and its helper. Returns the number of its slot.
fn overdue<T>(
    helper_pool: &HelperPool<'_>,
    owner: &mut Owner<'_, T>,
    since: &mut Since,
    patience: Patience,
) -> Option<usize> {
    let (ticket, helper) = late(owner, since, patience)?;
    // It may have finished at this very moment.
    owner.give_up(ticket).then(|| {
        helper_pool.dismiss(helper);
        ticket.slot()
    })
}

impl<'c, 'a> Coordinator<'c, 'a> {
    /// A coordinator for a helper pool, or for none.
    pub fn new(
        helper_pool: Option<&'c HelperPool<'a>>,
        own: &'c mut &'a mut Unit<'a>,
        posted: &'c mut PostedWork,
        patience: Nanoseconds,
    ) -> Coordinator<'c, 'a> {
        posted.units_since = [None; MAX_SLOTS];
        posted.checks_since = [None; MAX_SLOTS];
        Coordinator {
            own,
            helper_pool,
            units: helper_pool.and_then(|helper_pool| helper_pool.units.owner()),
            checks: helper_pool.and_then(|helper_pool| helper_pool.checks.owner()),
            posted,
            patience,
            tally: Tally::default(),
        }
    }

    /// Whether any helper is present.
    fn helped(&mut self) -> bool {
        let present = self.helper_pool.map_or(0, HelperPool::present);
        self.tally.helpers = self.tally.helpers.max(present);
        present > 0
    }

    /// Offers pages to the helpers. Returns false if none of them can take pages now.
    pub fn post_pages(&mut self, way: Way, pages: &[ClassedPfn]) -> bool {
        if !self.helped() {
            return false;
        }
        let Some(units) = &mut self.units else { return false };
        let Some(ticket) = units.post(|unit| unit.set(way, pages)) else { return false };
        if let Some(kept) = self.posted.pages.get_mut(ticket.slot()) {
            for (slot, page) in kept.pages.iter_mut().zip(pages) {
                *slot = *page;
            }
            kept.count = pages.len();
            kept.way = way;
        }
        true
    }

    /// Swaps a finished unit into `own`. Returns whether there was one.
    pub fn collect_pages(&mut self) -> bool {
        let own = &mut *self.own;
        let Some(units) = &mut self.units else { return false };
        if units.collect(|unit| core::mem::swap(unit, own)).is_none() {
            return false;
        }
        self.tally.units = self.tally.units.saturating_add(1);
        self.tally.by_helpers = self.tally.by_helpers.saturating_add(1);
        true
    }

    /// Whether a finished unit waits to be collected.
    fn pages_done(&self) -> bool {
        self.units.as_ref().is_some_and(|units| units.jobs().any(|(_, state)| state == State::Done))
    }

    /// Whether a helper has held pages for too long.
    fn pages_late(&mut self, now: Nanoseconds) -> bool {
        let since = &mut self.posted.units_since;
        self.units
            .as_ref()
            .is_some_and(|units| late(units, since, Patience { now, limit: self.patience }).is_some())
    }

    /// Waits until a unit is finished or late, and returns the time of that. If the wait timed out or the
    /// clock stands still, the result makes everything that helpers hold late.
    pub fn wait_for_pages(&mut self, wait: &Wait<'_>) -> Nanoseconds {
        let patience = self.patience.saturating_mul(2);
        let over = wait.until("other CPUs", patience, || {
            let now = wait.now();
            (self.pages_done() || self.pages_late(now)).then_some(now)
        });
        over.unwrap_or(Nanoseconds::MAX)
    }

    /// Puts the pages of a unit whose helper is late into `own`, to be done now.
    pub fn pages_to_redo(&mut self, now: Nanoseconds) -> bool {
        let (Some(helper_pool), Some(units)) = (self.helper_pool, &mut self.units) else { return false };
        let Some(slot) =
            overdue(helper_pool, units, &mut self.posted.units_since, Patience { now, limit: self.patience })
        else {
            return false;
        };
        let Some(kept) = self.posted.pages.get(slot) else { return false };
        self.own.set(kept.way, kept.pages.get(..kept.count).unwrap_or_default());
        self.tally.redone = self.tally.redone.saturating_add(1);
        self.tally.lost = self.tally.lost.saturating_add(1);
        true
    }

    /// Swaps a unit that no helper has taken into `own`, to be done now.
    pub fn withdraw_pages(&mut self) -> bool {
        let own = &mut *self.own;
        let Some(units) = &mut self.units else { return false };
        units.withdraw(|unit| core::mem::swap(unit, own)).is_some()
    }

    /// Number of units that are neither collected nor given up.
    pub fn pages_outstanding(&self) -> usize {
        self.units.as_ref().map_or(0, Owner::outstanding)
    }

    /// Discards all units when the stream has ended. Gives up those that helpers do not finish in time.
    pub fn forget_pages(&mut self, wait: &Wait<'_>) {
        // Each turn ends a unit, and no new ones are posted.
        while self.pages_outstanding() > 0 {
            if self.collect_pages() || self.withdraw_pages() {
                continue;
            }
            let now = self.wait_for_pages(wait);
            if self.pages_to_redo(now) {
                self.own.set(Way::Copy, &[]);
            }
        }
    }

    /// Offers a finished read to the helpers for checking.
    ///
    /// # Errors
    /// Returns the read if no helper can take it now.
    pub fn post_check(&mut self, read: Done, uuid: &Uuid) -> Result<(), Done> {
        if !self.helped() {
            return Err(read);
        }
        let Some(checks) = &mut self.checks else { return Err(read) };
        let reading = Reading { slot: read.lease.slot, member: read.member, range: read.range };
        let mut read = Some(read);
        let posted = checks.post(|check| {
            check.read = read.take();
            check.uuid = *uuid;
            check.bad = None;
        });
        let Some(ticket) = posted else {
            // Not posted, so the slot was not filled and we still have the read.
            return read.map_or(Ok(()), Err);
        };
        if let Some(kept) = self.posted.readings.get_mut(ticket.slot()) {
            *kept = Some(reading);
        }
        Ok(())
    }

    /// Collects a finished check.
    pub fn collect_check(&mut self) -> Option<Checked> {
        let (read, bad) = self.checks.as_mut()?.collect(|check| (check.read.take(), check.bad))?;
        self.tally.by_helpers = self.tally.by_helpers.saturating_add(1);
        self.tally.units = self.tally.units.saturating_add(1);
        read.map(|read| Checked { read, bad })
    }

    /// Does a check that no helper has taken.
    pub fn do_check(&mut self) -> Option<Checked> {
        let (read, bad) = self.checks.as_mut()?.withdraw(|check| {
            check.work();
            (check.read.take(), check.bad)
        })?;
        self.tally.units = self.tally.units.saturating_add(1);
        read.map(|read| Checked { read, bad })
    }

    /// A check whose helper is late. Its buffer is lost with it, so the blocks have to be read again.
    pub fn check_to_redo(&mut self, now: Nanoseconds) -> Option<Reading> {
        let (helper_pool, checks) = (self.helper_pool?, self.checks.as_mut()?);
        let slot = overdue(
            helper_pool,
            checks,
            &mut self.posted.checks_since,
            Patience { now, limit: self.patience },
        )?;
        self.tally.redone = self.tally.redone.saturating_add(1);
        self.tally.lost = self.tally.lost.saturating_add(1);
        self.posted.readings.get(slot).copied().flatten()
    }

    /// Number of checks that are neither collected nor given up.
    pub fn checks_outstanding(&self) -> usize {
        self.checks.as_ref().map_or(0, Owner::outstanding)
    }
}

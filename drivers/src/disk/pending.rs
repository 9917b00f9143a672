//! The requests that a driver has: what is left of each, and which one has waited longest.

use dumpcore::device::{Direction, Request};

/// Requests that a driver takes at once. What the device does not take waits here.
pub const DEPTH: usize = 16;

/// What something is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Called {
    /// When it does not end: `an NVMe flush` timed out.
    pub noun: &'static str,
    /// When it fails: the device failed to `flush`.
    pub verb: &'static str,
}

/// What a driver was asked to do.
pub enum Work<C> {
    /// To move data.
    Transfer(Request),
    /// A command of the driver's own.
    Command(C),
}

/// Room for one request.
pub struct Pending<C, S> {
    work: Option<Work<C>>,
    /// When it came, to serve those that wait in order.
    turn: u32,
    /// Bytes that are done; where a request is several commands at once, those that were issued.
    pub done: usize,
    /// Bytes that the device has now.
    pub round: usize,
    /// It has failed, or was under way when something else did. The second time is the last.
    pub tried: bool,
    /// What the driver keeps of it.
    pub state: S,
}

impl<C: Copy, S: Default> Pending<C, S> {
    fn new(work: Option<Work<C>>, turn: u32) -> Pending<C, S> {
        Pending { work, turn, done: 0, round: 0, tried: false, state: S::default() }
    }

    /// What there is to do; `None` if nothing is.
    #[inline]
    pub fn work(&self) -> Option<&Work<C>> {
        self.work.as_ref()
    }

    /// The transfer, if it is one.
    #[inline]
    pub fn request(&self) -> Option<&Request> {
        match &self.work {
            Some(Work::Transfer(request)) => Some(request),
            _ => None,
        }
    }

    /// The transfer, if it is one, whose data the CPU moves.
    #[inline]
    pub fn request_mut(&mut self) -> Option<&mut Request> {
        match &mut self.work {
            Some(Work::Transfer(request)) => Some(request),
            _ => None,
        }
    }

    /// Bytes of a transfer's data; of a command, 0.
    #[inline]
    pub fn length(&self) -> usize {
        self.request().map_or(0, |request| request.length() as usize)
    }

    /// What it does, as it is said when that fails; of a command, as `called` says.
    pub fn verb(&self, called: fn(C) -> Called) -> &'static str {
        match &self.work {
            Some(Work::Transfer(Request { direction: Direction::Read, .. })) => "read",
            Some(Work::Transfer(Request { direction: Direction::Write, .. })) => "write",
            Some(Work::Command(command)) => called(*command).verb,
            None => "go on",
        }
    }

    /// The device has done its round. Whether there is more to do.
    #[inline]
    pub fn finish_round(&mut self) -> bool {
        self.done = self.done.saturating_add(self.round);
        self.done < self.length()
    }
}

/// All requests that a driver has. At most [`DEPTH`].
pub struct Requests<C, S> {
    all: [Pending<C, S>; DEPTH],
    /// Requests taken so far.
    turns: u32,
}

impl<C: Copy, S: Default> Requests<C, S> {
    pub(super) fn new() -> Requests<C, S> {
        Requests { all: [(); DEPTH].map(|()| Pending::new(None, 0)), turns: 0 }
    }

    /// Forgets all of them.
    #[inline(never)]
    pub(super) fn clear(&mut self) {
        for pending in &mut self.all {
            *pending = Pending::new(None, 0);
        }
    }

    /// Takes a request; back if there is no room.
    #[inline]
    pub(super) fn push(&mut self, work: Work<C>) -> Result<(), Work<C>> {
        let Some(free) = self.all.iter_mut().find(|pending| pending.work.is_none()) else { return Err(work) };
        self.turns = self.turns.wrapping_add(1);
        *free = Pending::new(Some(work), self.turns);
        Ok(())
    }

    /// Takes out what is over.
    #[inline]
    pub(super) fn take(&mut self, index: usize) -> Option<Work<C>> {
        self.all.get_mut(index)?.work.take()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.iter().all(|pending| pending.work.is_none())
    }

    /// The index of the one that has waited longest of those that do.
    #[inline]
    pub fn oldest(&self, waits: impl Fn(&Pending<C, S>) -> bool) -> Option<usize> {
        let waiting =
            self.all.iter().enumerate().filter(|(_, pending)| pending.work.is_some() && waits(pending));
        let oldest = waiting.max_by_key(|(_, pending)| self.turns.wrapping_sub(pending.turn));
        oldest.map(|(index, _)| index)
    }

    /// The index of the first of which this is true.
    #[inline]
    pub fn position(&self, is: impl Fn(&Pending<C, S>) -> bool) -> Option<usize> {
        self.all.iter().position(|pending| pending.work.is_some() && is(pending))
    }

    /// One of them.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&Pending<C, S>> {
        self.all.get(index)
    }

    /// One of them.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Pending<C, S>> {
        self.all.get_mut(index)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pending<C, S>> {
        self.all.iter().filter(|pending| pending.work.is_some())
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pending<C, S>> {
        self.all.iter_mut().filter(|pending| pending.work.is_some())
    }
}

//! A driver's requests: the rest of each, and their order.

use dumpcore::device::{Direction, Request};

/// Maximum number of requests in a driver. Those that the device cannot accept yet wait here.
pub const DEPTH: usize = 16;

/// Names of an operation, for errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Called {
    /// For a timeout: `an NVMe flush` timed out.
    pub noun: &'static str,
    /// For a failure: the device failed to `flush`.
    pub verb: &'static str,
}

/// The work of a request.
pub enum Work<C> {
    /// A data transfer.
    Transfer(Request),
    /// A command of the driver's own.
    Command(C),
}

/// A slot for one request.
pub struct Pending<C, S> {
    work: Option<Work<C>>,
    /// Sequence number, to serve waiting requests in order.
    turn: u32,
    /// Bytes completed; where a request is several commands at once, bytes issued.
    pub done: usize,
    /// Bytes in flight.
    pub round: usize,
    /// It has failed, or was in flight when another one failed. A second failure is final.
    pub tried: bool,
    /// The driver's own state.
    pub state: S,
}

impl<C: Copy, S: Default> Pending<C, S> {
    fn new(work: Option<Work<C>>, turn: u32) -> Pending<C, S> {
        Pending { work, turn, done: 0, round: 0, tried: false, state: S::default() }
    }

    /// The work; `None` if the slot is free.
    #[inline]
    pub fn work(&self) -> Option<&Work<C>> {
        self.work.as_ref()
    }

    /// The transfer; `None` for a command.
    #[inline]
    pub fn request(&self) -> Option<&Request> {
        match &self.work {
            Some(Work::Transfer(request)) => Some(request),
            _ => None,
        }
    }

    /// The transfer, for PIO; `None` for a command.
    #[inline]
    pub fn request_mut(&mut self) -> Option<&mut Request> {
        match &mut self.work {
            Some(Work::Transfer(request)) => Some(request),
            _ => None,
        }
    }

    /// Bytes of a transfer's data; 0 for a command.
    #[inline]
    pub fn length(&self) -> usize {
        self.request().map_or(0, |request| request.length() as usize)
    }

    /// The verb for an error message; for a command, from `called`.
    pub fn verb(&self, called: fn(C) -> Called) -> &'static str {
        match &self.work {
            Some(Work::Transfer(Request { direction: Direction::Read, .. })) => "read",
            Some(Work::Transfer(Request { direction: Direction::Write, .. })) => "write",
            Some(Work::Command(command)) => called(*command).verb,
            None => "go on",
        }
    }

    /// Completes the current round. Returns whether there is more to do.
    #[inline]
    pub fn finish_round(&mut self) -> bool {
        self.done = self.done.saturating_add(self.round);
        self.done < self.length()
    }
}

/// A driver's requests, at most [`DEPTH`].
pub struct Requests<C, S> {
    all: [Pending<C, S>; DEPTH],
    /// Number of requests accepted so far.
    turns: u32,
}

impl<C: Copy, S: Default> Requests<C, S> {
    pub(super) fn new() -> Requests<C, S> {
        Requests { all: [(); DEPTH].map(|()| Pending::new(None, 0)), turns: 0 }
    }

    /// Drops all requests.
    #[inline(never)]
    pub(super) fn clear(&mut self) {
        for pending in &mut self.all {
            *pending = Pending::new(None, 0);
        }
    }

    /// Adds a request; returns it if there is no room.
    #[inline]
    pub(super) fn push(&mut self, work: Work<C>) -> Result<(), Work<C>> {
        let Some(free) = self.all.iter_mut().find(|pending| pending.work.is_none()) else { return Err(work) };
        self.turns = self.turns.wrapping_add(1);
        *free = Pending::new(Some(work), self.turns);
        Ok(())
    }

    /// Removes a request.
    #[inline]
    pub(super) fn take(&mut self, index: usize) -> Option<Work<C>> {
        self.all.get_mut(index)?.work.take()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.iter().all(|pending| pending.work.is_none())
    }

    /// The index of the oldest request for which `waits` is true.
    #[inline]
    pub fn oldest(&self, waits: impl Fn(&Pending<C, S>) -> bool) -> Option<usize> {
        let waiting =
            self.all.iter().enumerate().filter(|(_, pending)| pending.work.is_some() && waits(pending));
        let oldest = waiting.max_by_key(|(_, pending)| self.turns.wrapping_sub(pending.turn));
        oldest.map(|(index, _)| index)
    }

    /// The index of the first request for which `is` is true.
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

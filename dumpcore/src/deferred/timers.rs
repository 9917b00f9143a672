//! The private timers: a few entries in an array, searched from the front.

use spin::Mutex;

use super::host::{DeferError, Handler};
use crate::time::Nanoseconds;

/// Timers that can wait at once.
pub const TIMER_CAPACITY: usize = 32;

#[derive(Clone, Copy)]
struct Entry {
    handler: Handler,
    expires: Nanoseconds,
}

pub(super) struct Timers {
    /// Only taken with try_lock, and never while a handler runs.
    entries: Mutex<[Option<Entry>; TIMER_CAPACITY]>,
}

impl Timers {
    pub(super) const fn new() -> Timers {
        Timers { entries: Mutex::new([None; TIMER_CAPACITY]) }
    }

    pub(super) fn clear(&self) {
        if let Some(mut entries) = self.entries.try_lock() {
            *entries = [None; TIMER_CAPACITY];
        }
    }

    pub(super) fn set(&self, handler: Handler, expires: Nanoseconds) -> Result<(), DeferError> {
        let mut entries = self.entries.try_lock().ok_or(DeferError::Busy)?;
        if let Some(entry) = entries.iter_mut().flatten().find(|entry| entry.handler == handler) {
            entry.expires = expires;
            return Ok(());
        }
        let free = entries
            .iter_mut()
            .find(|slot| slot.is_none())
            .ok_or(DeferError::Full { capacity: TIMER_CAPACITY })?;
        *free = Some(Entry { handler, expires });
        Ok(())
    }

    pub(super) fn delete(&self, handler: Handler) -> Result<bool, DeferError> {
        let mut entries = self.entries.try_lock().ok_or(DeferError::Busy)?;
        let found =
            entries.iter_mut().find(|slot| slot.as_ref().is_some_and(|entry| entry.handler == handler));
        Ok(found.is_some_and(|slot| slot.take().is_some()))
    }

    /// Removes and returns the handler of the due entry that expires first.
    fn take_due(&self, now: Nanoseconds) -> Option<Handler> {
        let mut entries = self.entries.try_lock()?;
        let first = entries
            .iter_mut()
            .filter(|slot| slot.as_ref().is_some_and(|entry| entry.expires <= now))
            .min_by_key(|slot| slot.as_ref().map_or(Nanoseconds::MAX, |entry| entry.expires))?;
        first.take().map(|entry| entry.handler)
    }

    pub(super) fn run(&self, now: Nanoseconds) {
        // A handler may set itself again for the past, so one call runs only this many.
        for _ in 0..TIMER_CAPACITY {
            let Some(handler) = self.take_due(now) else { return };
            (handler.run)(handler.word);
        }
    }
}

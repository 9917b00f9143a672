//! The private tasklets: a ring, run in the order in which they were scheduled.

use spin::Mutex;

use super::host::{DeferError, Handler};

/// Tasklets that can be scheduled at once.
pub const TASKLET_CAPACITY: usize = 32;

struct Ring {
    entries: [Option<Handler>; TASKLET_CAPACITY],
    /// Index of the oldest entry.
    first: usize,
    count: usize,
}

pub(super) struct Tasklets {
    /// Only taken with try_lock, and never while a handler runs.
    ring: Mutex<Ring>,
}

impl Tasklets {
    pub(super) const fn new() -> Tasklets {
        Tasklets { ring: Mutex::new(Ring { entries: [None; TASKLET_CAPACITY], first: 0, count: 0 }) }
    }

    pub(super) fn clear(&self) {
        if let Some(mut ring) = self.ring.try_lock() {
            *ring = Ring { entries: [None; TASKLET_CAPACITY], first: 0, count: 0 };
        }
    }

    pub(super) fn schedule(&self, handler: Handler) -> Result<(), DeferError> {
        let mut ring = self.ring.try_lock().ok_or(DeferError::Busy)?;
        if ring.entries.iter().flatten().any(|entry| *entry == handler) {
            return Ok(());
        }
        if ring.count >= TASKLET_CAPACITY {
            return Err(DeferError::Full { capacity: TASKLET_CAPACITY });
        }
        let place = ring.first.wrapping_add(ring.count) % TASKLET_CAPACITY;
        if let Some(slot) = ring.entries.get_mut(place) {
            *slot = Some(handler);
            ring.count = ring.count.wrapping_add(1);
        }
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.ring.try_lock().map_or(0, |ring| ring.count)
    }

    fn take_first(&self) -> Option<Handler> {
        let mut ring = self.ring.try_lock()?;
        let first = ring.first;
        let handler = ring.entries.get_mut(first)?.take()?;
        ring.first = first.wrapping_add(1) % TASKLET_CAPACITY;
        ring.count = ring.count.saturating_sub(1);
        Some(handler)
    }

    pub(super) fn run(&self) {
        for _ in 0..self.waiting() {
            let Some(handler) = self.take_first() else { return };
            (handler.run)(handler.word);
        }
    }
}

//! A submission queue and its completion queue (4.1). A bit in each completion, the phase, marks new entries;
//! it flips with each pass through the queue.

use dumpcore::device::DeviceError;
use dumpcore::platform::Platform;

use super::command::{COMPLETION, COMPLETION_QUEUE, COMPLETION_STATUS, Finished, Submission, phase};
use crate::bus::barrier;
use crate::bus::shared::Shared;

/// Indexes and memory of a queue pair. The owner keeps track of the ids in flight.
pub(super) struct Pair {
    /// The queue id, the same for both.
    id: u16,
    /// Offsets in the shared memory.
    submission: usize,
    completion: usize,
    /// Entries in each; 0 before [`start`](Pair::start).
    size: u16,
    /// Index of the next command.
    tail: u16,
    /// Last value of the tail doorbell.
    rung_tail: u16,
    /// Index of the next completion, and its expected phase.
    head: u16,
    phase: u32,
    /// Commands in flight.
    in_flight: u16,
    /// Completions taken, but not yet released by the head doorbell.
    unreleased: u16,
}

impl Pair {
    /// Queues with this id at these offsets of the shared memory, both multiples of 4096.
    pub(super) fn new(id: u16, submission: usize, completion: usize) -> Pair {
        Pair {
            id,
            submission,
            completion,
            size: 0,
            tail: 0,
            rung_tail: 0,
            head: 0,
            phase: 1,
            in_flight: 0,
            unreleased: 0,
        }
    }

    /// Empties the queues and sets their size, at least 2. The memory must be zeroed, and not in use by the
    /// controller.
    pub(super) fn start(&mut self, size: u16) {
        *self = Pair { size, ..Pair::new(self.id, self.submission, self.completion) };
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// Entries.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Bus address of the submission queue.
    pub(super) fn submissions(&self, memory: &Shared) -> u64 {
        memory.bus_address(self.submission)
    }

    /// Bus address of the completion queue.
    pub(super) fn completions(&self, memory: &Shared) -> u64 {
        memory.bus_address(self.completion)
    }

    /// Whether there is room for another command. A full queue has one entry less than its size (4.1.2); and
    /// each command needs a completion entry, too.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.saturating_add(self.unreleased).saturating_add(1) < self.size
    }

    /// Queues a command, if there is room. Does not ring the doorbell.
    pub(super) fn push(&mut self, memory: &mut Shared, command: &Submission, platform: &dyn Platform) {
        if !self.has_room() {
            return;
        }
        let size = size_of::<Submission>();
        let at = usize::from(self.tail).saturating_mul(size).saturating_add(self.submission);
        memory.write(at, *command);
        memory.clean(at, size, platform);
        self.tail = self.after(self.tail);
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// The index after this one.
    fn after(&self, index: u16) -> u16 {
        let next = index.saturating_add(1);
        if next < self.size { next } else { 0 }
    }

    /// The value for the submission queue tail doorbell, if there are new commands.
    pub(super) fn next_tail(&mut self) -> Option<u16> {
        if self.rung_tail == self.tail {
            return None;
        }
        self.rung_tail = self.tail;
        // Commands in memory first, then the doorbell.
        barrier::full();
        Some(self.tail)
    }

    /// The value for the completion queue head doorbell: at once after many completions, otherwise when idle.
    pub(super) fn next_head(&mut self, idle: bool) -> Option<u16> {
        let many = self.unreleased.saturating_mul(2) >= self.size;
        if self.unreleased == 0 || !(idle || many) {
            return None;
        }
        self.unreleased = 0;
        Some(self.head)
    }

    /// The next completion. If there is none, this is a single read of memory.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if it is for another queue, has an impossible head, or nothing is in flight.
    #[inline]
    pub(super) fn pop(
        &mut self,
        memory: &Shared,
        platform: &dyn Platform,
    ) -> Result<Option<Finished>, DeviceError> {
        let at = usize::from(self.head).saturating_mul(COMPLETION).saturating_add(self.completion);
        memory.invalidate(at, COMPLETION, platform);
        let Some(last) = memory.read::<u32>(at.saturating_add(COMPLETION_STATUS)).map(u32::from_le) else {
            return Ok(None);
        };
        if phase(last) != self.phase || self.size == 0 {
            return Ok(None);
        }
        // The phase first, then the rest of the entry, and the data.
        barrier::observe();
        memory.invalidate(at, COMPLETION, platform);
        let queue = memory.read::<u32>(at.saturating_add(COMPLETION_QUEUE)).map_or(u32::MAX, u32::from_le);
        if queue >> 16 != self.id.into() {
            return Err(DeviceError::Protocol { what: "a completion's queue", value: (queue >> 16).into() });
        }
        if queue & 0xffff >= self.size.into() {
            return Err(DeviceError::Protocol { what: "its queue's head", value: (queue & 0xffff).into() });
        }
        let finished = Finished::read(last);
        let Some(left) = self.in_flight.checked_sub(1) else {
            return Err(DeviceError::Protocol { what: "a finished command's id", value: finished.id.into() });
        };
        self.in_flight = left;
        self.unreleased = self.unreleased.saturating_add(1);
        self.head = self.after(self.head);
        if self.head == 0 {
            self.phase ^= 1;
        }
        Ok(Some(finished))
    }
}

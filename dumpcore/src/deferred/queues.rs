//! The private queues: they forward to the kernel's own, and in crashdump mode hold and run their own
//! entries.

use core::sync::atomic::{AtomicBool, Ordering};

use super::host::{DeferError, Handler, HostQueues};
use super::tasklets::Tasklets;
use super::timers::Timers;
use crate::platform::Platform;
use crate::time::Nanoseconds;

/// The private queues. A dump has one of each; a driver keeps a reference.
pub struct Queues {
    crashed: AtomicBool,
    timers: Timers,
    tasklets: Tasklets,
}

impl Queues {
    /// Empty queues in normal operation.
    pub const fn new() -> Queues {
        Queues { crashed: AtomicBool::new(false), timers: Timers::new(), tasklets: Tasklets::new() }
    }

    /// Whether entries are kept here (crashdump mode) instead of being forwarded.
    pub fn crashdump_mode(&self) -> bool {
        self.crashed.load(Ordering::Acquire)
    }

    /// Enters or leaves crashdump mode. Empties the queues.
    pub(crate) fn set_crashdump_mode(&self, crashed: bool) {
        self.timers.clear();
        self.tasklets.clear();
        self.crashed.store(crashed, Ordering::Release);
    }

    /// The kernel's own queues in normal operation, `None` in crashdump mode.
    fn host<'a>(&self, platform: &'a dyn Platform) -> Result<Option<&'a dyn HostQueues>, DeferError> {
        if self.crashdump_mode() {
            return Ok(None);
        }
        platform.host_queues().map(Some).ok_or(DeferError::NoHostQueues)
    }

    /// Adds a timer: calls `handler` once at `expires` on the platform's clock. A waiting timer is moved, so
    /// this is `add_timer` and `mod_timer` in one.
    ///
    /// # Errors
    /// If the queue is full, busy, or missing.
    pub fn set_timer(
        &self,
        platform: &dyn Platform,
        handler: Handler,
        expires: Nanoseconds,
    ) -> Result<(), DeferError> {
        match self.host(platform)? {
            Some(host) => host.set_timer(handler, expires),
            None => self.timers.set(handler, expires),
        }
    }

    /// Deletes a timer; returns whether it was waiting.
    ///
    /// # Errors
    /// If the queue is busy or missing.
    pub fn delete_timer(&self, platform: &dyn Platform, handler: Handler) -> Result<bool, DeferError> {
        match self.host(platform)? {
            Some(host) => Ok(host.delete_timer(handler)),
            None => self.timers.delete(handler),
        }
    }

    /// Schedules a tasklet: calls `handler` soon, once, however often it is scheduled before that.
    ///
    /// # Errors
    /// If the queue is full, busy, or missing.
    pub fn schedule_tasklet(&self, platform: &dyn Platform, handler: Handler) -> Result<(), DeferError> {
        match self.host(platform)? {
            Some(host) => host.schedule_tasklet(handler),
            None => self.tasklets.schedule(handler),
        }
    }

    /// Runs what is due, in crashdump mode: each timer that has expired, and the tasklets that were scheduled
    /// before the call. Work that reschedules itself runs at the next call, so this always ends.
    pub(crate) fn run(&self, now: Nanoseconds) {
        if self.crashdump_mode() {
            self.timers.run(now);
            self.tasklets.run();
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self::new()
    }
}

//! Deferred work of a driver, and the kernel's own queues, which take it while the kernel is healthy.

use crate::time::Nanoseconds;

/// A function to call, with a word for it (often the address of the driver's state).
#[derive(Clone, Copy, Debug)]
pub struct Handler {
    /// The function.
    pub run: fn(usize),
    /// Its argument.
    pub word: usize,
}

impl PartialEq for Handler {
    fn eq(&self, other: &Handler) -> bool {
        core::ptr::fn_addr_eq(self.run, other.run) && self.word == other.word
    }
}

impl Eq for Handler {}

/// Why an entry was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeferError {
    /// All entries are in use.
    Full {
        /// The number of entries.
        capacity: usize,
    },
    /// In normal operation: the platform has no queues of its own.
    NoHostQueues,
    /// The queue was locked at the moment of the call: an interrupt or a nested crash hit in the middle of a
    /// change.
    Busy,
}

/// The kernel's own timers and tasklets, to which the private queues forward in normal operation.
pub trait HostQueues: Sync {
    /// Calls the handler once, at `expires` on the platform's clock. A waiting timer is moved.
    ///
    /// # Errors
    /// Why it cannot.
    fn set_timer(&self, handler: Handler, expires: Nanoseconds) -> Result<(), DeferError>;

    /// Removes a waiting handler; returns whether it was waiting.
    fn delete_timer(&self, handler: Handler) -> bool;

    /// Calls the handler soon, once, however often it is scheduled before that.
    ///
    /// # Errors
    /// Why it cannot.
    fn schedule_tasklet(&self, handler: Handler) -> Result<(), DeferError>;
}

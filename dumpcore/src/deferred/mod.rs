//! Private timer and tasklet queues, for a driver that keeps its own code through a dump.
//!
//! A driver that was written for a running kernel defers work: it arms timers, schedules tasklets, and waits
//! for them. In a crashed kernel these never run. As in the 2004 diskdump, such a driver calls these queues
//! instead. In normal operation they forward to the kernel's own ([`HostQueues`]). In crashdump mode they
//! hold only the entries added since the crash, and the [bounded wait](crate::wait) runs them.
//!
//! Both have a fixed capacity; full is an error. Entries are identified by their owner's [`Handler`]: a
//! function and one word, compared together. A handler may add, change and delete entries, including its own.

pub mod host;
mod queues;
mod tasklets;
mod timers;

pub use host::{DeferError, Handler, HostQueues};
pub use queues::Queues;
pub use tasklets::TASKLET_CAPACITY;
pub use timers::TIMER_CAPACITY;

//! The helper pool: CPUs that were stopped by the crash and help with the dump.
//!
//! Only the crashing CPU touches a device or decides anything. It leaves [jobs](job) in [slots], does jobs
//! itself when they are all in use, and collects what is done. A CPU that comes to help
//! ([`Dump::help`](crate::Dump::help)) runs on a stack of its own in the arena and takes jobs from the slots
//! until the dump is over. One that dies or stalls costs the unit that it had taken, which is done again, and
//! is not relied on any more.

mod cell;
pub mod coordinator;
pub mod job;
pub mod pool;
pub mod slots;
mod sync;

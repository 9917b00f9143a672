//! The helper pool: CPUs that were stopped by the crash and help with the dump.
//!
//! Only the crashing CPU accesses devices and makes decisions. It posts [jobs](job) in [slots], does jobs
//! itself when all slots are in use, and collects results. A helping CPU ([`Dump::help`](crate::Dump::help))
//! runs on its own stack in the arena and takes jobs from the slots until the dump is over. If it dies or
//! stalls, only the unit that it had taken is done again, and it gets no more work.

mod cell;
pub mod coordinator;
pub mod job;
pub mod pool;
pub mod slots;
mod sync;

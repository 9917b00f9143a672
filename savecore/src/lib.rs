//! savecore: from a dump partition to a core file.
//!
//! The way of a dump through this crate:
//!
//! 1. [`source`]: a partition, an image file or a simulation's memory gives blocks.
//! 2. [`partition`]: the label is read, the dumps are found.
//! 3. [`dump`]: a dump is walked over, checked, opened with an [`Identity`] if it is encrypted, and its pages are indexed.
//! 4. [`corefile`]: it becomes an ELF core, with segments from the crashed kernel's own page tables.
//! 5. [`backtrace`]: what each CPU was doing, by the kernel's ELF file.
//! 6. [`store`]: the file gets its name, and it and its name are made safe.
//! 7. [`partition`] again: the pattern is written over what was saved.
//!
//! [`arming`] is the other half of a Linux: its module is told where the next dump goes.
//!
//! What lies on a partition is untrusted: it can make reading fail, never panic, loop, or take memory without bound.

pub mod arming;
pub mod backtrace;
pub mod boot;
pub mod corefile;
pub mod dump;
mod error;
pub mod harvest;
mod host;
mod identity;
pub mod keys;
pub mod ownership;
mod parallel;
pub mod partition;
pub mod private;
pub mod report;
pub mod source;
pub mod store;
pub mod targets;
pub mod text;
mod writeback;

pub use error::Error;
pub use host::host_name;
pub use identity::Identity;
pub use parallel::processors;

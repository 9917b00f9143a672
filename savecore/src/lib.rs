//! savecore: from a dump partition to a core file.
//!
//! The way of a dump through this crate:
//!
//! 1. [`source`]: blocks from a partition, an image file or a simulation's memory.
//! 2. [`partition`]: reads the label and finds the dumps.
//! 3. [`dump`]: reads a dump, checks it, decrypts it with an [`Identity`] if necessary, and indexes its
//!    pages.
//! 4. [`corefile`]: writes it as an ELF core, with segments from the crashed kernel's own page tables.
//! 5. [`backtrace`]: backtraces of each CPU, from the kernel's ELF file.
//! 6. [`store`]: names the file, and makes file and name durable.
//! 7. [`partition`] again: lays the pattern over saved dumps.
//!
//! [`arming`] is the other half of a Linux: it tells the module where the next dump goes.
//!
//! The contents of a partition are untrusted: they can make reading fail, but never cause a panic, an endless
//! loop, or unbounded memory use.

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

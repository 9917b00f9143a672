//! The common part of all polled disks: checks and queues requests, issues them oldest first, polls with
//! deadlines, and hands them back; flushes the cache; stops using a device that fails until it is taken over
//! again.
//!
//! A driver implements [`PolledDisk`]: its controller's part. [`Polled`] turns it into a
//! [`DumpDevice`](dumpcore::DumpDevice). `drivers/tests/made_up` is a complete driver for a device that does
//! not exist.
//!
//! - [`polled`]: the trait, and the one implementation of `DumpDevice`.
//! - [`pending`]: a driver's requests.
//! - [`request`]: limits on requests, and the spans of their data.
//! - [`pio`]: data moved by the CPU.
//! - [`name`]: names of disks.

pub mod name;
pub mod pending;
pub mod pio;
pub mod polled;
pub mod request;

pub use name::Name;
pub use pending::{Called, Work};
pub use polled::{Pending, Polled, PolledDisk, Progress, Requests, Shutdown};
pub use request::Span;

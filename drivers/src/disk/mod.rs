//! The common part of all polled disks: checks and queues requests, issues them oldest first, polls with
//! deadlines, and hands them back; flushes the cache; stops using a device that fails until it is taken over
//! again.
//!
//! A driver is a [`PolledDisk`]: what its controller does. [`Polled`] makes a
//! [`DumpDevice`](dumpcore::DumpDevice) of it. `drivers/tests/battery/made_up` is a whole one for a device that does not exist.
//!
//! - [`driver`]: what all drivers look like from outside: find, open.
//! - [`polled`]: the trait, and the one implementation of `DumpDevice`.
//! - [`pending`]: a driver's requests.
//! - [`request`]: limits on requests, and the spans of their data.
//! - [`pio`]: data moved by the CPU.
//! - [`name`]: names of disks.

pub mod driver;
pub mod name;
pub mod pending;
#[cfg(feature = "ata")]
pub mod pio;
pub mod polled;
pub mod request;

pub use driver::{Driver, Machine, Place, Ram, Site, Unit};
pub use name::Name;
pub use pending::{Called, Work};
pub use polled::{Pending, Polled, PolledDisk, Progress, Requests, Shutdown};
pub use request::Span;

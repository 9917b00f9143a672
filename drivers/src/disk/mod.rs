//! What every polled disk does, once: requests are checked and queued, given to the device oldest first, polled with
//! deadlines, and handed back; the cache is flushed; a device that fails is used no more until it is taken over again.
//!
//! A driver is a [`PolledDisk`]: what its controller does. [`Polled`] makes a
//! [`DumpDevice`](dumpcore::DumpDevice) of it. `drivers/tests/battery/made_up` is a whole one for a device that does not exist.
//!
//! - [`driver`]: what all drivers look like from outside: find, open.
//! - [`polled`]: the trait, and the one implementation of `DumpDevice`.
//! - [`pending`]: the requests that a driver has.
//! - [`request`]: what a request may be, and where its data is.
//! - [`pio`]: data that the CPU moves.
//! - [`name`]: what a disk is called.

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

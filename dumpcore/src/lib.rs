//! diskdump's core: from a panic to a dump on disk.
//!
//! The story, in order, and where each part is told:
//!
//! 1. While the kernel is healthy, [`Dump::arm`] takes everything over that a dump will need and seals it
//!    ([`arm`], [`arena`], [`integrity`]); [`locate`] finds the partition in the disk's [`table`].
//! 2. The kernel crashes and calls [`Dump::crash`] ([`crash`]): crashdump mode begins, the other CPUs are frozen (`steps`).
//! 3. The seal and the dump path's own code are checked ([`integrity`]).
//! 4. The target is taken over ([`device`]), its label and pattern are checked ([`partition`]).
//! 5. Memory is streamed out ([`memory`], [`stream`], [`format`](mod@format)), waiting only in [`wait`].
//! 6. The headers are closed, the device is shut down.
//! 7. The outcome goes to the console ([`record`]), and the reset policy is carried out ([`platform`]).
//!
//! Nothing from step 2 on allocates, waits without a deadline, or panics.

#![cfg_attr(not(any(test, feature = "test-utils")), no_std)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::arithmetic_side_effects,
        clippy::string_slice
    )
)]

pub mod arena;
pub mod arm;
mod armed;
pub mod console;
pub mod crash;
pub mod crew;
pub mod deferred;
pub mod device;
pub mod dma;
pub mod format;
pub mod integrity;
pub mod locate;
pub mod memory;
pub mod partition;
pub mod platform;
pub mod record;
// A test's own code may panic.
#[cfg(any(test, feature = "test-utils"))]
#[allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::arithmetic_side_effects)]
pub mod sim;
pub mod stack;
mod steps;
pub mod stream;
pub mod table;
pub mod wait;

pub use arena::Arena;
pub use arm::{ArmError, ArmReport, Config, Dump, Ownership, Target};
pub use crash::{Crash, Outcome, crashdump_mode};
pub use device::DumpDevice;
pub use format::chunk::Encoding;
pub use memory::class::{Level, PageClass};
pub use partition::lane::MAX_TARGETS;
pub use partition::verify::Verify;
pub use platform::{Platform, Registers, ResetPolicy};

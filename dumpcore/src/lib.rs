//! diskdump's core: from a panic to a dump on disk.
//!
//! The story, in order, and where to find each part:
//!
//! 1. While the kernel is healthy, [`Dump::arm`] acquires everything that a dump will need and protects it
//!    with a checksum ([`arm`], [`arena`], [`integrity`]); [`locate`] finds the partition in the disk's
//!    [`table`].
//! 2. The kernel crashes and calls [`Dump::crash`] (`dump`): crashdump mode begins, and the armed state is
//!    checked (`crash`).
//! 3. The other CPUs are stopped, and the dump path's own code is checked (`crash::steps`).
//! 4. The target is taken over ([`device`]), its label and pattern are checked ([`partition`]).
//! 5. Memory is streamed out ([`memory`], [`stream`], [`format`](mod@format)), waiting only in [`wait`].
//! 6. The headers are closed, the device is shut down (`crash::close`).
//! 7. The outcome goes to the [`console`], and the reset policy is carried out.
//!
//! From step 2 on, nothing allocates, waits without a deadline, or panics.

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
mod code;
pub mod console;
mod crash;
pub mod deferred;
pub mod device;
pub mod dma;
mod dump;
pub mod format;
pub mod helpers;
pub mod integrity;
pub mod limits;
pub mod locate;
pub mod memory;
pub mod outcome;
pub mod partition;
pub mod platform;
// A test's own code may panic.
#[cfg(any(test, feature = "test-utils"))]
#[allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::arithmetic_side_effects)]
pub mod sim;
pub mod stack;
pub mod stream;
pub mod table;
pub mod text;
pub mod time;
mod twice;
mod vitals;
pub mod wait;

pub use arena::Arena;
pub use arm::{ArmError, ArmReport, Config, Ownership, Target};
pub use crash::crashdump_mode;
pub use device::DumpDevice;
pub use dump::Dump;
pub use format::chunk::Encoding;
pub use limits::MAX_TARGETS;
pub use memory::class::{Level, PageClass};
pub use outcome::{Crash, Outcome, Refusal};
pub use partition::verify::Verify;
pub use platform::{Platform, Registers, ResetPolicy};

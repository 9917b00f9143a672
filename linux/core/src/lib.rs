//! The parts of the module that need no running kernel, so that they can be tested on a host.

#![cfg_attr(not(test), no_std)]
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

pub mod after;
pub mod apic;
pub mod classes;
pub mod config;
pub mod layout;
pub mod mce;
pub mod notes;
pub mod oops;
pub mod ram;
pub mod vmcoreinfo;

pub use classes::{Classes, KernelMemory};
pub use layout::{Layout, Missing};
pub use vmcoreinfo::Vmcoreinfo;

//! The QEMU matrix: real machines that crash, and what has to be true afterwards.
//!
//! A [scenario](scenarios) makes a [disk image](image), boots the test kernel in a [machine], lets it crash, and
//! looks at what is left: the serial log, the image's [fingerprint](image::Disk::fingerprint), what
//! [savecore] says, what [gdb](debugger) shows, and whether the [core equals the machine's memory](compare).
//!
//! To add an architecture, a device or a scenario is to add a row: [`bed::ARCHITECTURES`],
//! [`bed::DEVICES`], [`scenarios::ALL`].
//!
//! A [stock Linux](linux) is the other guest: the yardstick of what our drivers reach.

pub mod bed;
pub mod compare;
pub mod debugger;
pub mod image;
pub mod linux;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod savecore;
pub mod scenarios;
pub mod serial;

/// The integration that the book shows, compiled so that it stays true. It is here because the crates that it uses are
/// published, and the book is not part of them.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/guide/your-kernel.md")]
pub struct Guide;

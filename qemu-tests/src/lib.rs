//! The QEMU matrix: virtual machines that crash, and what must be true afterwards.
//!
//! A [scenario](scenarios) creates a [disk image](image), boots the test kernel in a [machine], lets it
//! crash, and examines the results: the serial log, the image's [fingerprint](image::Disk::fingerprint), the
//! output of [savecore] and of [gdb](debugger), and whether the [core equals the machine's memory](compare).
//!
//! Adding an architecture, a device or a scenario means adding a row: [`bed::ARCHITECTURES`],
//! [`bed::DEVICES`], [`scenarios::ALL`].
//!
//! A [stock Linux](linux) is the other guest: the benchmark for our drivers.

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

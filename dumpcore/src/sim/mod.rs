//! A simulated machine on which a dump runs without hardware: memory, clock, console, CPUs that help or fail, and disks
//! that fail, tear and lie as they are told.
//!
//! It is made for properties: whatever memory, configuration and fault, what reaches the disks must be right.

mod cpus;
mod disk;
mod machine;
mod memory;
mod numbers;

pub use cpus::Helper;
pub use disk::{Disk, DiskFault, FOREIGN, SimDevice};
pub use machine::{Machine, MachineFault};
pub use numbers::Numbers;

/// How many cases a property is tried with that is tried with `usual` otherwise: one in two hundred under Miri, which takes a
/// thousand times as long for each.
pub const fn cases(usual: u32) -> u32 {
    if cfg!(miri) { usual.div_ceil(200) } else { usual }
}

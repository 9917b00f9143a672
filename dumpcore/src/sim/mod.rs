//! A simulated machine on which a dump runs without hardware: memory, clock, console, CPUs that help or fail,
//! and disks that fail, tear and lie on request.
//!
//! It is made for property tests: for all memory, configurations and faults, the data on the disks must be
//! right.

mod cpus;
mod disk;
mod machine;
mod memory;
mod numbers;

pub use cpus::Helper;
pub use disk::{Disk, DiskFault, FOREIGN, SimDevice};
pub use machine::{Machine, MachineFault};
pub use numbers::Numbers;

/// Number of cases for a property test that normally runs `usual` cases: a two-hundredth under Miri, which is
/// a thousand times slower.
pub const fn cases(usual: u32) -> u32 {
    if cfg!(miri) { usual.div_ceil(200) } else { usual }
}

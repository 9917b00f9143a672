//! From memory to blocks: select, encode, seal, queue.
//!
//! [`notes`] and [`pages`] select and encode into chunks; [`writer`] seals a chunk and queues it.

pub mod lz4;
pub mod notes;
pub mod pages;
pub mod writer;

use crate::device::DeviceError;
use crate::format::header::Incomplete;
use crate::partition::place::Unfit;

/// Why the stream ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The partition is full.
    Full,
    /// The time budget is spent but for what closing takes.
    Budget,
    /// A device failed.
    Device {
        /// Which lane it is in.
        lane: usize,
        /// How.
        error: DeviceError,
    },
    /// A block ahead does not hold its pattern.
    Pattern {
        /// Which lane it is in.
        lane: usize,
        /// Which block.
        unfit: Unfit,
    },
}

impl Ended {
    /// How the header says it.
    pub fn reason(&self) -> Incomplete {
        match self {
            Ended::Full => Incomplete::Full,
            Ended::Budget => Incomplete::Budget,
            Ended::Device { .. } => Incomplete::Device,
            Ended::Pattern { .. } => Incomplete::Pattern,
        }
    }
}

impl crate::console::Describe for Ended {
    fn describe(&self, line: &mut crate::console::Line) {
        match self {
            Ended::Full => {
                line.text("the partition is full");
            }
            Ended::Budget => {
                line.text("the time budget is spent");
            }
            Ended::Device { error, .. } => error.describe(line),
            Ended::Pattern { unfit, .. } => unfit.describe(line),
        }
    }
}

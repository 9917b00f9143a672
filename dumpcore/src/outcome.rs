//! The input and the result of a dump: the crash, the outcome, and why nothing, or not everything, was
//! written.

use crate::device::DeviceError;
use crate::format::header::{Incomplete, Trigger};
use crate::integrity::Harm;
use crate::partition::unfit::Unfit;
use crate::platform::Registers;
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::Wait;

/// What the kernel knows about its crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash<'a> {
    /// Why the kernel called.
    pub trigger: Trigger,
    /// The panic message.
    pub message: &'a str,
    /// The registers of the calling CPU, as they were at the crash.
    pub registers: &'a Registers,
}

/// How a dump ended. On most kernels it is never seen, because the reset policy comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is armed, or an earlier dump found the armed state damaged.
    NotArmed,
    /// Another CPU is dumping: the caller should wait for its NMI and for the end of the dump.
    OtherCpu {
        /// The other CPU's number.
        cpu: u32,
        /// Whether that is a [snapshot](crate::Dump::snapshot), after which the kernel continues. The
        /// caller's crash is then not dumped yet: it has to call [`crash`](crate::Dump::crash) again, until
        /// the outcome is a different one.
        resumes: bool,
    },
    /// The dump itself crashed on this CPU. The part already written is a dump in progress.
    Nested,
    /// Nothing was written, not even a block.
    Refused(Refusal),
    /// A dump was begun, ended early, and was closed.
    Incomplete(Incomplete),
    /// A dump could not be closed, or perhaps not even be begun: it stays in progress, readable as far as it
    /// got.
    Unclosed(DeviceError),
    /// The complete dump is on the medium.
    Complete,
}

/// Why nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The armed state has changed since it was armed.
    Integrity {
        /// Its checksum when armed.
        armed: u32,
        /// Its checksum now.
        now: u32,
    },
    /// The dump path's own code or read-only data has changed.
    Code {
        /// Its checksum when armed.
        armed: u32,
        /// Its checksum now.
        now: u32,
    },
    /// The device cannot be used.
    Unusable(DeviceError),
    /// The device reports itself as risky, and risky devices are not allowed.
    Risky(DeviceError),
    /// The device could not be taken over.
    Takeover(DeviceError),
    /// The partition may not be written.
    Unfit(Unfit),
    /// The pointer to the armed state has changed.
    Pointer,
    /// A stack in the arena has overflowed.
    Stack,
}

impl From<Harm> for Refusal {
    fn from(harm: Harm) -> Refusal {
        match harm {
            Harm::Stack => Refusal::Stack,
            Harm::Integrity { armed, now } => Refusal::Integrity { armed, now },
        }
    }
}

impl Describe for Refusal {
    fn describe(&self, line: &mut Line) {
        match *self {
            Refusal::Integrity { armed, now } => Harm::Integrity { armed, now }.describe(line),
            Refusal::Stack => Harm::Stack.describe(line),
            Refusal::Code { armed, now } => {
                line.text("the dump's own code was changed: its checksum was ").hex(armed.into());
                line.text(", is ").hex(now.into());
            }
            Refusal::Unusable(error) => {
                line.text("the disk cannot be used: ");
                error.describe(line);
            }
            Refusal::Risky(error) => {
                line.text("the disk is risky, which is not allowed: ");
                error.describe(line);
            }
            Refusal::Takeover(error) => {
                line.text("the disk could not be taken over: ");
                error.describe(line);
            }
            Refusal::Unfit(unfit) => unfit.describe(line),
            Refusal::Pointer => {
                line.text("the pointer to the armed state was changed");
            }
        }
    }
}

display_by_describe!(Refusal);

/// Why the stream ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The partition is full.
    Full,
    /// The time budget is used up, except for the time that closing takes.
    Budget,
    /// A device failed.
    Device {
        /// The member with the device.
        member: usize,
        /// The error.
        error: DeviceError,
    },
    /// A block ahead of the writes does not hold its pattern.
    Pattern {
        /// The member with the block.
        member: usize,
        /// The block's number, relative to the partition.
        block: u64,
    },
}

impl Ended {
    /// A member's device failed. A wait that was cut short by the end of the budget is not held against the
    /// device.
    pub fn device(member: usize, error: DeviceError, wait: &Wait<'_>) -> Ended {
        match error {
            DeviceError::TimedOut { .. } if wait.expired() => Ended::Budget,
            error => Ended::Device { member, error },
        }
    }

    /// The member that failed, if one did.
    pub fn member(&self) -> Option<usize> {
        match *self {
            Ended::Full | Ended::Budget => None,
            Ended::Device { member, .. } | Ended::Pattern { member, .. } => Some(member),
        }
    }

    /// The reason, as stored in the header.
    pub fn reason(&self) -> Incomplete {
        match self {
            Ended::Full => Incomplete::Full,
            Ended::Budget => Incomplete::Budget,
            Ended::Device { .. } => Incomplete::Device,
            Ended::Pattern { .. } => Incomplete::Pattern,
        }
    }
}

impl Describe for Ended {
    fn describe(&self, line: &mut Line) {
        match self {
            Ended::Full => {
                line.text("the partition is full");
            }
            Ended::Budget => {
                line.text("the time budget is spent");
            }
            Ended::Device { error, .. } => error.describe(line),
            Ended::Pattern { block, .. } => Unfit::Foreign { block: *block }.describe(line),
        }
    }
}

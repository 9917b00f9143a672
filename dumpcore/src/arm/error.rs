//! Why `arm()` refuses.

use crate::arena::OutOfArena;
use crate::device::DeviceError;
use crate::format::label::MIN_BLOCKS;
use crate::limits::MAX_TARGETS;
use crate::partition::unfit::Unfit;
use crate::text::{Describe, Line, display_by_describe};

/// Why `arm()` refused. Nothing is armed in that case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArmError {
    /// The dump is already armed, or is running.
    AlreadyArmed,
    /// The arena is too small.
    Arena(OutOfArena),
    /// The arena is not made of whole pages, so the dump could not leave it out.
    ArenaMisaligned {
        /// Its physical address.
        physical: u64,
    },
    /// No target was given.
    NoTargets,
    /// More than [`MAX_TARGETS`] targets were given.
    TooManyTargets,
    /// Striping was requested, and two of the targets are on one [controller](crate::DumpDevice::controller).
    OneController {
        /// The second one's place in the list, from 0.
        target: usize,
    },
    /// [`Ownership::Shared`](super::Ownership::Shared) without a uuid: the right partition could not be told
    /// from another one.
    UuidMissing {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps to this target must be encrypted, and the platform has no [entropy](crate::Platform::entropy).
    NoEntropy {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps must be encrypted to a public key with which no shared secret can be computed.
    BadRecipient {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps to this target would be unencrypted, but an earlier target demands encryption and
    /// [`Config::clear_after_encrypted`](super::Config::clear_after_encrypted) is not set.
    InTheClear {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// The level selects kernel pages only, and the platform classifies no page as the kernel's.
    NoClasses,
    /// The platform reported no RAM.
    NoMemory,
    /// The partition is smaller than the smallest dump.
    TooSmall {
        /// The target's place in the list, from 0.
        target: usize,
        /// Its size in blocks.
        blocks: u64,
    },
    /// The budget or the request timeout is 0.
    NoTime,
    /// A device cannot be used.
    Device {
        /// The target's place in the list, from 0.
        target: usize,
        /// Why.
        error: DeviceError,
    },
    /// A partition may not be written.
    Unfit {
        /// The target's place in the list, from 0.
        target: usize,
        /// Why.
        unfit: Unfit,
    },
}

impl From<OutOfArena> for ArmError {
    fn from(error: OutOfArena) -> ArmError {
        ArmError::Arena(error)
    }
}

impl Describe for ArmError {
    fn describe(&self, line: &mut Line) {
        match *self {
            ArmError::AlreadyArmed => {
                line.text("a dump is armed already");
            }
            ArmError::Arena(OutOfArena { bytes }) => {
                line.text("the arena has no room for ")
                    .decimal(bytes as u64)
                    .text(" more bytes; make it larger");
            }
            ArmError::ArenaMisaligned { physical } => {
                line.text("the arena at ").hex(physical).text(" is not made of whole pages");
            }
            ArmError::NoTargets => {
                line.text("no target was given");
            }
            ArmError::TooManyTargets => {
                line.text("more than ").decimal(MAX_TARGETS as u64).text(" targets were given");
            }
            ArmError::OneController { target } => {
                named(line, target).text(
                    "it is on the controller of another target, which are reset together; do not stripe over them",
                );
            }
            ArmError::UuidMissing { target } => {
                named(line, target).text("a disk that another driver uses needs its partition's uuid");
            }
            ArmError::NoEntropy { target } => {
                named(line, target)
                    .text("the label demands encryption, and the platform has no entropy to make a key");
            }
            ArmError::BadRecipient { target } => {
                named(line, target)
                    .text("the label's public key is not one; format again with a key of keygen");
            }
            ArmError::InTheClear { target } => {
                named(line, target).text("its dumps would be in the clear, and a target before it demands encryption; format it with \
                    --recipient, name it first, or allow clear_after_encrypted");
            }
            ArmError::NoClasses => {
                line.text(
                    "the level says kernel only, and the platform does not say which pages are the kernel's",
                );
            }
            ArmError::NoMemory => {
                line.text("the platform named no RAM");
            }
            ArmError::TooSmall { target, blocks } => {
                named(line, target)
                    .text("a partition of ")
                    .decimal(blocks)
                    .text(" blocks is too small, ")
                    .decimal(MIN_BLOCKS);
                line.text(" are the least");
            }
            ArmError::NoTime => {
                line.text("budget and request timeout must not be 0");
            }
            ArmError::Device { target, error } => error.describe(named(line, target)),
            ArmError::Unfit { target, unfit } => unfit.describe(named(line, target)),
        }
    }
}

display_by_describe!(ArmError);

/// Names the target, except for the first: usually it is the only one.
fn named(line: &mut Line, target: usize) -> &mut Line {
    if target > 0 {
        line.text("target ").decimal(target as u64).text(": ");
    }
    line
}

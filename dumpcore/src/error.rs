//! One error for all that can go wrong until a dump is armed.

use crate::arena::OutOfArena;
use crate::arm::ArmError;
use crate::device::DeviceError;
use crate::locate::NotFound;
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::TimedOut;

/// What can go wrong while a kernel finds its disk, opens it, and arms. Each error on that way becomes one by `?`.
///
/// ```
/// use dumpcore::device::DeviceError;
/// use dumpcore::{Arena, Error};
///
/// fn place<'a>(arena: &mut Arena<'a>, opened: Result<u32, DeviceError>) -> Result<&'a mut u32, Error> {
///     Ok(arena.place(opened?)?)
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no such disk. No function of this crate gives it: it is for the kernel's own search.
    NoDisk,
    /// The arena is too small.
    Arena(OutOfArena),
    /// A device cannot be used.
    Device(DeviceError),
    /// The partition was not found.
    NotFound(NotFound),
    /// The dump could not be armed.
    Arm(ArmError),
}

impl Describe for Error {
    fn describe(&self, line: &mut Line) {
        match self {
            Error::NoDisk => {
                line.text("there is no such disk");
            }
            Error::Arena(error) => error.describe(line),
            Error::Device(error) => error.describe(line),
            Error::NotFound(error) => error.describe(line),
            Error::Arm(error) => error.describe(line),
        }
    }
}

display_by_describe!(Error => |error| match error {
    Error::NoDisk => None,
    Error::Arena(error) => Some(error),
    Error::Device(error) => Some(error),
    Error::NotFound(error) => Some(error),
    Error::Arm(error) => Some(error),
});

impl From<OutOfArena> for Error {
    fn from(error: OutOfArena) -> Error {
        Error::Arena(error)
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Error {
        Error::Device(error)
    }
}

impl From<TimedOut> for Error {
    fn from(error: TimedOut) -> Error {
        Error::Device(error.into())
    }
}

impl From<NotFound> for Error {
    fn from(error: NotFound) -> Error {
        Error::NotFound(error)
    }
}

impl From<ArmError> for Error {
    fn from(error: ArmError) -> Error {
        Error::Arm(error)
    }
}

//! What can go wrong with a device.

use crate::arena::OutOfArena;
use crate::integrity::Harm;
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::TimedOut;

/// What can go wrong with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceError {
    /// Registers read as all ones: the device is no longer there.
    Gone,
    /// Something did not happen within its deadline.
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long, in nanoseconds.
        after: u64,
    },
    /// The device reported failure.
    Status {
        /// What was being done.
        what: &'static str,
        /// The device's own code.
        code: u32,
    },
    /// The device answered something that its specification does not allow.
    Protocol {
        /// Which field or register.
        what: &'static str,
        /// What it held.
        value: u64,
    },
    /// The device is of a kind, or in a mode, that this driver does not serve.
    Unsupported {
        /// What it would have to be.
        what: &'static str,
        /// What it said.
        value: u64,
    },
    /// A request reaches beyond the end of the device.
    OutOfRange {
        /// The first block after the request.
        end: u64,
        /// The device's size in blocks.
        blocks: u64,
    },
    /// A buffer is empty, not a whole number of blocks, or larger than the device takes.
    BadBuffer {
        /// Its length in bytes.
        length: usize,
    },
    /// No room for another request; poll first.
    QueueFull,
    /// The device was not quiesced, or has failed for good.
    NotReady,
    /// The device was not asked: the dump itself is harmed, and writes nothing any more.
    Harmed(Harm),
    /// The arena is too small for the driver.
    OutOfArena {
        /// Bytes that were asked for.
        bytes: usize,
    },
}

impl Describe for DeviceError {
    fn describe(&self, line: &mut Line) {
        match *self {
            DeviceError::Gone => line.text("the device is gone (all ones)"),
            DeviceError::TimedOut { what, after } => {
                TimedOut { what, after }.describe(line);
                line
            }
            DeviceError::Status { what, code } => {
                line.text("the device failed to ").text(what).text(", its code is ").decimal(code.into())
            }
            DeviceError::Protocol { what, value } => {
                line.text("the device gave ").text(what).text(" the impossible value ").hex(value)
            }
            DeviceError::Unsupported { what, value } => {
                line.text("unsupported: needs ").text(what).text(", the device has ").hex(value)
            }
            DeviceError::OutOfRange { end, blocks } => line
                .text("a request reaches block ")
                .decimal(end)
                .text(" of a device with ")
                .decimal(blocks)
                .text(" blocks"),
            DeviceError::BadBuffer { length } => {
                line.text("a buffer of ").decimal(length as u64).text(" bytes is not what the device takes")
            }
            DeviceError::QueueFull => line.text("the queue is full"),
            DeviceError::NotReady => line.text("the device was not made ready"),
            DeviceError::Harmed(harm) => {
                harm.describe(line);
                line
            }
            DeviceError::OutOfArena { bytes } => {
                OutOfArena { bytes }.describe(line);
                line
            }
        };
    }
}

display_by_describe!(DeviceError => |error| match error {
    DeviceError::Harmed(harm) => Some(harm),
    _ => None,
});

impl From<TimedOut> for DeviceError {
    fn from(timed_out: TimedOut) -> DeviceError {
        DeviceError::TimedOut { what: timed_out.what, after: timed_out.after }
    }
}

impl From<OutOfArena> for DeviceError {
    fn from(error: OutOfArena) -> Self {
        DeviceError::OutOfArena { bytes: error.bytes }
    }
}

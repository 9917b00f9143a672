//! What can go wrong with a device.

use crate::arena::OutOfArena;
use crate::integrity::Harm;
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::TimedOut;

/// What can go wrong with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// Registers read as all ones: the device is gone.
    Gone,
    /// An operation missed its deadline.
    TimedOut {
        /// The operation.
        what: &'static str,
        /// The time waited, in nanoseconds.
        after: u64,
    },
    /// The device reported failure.
    Status {
        /// The operation.
        what: &'static str,
        /// The device's own error code.
        code: u32,
    },
    /// The device returned a value that its specification does not allow.
    Protocol {
        /// The field or register.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The device is of a kind, or in a mode, that this driver does not support.
    Unsupported {
        /// What the driver requires.
        what: &'static str,
        /// What the device reported.
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
    /// The request was not sent: the dump's own state is damaged, and it writes nothing more.
    Harmed(Harm),
    /// The arena is too small for the driver.
    OutOfArena {
        /// Number of bytes requested.
        bytes: usize,
    },
}

impl Describe for DeviceError {
    fn describe(&self, line: &mut Line) {
        match *self {
            DeviceError::Gone => line.text("the device is gone (all ones)"),
            DeviceError::TimedOut { what, after } => {
                line.text(what).text(" did not happen within ").decimal(after / 1_000_000).text(" ms")
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
                line.text("the arena has no room for ").decimal(bytes as u64).text(" more bytes")
            }
        };
    }
}

display_by_describe!(DeviceError);

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

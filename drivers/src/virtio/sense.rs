//! How a SCSI command can fail, and how to react (SPC-4, SAM-5, virtio 1.2, 5.6.6.1).

use dumpcore::device::DeviceError;

/// Sense data of a failed command (SPC-4, 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sense {
    /// Sense key, 0 to 15; `None` if the format is unknown.
    key: Option<u8>,
    /// Additional sense code, and its qualifier.
    code: (u8, u8),
    /// Deferred: it concerns an earlier command, and this one was not executed.
    deferred: bool,
}

mod key {
    pub(super) const RECOVERED: u8 = 0x1;
    pub(super) const NOT_READY: u8 = 0x2;
    pub(super) const ILLEGAL_REQUEST: u8 = 0x5;
    pub(super) const ATTENTION: u8 = 0x6;
    pub(super) const ABORTED: u8 = 0xb;
}

impl Sense {
    /// Decodes `length` bytes of sense data, in fixed or in descriptor format.
    pub(super) fn decode(length: usize, byte: impl Fn(usize) -> u8) -> Sense {
        let at = |offset: usize| if offset < length { byte(offset) } else { 0 };
        let form = at(0) & 0x7f;
        let deferred = form & 1 != 0;
        match form {
            // Fixed format (4.5.3).
            0x70 | 0x71 => Sense { key: Some(at(2) & 0xf), code: (at(12), at(13)), deferred },
            // Descriptor format (4.5.2).
            0x72 | 0x73 => Sense { key: Some(at(1) & 0xf), code: (at(2), at(3)), deferred },
            _ => Sense { key: None, code: (0, 0), deferred: false },
        }
    }

    /// As a device error code: key, additional code and qualifier, eight bits each.
    fn bits(self) -> u32 {
        let (code, qualifier) = self.code;
        u32::from(self.key.unwrap_or(0)) << 16 | u32::from(code) << 8 | u32::from(qualifier)
    }

    /// Whether a device error code is a unit attention.
    pub(super) fn is_attention(bits: u32) -> bool {
        bits >> 16 == u32::from(key::ATTENTION)
    }
}

/// The reaction to a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Treat as success.
    Accept,
    /// The command failed.
    Fail,
    /// It was not executed because of an event in between: retry.
    Again,
    /// Retry later.
    Later,
}

/// How a command went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No failure.
    None,
    /// Sense data from the disk.
    Sense(Sense),
    /// A SCSI status other than good and check condition.
    Status(u8),
    /// A virtio response other than "ok".
    Response(u8),
}

/// The start of an error message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Words {
    Read,
    Write,
    Flush,
    Answer,
}

/// All reasons, in words, preceded by the operation.
macro_rules! reasons {
    ($doing:literal) => {
        Reasons {
            keys: [
                concat!($doing, ": no sense"),
                concat!($doing, ": recovered error"),
                concat!($doing, ": not ready"),
                concat!($doing, ": medium error"),
                concat!($doing, ": hardware error"),
                concat!($doing, ": illegal request"),
                concat!($doing, ": unit attention"),
                concat!($doing, ": data protect"),
                concat!($doing, ": blank check"),
                concat!($doing, ": vendor specific"),
                concat!($doing, ": copy aborted"),
                concat!($doing, ": aborted command"),
                concat!($doing, ": reserved sense key"),
                concat!($doing, ": volume overflow"),
                concat!($doing, ": miscompare"),
                concat!($doing, ": completed"),
            ],
            // From 1 on.
            responses: [
                concat!($doing, ": overrun"),
                concat!($doing, ": aborted"),
                concat!($doing, ": bad target"),
                concat!($doing, ": reset"),
                concat!($doing, ": busy"),
                concat!($doing, ": transport failure"),
                concat!($doing, ": target failure"),
                concat!($doing, ": nexus failure"),
                concat!($doing, ": failure"),
            ],
            unknown: concat!($doing, ": no sense data"),
            busy: concat!($doing, ": busy"),
            full: concat!($doing, ": task set full"),
            reserved: concat!($doing, ": reservation conflict"),
            contingent: concat!($doing, ": ACA active"),
            aborted: concat!($doing, ": task aborted"),
        }
    };
}

struct Reasons {
    keys: [&'static str; 16],
    responses: [&'static str; 9],
    unknown: &'static str,
    busy: &'static str,
    full: &'static str,
    reserved: &'static str,
    contingent: &'static str,
    aborted: &'static str,
}

static READ: Reasons = reasons!("read");
static WRITE: Reasons = reasons!("write");
static FLUSH: Reasons = reasons!("flush");
static ANSWER: Reasons = reasons!("answer");

/// SCSI status codes (SAM-5, 5.3.1).
mod status {
    pub(super) const BUSY: u8 = 0x08;
    pub(super) const RESERVATION_CONFLICT: u8 = 0x18;
    pub(super) const TASK_SET_FULL: u8 = 0x28;
    pub(super) const ACA_ACTIVE: u8 = 0x30;
    pub(super) const TASK_ABORTED: u8 = 0x40;
}

/// Responses (virtio 1.2, 5.6.6.1).
mod response {
    pub(super) const ABORTED: u8 = 2;
    pub(super) const RESET: u8 = 4;
    pub(super) const BUSY: u8 = 5;
}

impl Failure {
    /// Status: success.
    pub(super) const GOOD: u8 = 0x00;
    /// Status: see the sense data.
    pub(super) const CHECK_CONDITION: u8 = 0x02;

    /// The reaction to it.
    pub(super) fn action(self) -> Action {
        match self {
            Failure::None => Action::Accept,
            Failure::Sense(Sense { key: Some(key::RECOVERED), deferred: true, .. }) => Action::Again,
            // Earlier data from the cache is not on the medium.
            Failure::Sense(Sense { deferred: true, .. }) => Action::Fail,
            Failure::Sense(Sense { key: Some(key::RECOVERED), .. }) => Action::Accept,
            Failure::Sense(Sense { key: Some(key::ATTENTION | key::ABORTED), .. }) => Action::Again,
            // In process of becoming ready.
            Failure::Sense(Sense { key: Some(key::NOT_READY), code: (0x04, 0x01), .. }) => Action::Later,
            Failure::Status(status::BUSY | status::TASK_SET_FULL) => Action::Later,
            Failure::Status(status::TASK_ABORTED) => Action::Again,
            Failure::Response(response::BUSY) => Action::Later,
            Failure::Response(response::ABORTED | response::RESET) => Action::Again,
            Failure::Sense(_) | Failure::Status(_) | Failure::Response(_) => Action::Fail,
        }
    }

    /// Whether the disk reports a loss of power or a reset: data in its cache may be lost.
    pub(super) fn tells_of_a_reset(self) -> bool {
        matches!(
            self,
            Failure::Sense(Sense { key: Some(key::ATTENTION), code: (0x29, _), .. })
                | Failure::Response(response::RESET)
        )
    }

    /// Whether the disk does not support the command: illegal request, invalid command operation code.
    pub(super) fn is_unknown_command(self) -> bool {
        let Failure::Sense(Sense { key: Some(key), code, .. }) = self else { return false };
        key == key::ILLEGAL_REQUEST && code == (0x20, 0x00)
    }

    /// The failure as a named error.
    pub(super) fn error(self, words: Words) -> DeviceError {
        let reasons = match words {
            Words::Read => &READ,
            Words::Write => &WRITE,
            Words::Flush => &FLUSH,
            Words::Answer => &ANSWER,
        };
        let (what, code) = match self {
            Failure::Sense(sense) => {
                let named = sense.key.and_then(|key| reasons.keys.get(usize::from(key)));
                (named.unwrap_or(&reasons.unknown), sense.bits())
            }
            Failure::Status(status) => {
                let what = match status {
                    status::BUSY => &reasons.busy,
                    status::RESERVATION_CONFLICT => &reasons.reserved,
                    status::TASK_SET_FULL => &reasons.full,
                    status::ACA_ACTIVE => &reasons.contingent,
                    status::TASK_ABORTED => &reasons.aborted,
                    _ => {
                        let what = "a command's SCSI status";
                        return DeviceError::Protocol { what, value: status.into() };
                    }
                };
                (what, status.into())
            }
            Failure::Response(response) => {
                let named = response.checked_sub(1).and_then(|at| reasons.responses.get(usize::from(at)));
                let Some(what) = named else {
                    return DeviceError::Protocol { what: "a command's response", value: response.into() };
                };
                (what, response.into())
            }
            // Not an error, so never requested.
            Failure::None => (&reasons.unknown, 0),
        };
        DeviceError::Status { what, code }
    }
}

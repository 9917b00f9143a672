//! What is armed, and how: targets, configuration, and the report.

use crate::deferred::Queues;
use crate::device::DumpDevice;
use crate::format::Uuid;
use crate::format::chunk::Encoding;
use crate::format::cipher::PublicKey;
use crate::memory::class::Level;
use crate::partition::verify::Verify;
use crate::platform::ResetPolicy;
use crate::time::{Nanoseconds, SECOND};

/// Default for the number of CPUs that may help.
const DEFAULT_HELPERS: usize = 4;

/// Who else uses the disk while the kernel is healthy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// Only the dump. `arm()` takes the device over, reads the label and the first pattern block, and shuts
    /// the device down again.
    Exclusive,
    /// The kernel's own driver: `arm()` does not touch the device. The uuid must be given.
    Shared,
}

/// Where a dump goes: a partition of a device.
pub struct Target<'a> {
    /// The disk.
    pub device: &'a mut dyn DumpDevice,
    /// First block of the partition on the disk, in units of 4096 bytes.
    pub first_block: u64,
    /// Size of the partition in blocks.
    pub blocks: u64,
    /// The label's uuid, if the caller knows it. A label with another uuid is refused. Required with
    /// [`Ownership::Shared`].
    pub uuid: Option<Uuid>,
    /// The public key in the label, to which dumps must be encrypted, if the caller knows it. With
    /// [`Ownership::Shared`] the label is not read before the crash, so this is the only way to encrypt.
    pub recipient: Option<PublicKey>,
    /// Who else uses the disk.
    pub ownership: Ownership,
}

/// How to dump.
#[derive(Clone)]
pub struct Config<'a> {
    /// How much of the pattern is checked, and when.
    pub verify: Verify,
    /// Nanoseconds from `crash()` to its end, at most. Memory not written by then is left out.
    pub budget: Nanoseconds,
    /// Nanoseconds that one request to the device may take.
    pub request_timeout: Nanoseconds,
    /// What happens after the dump.
    pub reset: ResetPolicy,
    /// How much of the kernel log's end goes into the dump, in bytes, at most.
    pub log_tail: u64,
    /// Private timers and tasklets of the target's driver, if it uses them. They are best placed in the
    /// arena.
    pub queues: Option<&'a Queues>,
    /// Which memory is left out.
    pub level: Level,
    /// How memory is stored: [`Encoding::Units`] are compressed.
    pub encoding: Encoding,
    /// How many other CPUs may help, at most. The number is also limited by
    /// [`MAX_HELPERS`](crate::limits::MAX_HELPERS) and by the number of other CPUs. Each helper takes 115 KiB
    /// of the arena if memory is compressed. Stopped CPUs have to call [`Dump::help`](crate::Dump::help).
    pub helpers: usize,
    /// Nanoseconds that a helper may take for one unit of work. After that, the unit is done again and the
    /// helper gets no more work. At most a quarter of the request timeout and a sixteenth of the budget.
    pub helper_patience: Nanoseconds,
    /// Whether devices that report themselves as [risky](crate::device::Health::Risky) may be used. They are
    /// tried in a second round, when no other target is left.
    pub allow_risky: bool,
    /// Whether a dump is striped over all healthy targets, chunk by chunk in turn. Only targets with the same
    /// encryption are striped together. If one of them fails, the dump starts again on the others.
    pub stripe: bool,
    /// Whether a dump may go to an unencrypted target that comes after an encrypted one in the list. The same
    /// memory may then be on both.
    pub clear_after_encrypted: bool,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Config {
            verify: Verify::All,
            budget: 600 * SECOND,
            request_timeout: 10 * SECOND,
            reset: ResetPolicy::Reset,
            log_tail: 64 << 10,
            queues: None,
            level: Level::ZERO,
            encoding: Encoding::Units,
            helpers: DEFAULT_HELPERS,
            helper_patience: SECOND / 2,
            allow_risky: true,
            stripe: false,
            clear_after_encrypted: false,
        }
    }
}

/// What `arm()` found and decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArmReport {
    /// Bytes of the arena in use.
    pub arena_used: usize,
    /// Bytes of the arena.
    pub arena_length: usize,
    /// How many requests can be in flight.
    pub buffers: usize,
    /// Bytes of memory in each request.
    pub payload: usize,
    /// Pages that a dump will visit.
    pub pages: u64,
    /// Bytes of code and read-only data under the integrity check.
    pub code_bytes: u64,
    /// Number of devices that a dump may go to.
    pub targets: usize,
    /// Number of CPUs that may help.
    pub helpers: usize,
    /// How memory will be stored: uncompressed, if the arena is too small for compression.
    pub encoding: Encoding,
}

//! Commands and their completions.

use dumpcore::device::Direction;
use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

/// Admin commands (5).
const CREATE_SUBMISSION_QUEUE: u32 = 0x01;
const CREATE_COMPLETION_QUEUE: u32 = 0x05;
const IDENTIFY: u32 = 0x06;
const SET_FEATURES: u32 = 0x09;

/// Commands of the NVM command set (6).
const FLUSH: u32 = 0x00;
const WRITE: u32 = 0x01;
const READ: u32 = 0x02;

/// The CNS value of Identify (5.15.1): a namespace.
pub(super) const OF_NAMESPACE: u32 = 0x00;
/// The controller.
pub(super) const OF_CONTROLLER: u32 = 0x01;
/// The list of active namespaces, in order.
pub(super) const OF_ACTIVE: u32 = 0x02;
/// A namespace's identification descriptors, including its command set.
pub(super) const OF_DESCRIPTORS: u32 = 0x03;

/// Feature: number of I/O queues (5.21.1.7).
const NUMBER_OF_QUEUES: u32 = 0x07;

/// The queue is physically contiguous.
const CONTIGUOUS: u32 = 1;

/// An entry of a submission queue (4.2). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Submission {
    /// Opcode in bits 0 to 7, command identifier in bits 16 to 31. The bits between select PRPs.
    first: u32,
    namespace: u32,
    reserved: u64,
    metadata: u64,
    prp1: u64,
    prp2: u64,
    dwords: [u32; 6],
}
const_assert_eq!(size_of::<Submission>(), 64);

impl Submission {
    fn new(operation: u32, namespace: u32, dwords: [u32; 3]) -> Submission {
        let [tenth, eleventh, twelfth] = dwords.map(u32::to_le);
        Submission {
            first: operation.to_le(),
            namespace: namespace.to_le(),
            reserved: 0,
            metadata: 0,
            prp1: 0,
            prp2: 0,
            dwords: [tenth, eleventh, twelfth, 0, 0, 0],
        }
    }

    /// Requests 4096 bytes of identity data of the controller or a namespace (5.15).
    pub(super) fn identify(what: u32, namespace: u32) -> Submission {
        Submission::new(IDENTIFY, namespace, [what, 0, 0])
    }

    /// Requests one I/O queue of either kind.
    pub(super) fn one_queue_pair() -> Submission {
        Submission::new(SET_FEATURES, 0, [NUMBER_OF_QUEUES, 0, 0])
    }

    /// Creates a completion queue without interrupts (5.3).
    pub(super) fn create_completion_queue(id: u16, entries: u16) -> Submission {
        Submission::new(CREATE_COMPLETION_QUEUE, 0, [queue(id, entries), CONTIGUOUS, 0])
    }

    /// Creates a submission queue for the completion queue with the same id (5.4).
    pub(super) fn create_submission_queue(id: u16, entries: u16) -> Submission {
        let to = u32::from(id) << 16 | CONTIGUOUS;
        Submission::new(CREATE_SUBMISSION_QUEUE, 0, [queue(id, entries), to, 0])
    }

    /// Reads or writes `count` logical blocks, 1 to 65536 (6.9, 6.15).
    pub(super) fn transfer(direction: Direction, namespace: u32, address: u64, count: u32) -> Submission {
        let operation = match direction {
            Direction::Read => READ,
            Direction::Write => WRITE,
        };
        let dwords = [address as u32, (address >> 32) as u32, count.saturating_sub(1) & 0xffff];
        Submission::new(operation, namespace, dwords)
    }

    /// Flushes the cache (6.8).
    pub(super) fn flush(namespace: u32) -> Submission {
        Submission::new(FLUSH, namespace, [0, 0, 0])
    }

    /// Sets the data pointers (4.3): the first page, and the second page or a list of all others.
    pub(super) fn at(mut self, first: u64, second: u64) -> Submission {
        self.prp1 = first.to_le();
        self.prp2 = second.to_le();
        self
    }

    /// Sets the command identifier.
    pub(super) fn set_id(&mut self, id: u16) {
        self.first = (u32::from_le(self.first) & 0xffff | u32::from(id) << 16).to_le();
    }
}

/// Encodes a queue's id and size.
fn queue(id: u16, entries: u16) -> u32 {
    u32::from(entries.saturating_sub(1)) << 16 | u32::from(id)
}

/// An entry of a completion queue (4.6), the fields in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Finished {
    /// The command identifier.
    pub(super) id: u16,
    /// Status code type in bits 8 to 10, status code in 0 to 7; 0 is success.
    pub(super) status: u16,
    /// The command would fail again (DNR).
    pub(super) for_good: bool,
}

/// Bytes in an entry of a completion queue.
pub(super) const COMPLETION: usize = 16;
/// Offset of the queue's id and head in it, 32 bits.
pub(super) const COMPLETION_QUEUE: usize = 8;
/// Offset of the command identifier, phase and status in it, 32 bits.
pub(super) const COMPLETION_STATUS: usize = 12;

impl Finished {
    /// Decodes the last four bytes of an entry.
    pub(super) fn read(last: u32) -> Finished {
        Finished { id: last as u16, status: (last >> 17) as u16 & 0x7ff, for_good: last >> 31 != 0 }
    }
}

/// The phase tag in the last four bytes of an entry, 0 or 1.
pub(super) fn phase(last: u32) -> u32 {
    last >> 16 & 1
}

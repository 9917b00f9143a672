//! The split virtqueue (virtio 1.2, 2.7).
//!
//! Descriptor chains have a fixed length, so nothing has to be linked, searched or trusted: a request owns
//! its chain from [`publish`](Queue::publish) until [`pop`](Queue::pop) returns it. All state that matters is
//! outside the device's reach; of the device's data, only the used ring is read, and checked.

use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bus::barrier;
use crate::bus::shared::{LINE, Shared};

/// Maximum number of descriptors in a queue. This is the usual size for disks, and some devices reject a
/// smaller one (kvmtool).
pub const QUEUE_MAX: u16 = 256;

/// Bytes of shared memory per queue, aligned to [`QUEUE_ALIGN`].
pub const QUEUE_BYTES: usize = USED + 4 + QUEUE_MAX as usize * size_of::<UsedElement>() + 2;
/// Alignment of a queue's memory in bytes.
pub const QUEUE_ALIGN: usize = 16;

// Offsets of the parts. The used ring, which the device writes, starts on its own cache line.
const DESCRIPTORS: usize = 0;
const AVAILABLE: usize = DESCRIPTORS + QUEUE_MAX as usize * size_of::<Descriptor>();
const USED: usize = (AVAILABLE + 4 + QUEUE_MAX as usize * 2 + 2).next_multiple_of(LINE);

/// Offset of the index in both rings (2.7.6, 2.7.8); the entries follow at 4.
const RING_INDEX: usize = 2;
const RING_ENTRIES: usize = 4;
/// Available ring flags: no interrupts.
const NO_INTERRUPT: u16 = 1;
/// Used ring flags: no notifications.
const NO_NOTIFY: u16 = 1;

/// Descriptor flags: the chain continues.
const NEXT: u16 = 1;
/// Descriptor flags: the device writes.
const WRITE: u16 = 2;

/// A descriptor: a piece of memory for the device (2.7.5). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}
const_assert_eq!(size_of::<Descriptor>(), 16);

/// A used ring element: a completed request (2.7.8). Little-endian.
#[derive(Clone, Copy, FromBytes, KnownLayout)]
#[repr(C)]
struct UsedElement {
    id: u32,
    length: u32,
}
const_assert_eq!(size_of::<UsedElement>(), 8);

/// A piece of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bus address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Whether the device writes it; otherwise it reads it.
    pub writable: bool,
}

/// A request that the device reports as completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// The chain that was published.
    pub chain: u16,
    /// Bytes that the device claims to have written. Not checked: the limit depends on the request.
    pub length: u32,
}

/// One split virtqueue.
pub struct Queue {
    memory: Shared,
    /// Descriptors in use, a power of two, at most [`QUEUE_MAX`]; 0 before [`start`](Queue::start).
    size: u16,
    /// Descriptors in a chain.
    chain_length: u16,
    /// The chains in flight, one bit each.
    in_flight: u64,
    /// Our own free-running index of the available ring.
    available: u16,
    /// The used index as last read from the device.
    used_seen: u16,
    /// Our own free-running index of the used ring.
    used_taken: u16,
}

impl Queue {
    /// A queue in memory of at least [`QUEUE_BYTES`] bytes, aligned to [`QUEUE_ALIGN`].
    pub fn new(memory: Shared) -> Queue {
        Queue { memory, size: 0, chain_length: 1, in_flight: 0, available: 0, used_seen: 0, used_taken: 0 }
    }

    /// Empties the queue. Call only while the device does not use it: after its reset. `size` is a power of
    /// two, at most [`QUEUE_MAX`]; `chain_length` is the maximum number of pieces per request.
    pub fn start(&mut self, size: u16, chain_length: u16, platform: &dyn Platform) {
        self.memory.clear(platform);
        self.memory.write(AVAILABLE, NO_INTERRUPT.to_le());
        self.memory.clean(AVAILABLE, size_of::<u16>(), platform);
        self.size = size.min(QUEUE_MAX);
        self.chain_length = chain_length.max(1);
        self.in_flight = 0;
        self.available = 0;
        self.used_seen = 0;
        self.used_taken = 0;
    }

    /// Bus address of the descriptors.
    pub fn descriptors(&self) -> u64 {
        self.memory.bus_address(DESCRIPTORS)
    }

    /// Bus address of the available ring, which the driver writes.
    pub fn available_ring(&self) -> u64 {
        self.memory.bus_address(AVAILABLE)
    }

    /// Bus address of the used ring, which the device writes.
    pub fn used_ring(&self) -> u64 {
        self.memory.bus_address(USED)
    }

    /// Maximum number of requests in flight.
    pub fn chains(&self) -> u16 {
        self.size.checked_div(self.chain_length).unwrap_or(0).min(u64::BITS as u16)
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.in_flight.count_ones() as u16
    }

    /// A free chain.
    pub fn free_chain(&self) -> Option<u16> {
        let chain = self.in_flight.trailing_ones() as u16;
        (chain < self.chains()).then_some(chain)
    }

    /// Publishes a request to the device. `chain` comes from [`free_chain`](Queue::free_chain); in `pieces`,
    /// those that the device writes come last. Pieces beyond the chain's length are dropped. Returns whether
    /// the device wants a notification.
    pub fn publish(
        &mut self,
        chain: u16,
        pieces: impl Iterator<Item = Piece>,
        platform: &dyn Platform,
    ) -> bool {
        let head = chain.wrapping_mul(self.chain_length);
        let mut pieces = pieces.take(self.chain_length.into()).peekable();
        let mut at = head;
        // Each turn takes a piece, of at most as many as a chain has descriptors.
        while let Some(piece) = pieces.next() {
            let next = at.wrapping_add(1);
            let more = if pieces.peek().is_some() { NEXT } else { 0 };
            let flags = more | if piece.writable { WRITE } else { 0 };
            let descriptor = Descriptor {
                address: piece.address.to_le(),
                length: piece.length.to_le(),
                flags: flags.to_le(),
                next: if more == 0 { 0 } else { next.to_le() },
            };
            let offset = usize::from(at).wrapping_mul(size_of::<Descriptor>()).wrapping_add(DESCRIPTORS);
            self.memory.write(offset, descriptor);
            at = next;
        }
        self.in_flight |= 1_u64.checked_shl(chain.into()).unwrap_or(0);
        let first = usize::from(head).wrapping_mul(size_of::<Descriptor>()).wrapping_add(DESCRIPTORS);
        let count = usize::from(at.wrapping_sub(head));
        self.memory.clean(first, count.wrapping_mul(size_of::<Descriptor>()), platform);
        let slot = self.slot(AVAILABLE, self.available, size_of::<u16>());
        self.memory.write(slot, head.to_le());
        self.memory.clean(slot, size_of::<u16>(), platform);
        self.available = self.available.wrapping_add(1);
        // The request first, then the index.
        barrier::publish();
        let index = AVAILABLE.wrapping_add(RING_INDEX);
        self.memory.write(index, self.available.to_le());
        self.memory.clean(index, size_of::<u16>(), platform);
        // The index first, then the read of the device's flags (2.7.10.1), and the notification.
        barrier::full();
        self.memory.invalidate(USED, size_of::<u16>(), platform);
        let flags = self.memory.read::<u16>(USED).map_or(0, u16::from_le);
        flags & NO_NOTIFY == 0
    }

    /// Offset of a ring's entry for a free-running index.
    fn slot(&self, ring: usize, index: u16, entry: usize) -> usize {
        let place = index & self.size.wrapping_sub(1);
        usize::from(place).wrapping_mul(entry).wrapping_add(ring).wrapping_add(RING_ENTRIES)
    }

    /// The next completed request. If there is none, this is a single read of memory.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] if the device reports more completions than requests, or one that it was not
    /// given. The queue is unusable afterwards, until [`start`](Queue::start).
    #[inline]
    pub fn pop(&mut self, platform: &dyn Platform) -> Result<Option<Used>, DeviceError> {
        if self.used_taken == self.used_seen {
            self.memory.invalidate(USED, RING_ENTRIES, platform);
            let index = self.memory.read::<u16>(USED + RING_INDEX).map_or(self.used_seen, u16::from_le);
            if index == self.used_seen {
                return Ok(None);
            }
            if index.wrapping_sub(self.used_taken) > self.in_flight() {
                return Err(DeviceError::Protocol { what: "its used index", value: index.into() });
            }
            self.used_seen = index;
            // The index first, then the entries.
            barrier::observe();
        }
        let slot = self.slot(USED, self.used_taken, size_of::<UsedElement>());
        self.memory.invalidate(slot, size_of::<UsedElement>(), platform);
        let element = self.memory.read(slot).unwrap_or(UsedElement { id: u32::MAX, length: 0 });
        let id = u32::from_le(element.id);
        let chain = id.checked_div(self.chain_length.into()).unwrap_or(u32::MAX);
        let bit = 1_u64.checked_shl(chain).unwrap_or(0);
        let head = chain.checked_mul(self.chain_length.into());
        if head != Some(id) || self.in_flight & bit == 0 {
            return Err(DeviceError::Protocol { what: "a finished request's id", value: id.into() });
        }
        self.used_taken = self.used_taken.wrapping_add(1);
        self.in_flight &= !bit;
        Ok(Some(Used { chain: chain as u16, length: u32::from_le(element.length) }))
    }

    /// Feeds its memory's address.
    pub fn integrity(&self, digest: &mut Digest) {
        self.memory.integrity(digest);
    }
}

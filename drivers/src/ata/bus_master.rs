//! Bus-master DMA: a table lists the memory for the data, and the controller moves the data when the device
//! requests it.

use dumpcore::device::{Direction, Request};
use dumpcore::integrity::Digest;
use dumpcore::platform::Platform;

use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::request::{cut, first_bytes, spans, total, whole_blocks};

/// Number of ports, both channels together.
pub(super) const PORTS: u16 = 16;

/// Registers of a channel (Bus Master IDE, 2), relative to its offset.
mod register {
    pub(super) const COMMAND: usize = 0;
    pub(super) const STATUS: usize = 2;
    /// Address of the table, 32 bits.
    pub(super) const TABLE: usize = 4;
    /// Distance between the two channels.
    pub(super) const STRIDE: usize = 8;
}

/// Command: start.
const START: u8 = 1 << 0;
/// Command: the transfer goes to memory.
const TO_MEMORY: u8 = 1 << 3;

bitflags::bitflags! {
    /// Bus master status.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct MasterStatus: u8 {
        /// Transfer in progress: the table is not used up yet.
        const ACTIVE = 1 << 0;
        /// An access to memory failed. Write 1 to clear.
        const ERROR = 1 << 1;
        /// The device interrupted. Write 1 to clear.
        const INTERRUPT = 1 << 2;
        /// Set by firmware or driver: a drive supports DMA. Preserved.
        const CAPABLE = 1 << 5 | 1 << 6;
        const _ = !0;
    }
}

/// An entry's memory must not cross a multiple of this.
const BOUNDARY: u64 = 1 << 16;
/// Number of table entries: enough for the largest request even in pieces of 4 KiB, with some to spare for
/// buffers that are not page-aligned.
const ENTRIES: usize = 512;
/// Entry: end of table.
const LAST: u64 = 1 << 63;
/// Bytes in an entry.
const ENTRY: usize = 8;
/// Bytes in the table. Aligned to its size, it does not cross a 64 KiB boundary.
pub(super) const TABLE_BYTES: usize = ENTRIES * ENTRY;

/// Whether the controller reaches this memory: 32-bit addresses, multiples of two bytes.
pub(super) fn reaches(bus: u64, length: u64) -> bool {
    bus & 1 == 0 && bus.checked_add(length).is_some_and(|end| end <= 1 << 32)
}

/// Bytes, in whole blocks, after the first `done` bytes of a request that one table can cover; 0 if not even
/// the first block.
#[inline(never)]
pub(super) fn in_reach(request: &Request, done: usize) -> usize {
    let reached = cut::<BOUNDARY>(spans(request, done))
        .take(ENTRIES)
        .take_while(|span| reaches(span.bus, span.length as u64));
    whole_blocks(total(reached))
}

/// Fills the table for the `round` bytes of a request after the first `done` ones.
#[inline(never)]
pub(super) fn lay_table(
    table: &mut Shared,
    request: &Request,
    done: usize,
    round: usize,
    platform: &dyn Platform,
) {
    let mut left = round;
    let mut at = 0_usize;
    for span in first_bytes(cut::<BOUNDARY>(spans(request, done)), round).take(ENTRIES) {
        left = left.saturating_sub(span.length);
        let last = if left == 0 { LAST } else { 0 };
        // A length of 64 KiB is encoded as 0.
        let entry = u64::from(span.length as u16) << 32 | u64::from(span.bus as u32) | last;
        table.write(at, entry.to_le());
        at = at.saturating_add(ENTRY);
    }
    table.clean(0, at, platform);
}

/// The registers of both channels.
pub(super) struct BusMaster<R> {
    registers: R,
}

impl<R: Registers> BusMaster<R> {
    pub(super) fn new(registers: R) -> BusMaster<R> {
        BusMaster { registers }
    }

    pub(super) fn integrity(&self, digest: &mut Digest) {
        self.registers.integrity(digest);
    }

    pub(super) fn status(&self, channel: u8) -> MasterStatus {
        MasterStatus::from_bits_retain(self.registers.read8(at(channel, register::STATUS)))
    }

    /// Stops a channel, and clears its status.
    pub(super) fn stop(&self, channel: u8) {
        self.registers.write8(at(channel, register::COMMAND), 0);
        let kept = self.status(channel).intersection(MasterStatus::CAPABLE);
        let clear = kept | MasterStatus::ERROR | MasterStatus::INTERRUPT;
        self.registers.write8(at(channel, register::STATUS), clear.bits());
    }

    /// Sets a channel's table and direction. Comes before the device's command.
    pub(super) fn prepare(&self, channel: u8, table: u32, direction: Direction) {
        self.stop(channel);
        self.registers.write32(at(channel, register::TABLE), table);
        self.registers.write8(at(channel, register::COMMAND), way(direction));
    }

    /// Starts the transfer. Comes after the device's command.
    pub(super) fn start(&self, channel: u8, direction: Direction) {
        self.registers.write8(at(channel, register::COMMAND), way(direction) | START);
    }
}

fn at(channel: u8, offset: usize) -> usize {
    usize::from(channel).wrapping_mul(register::STRIDE).wrapping_add(offset)
}

fn way(direction: Direction) -> u8 {
    match direction {
        Direction::Read => TO_MEMORY,
        Direction::Write => 0,
    }
}

//! The device's state, and the pieces of a request.

use super::plan::{Fault, Plan};
use crate::fake::chassis::Chassis;

pub(super) const SECTOR: u64 = 512;

#[derive(Default, Clone)]
pub(super) struct QueueState {
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) fetched: u16,
    pub(super) used: u16,
}

pub(super) struct Pending {
    /// Its index, if it counts: see [`Trouble`].
    pub(super) number: Option<u32>,
    pub(super) head: u16,
    pub(super) ticks: u32,
}

/// A piece of a request: address, length, whether the device writes it.
pub(super) type Piece = (u64, u32, bool);

/// Result of a request.
pub(super) struct Done {
    /// Bytes written to memory, as reported.
    pub(super) length: u32,
    /// The part of them that is data.
    pub(super) data: u32,
    /// Bytes of writable memory.
    pub(super) room: u32,
}

/// The device's registers and its queue.
pub struct Virtio {
    pub(super) plan: Plan,
    pub(super) doorbells: u64,
    pub(super) status: u8,
    pub(super) resetting: Option<u32>,
    pub(super) feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) queue: QueueState,
    pub(super) generation: u8,
    pub(super) isr: u8,
    pub(super) requests: u32,
    pub(super) pending: Vec<Pending>,
    /// Sectors.
    pub(super) capacity: u64,
    pub(super) scsi: ScsiState,
}

/// Events since the last reset.
#[derive(Default)]
pub(super) struct ScsiState {
    /// Unit attentions reported.
    pub(super) told: u32,
    /// Commands that found the disk becoming ready.
    pub(super) waited: u32,
}

impl Virtio {
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.plan.faults.contains(&fault)
    }

    /// The pieces of a request.
    pub(super) fn chain(&self, chassis: &mut Chassis, head: u16) -> Option<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = head;
        loop {
            if at >= self.queue.size || pieces.len() >= usize::from(self.queue.size) {
                return None;
            }
            let mut descriptor = [0; 16];
            chassis.dma_read(self.queue.descriptors + u64::from(at) * 16, &mut descriptor)?;
            let address = u64::from_le_bytes(descriptor[..8].try_into().ok()?);
            let length = u32::from_le_bytes(descriptor[8..12].try_into().ok()?);
            let flags = u16::from_le_bytes(descriptor[12..14].try_into().ok()?);
            if flags & 2 == 0 && pieces.last().is_some_and(|piece| piece.2) {
                chassis.violation("a piece to be read behind one to be written");
            }
            pieces.push((address, length, flags & 2 != 0));
            if flags & 1 == 0 {
                return Some(pieces);
            }
            at = u16::from_le_bytes(descriptor[14..].try_into().ok()?);
        }
    }
}

pub(super) fn read16(chassis: &mut Chassis, bus: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    chassis.dma_read(bus, &mut bytes)?;
    Some(u16::from_le_bytes(bytes))
}

/// Moves data between the disk, from a byte offset on, and pieces of memory; at most `most` bytes. Returns
/// the number of bytes.
pub(super) fn transfer(
    chassis: &mut Chassis,
    start: u64,
    pieces: &[Piece],
    write: bool,
    most: usize,
) -> Option<usize> {
    let mut moved = 0;
    for (address, length, _) in pieces {
        let length = (*length as usize).min(most - moved);
        let mut bytes = vec![0; length];
        if write {
            chassis.dma_read(*address, &mut bytes)?;
            chassis.write_disk(start + moved as u64, &bytes)?;
        } else {
            chassis.read_disk(start + moved as u64, &mut bytes)?;
            chassis.dma_write(*address, &bytes)?;
        }
        moved += length;
    }
    Some(moved)
}

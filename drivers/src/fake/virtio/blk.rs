//! Requests to a virtio block device.

use super::super::Trouble;
use super::super::chassis::Chassis;
use super::plan::{Fault, Plan};
use super::state::{Done, Piece, SECTOR, Virtio, transfer};

pub(super) fn features(plan: &Plan) -> u64 {
    // Offered, never used: multiple queues, discard.
    let mut features = 1 << 12 | 1 << 13;
    let mut offer = |bit: u32, on: bool| features |= u64::from(on) << bit;
    offer(1, plan.size_max.is_some());
    offer(2, plan.seg_max.is_some());
    offer(6, plan.blk_size.is_some());
    offer(9, plan.flush);
    offer(5, plan.faults.contains(&Fault::ReadOnly));
    features
}

pub(super) fn configuration(plan: &Plan, capacity: u64) -> [u8; 64] {
    let mut config = [0_u8; 64];
    config[..8].copy_from_slice(&capacity.to_le_bytes());
    config[8..12].copy_from_slice(&plan.size_max.unwrap_or(0).to_le_bytes());
    config[12..16].copy_from_slice(&plan.seg_max.unwrap_or(0).to_le_bytes());
    config[20..24].copy_from_slice(&plan.blk_size.unwrap_or(0).to_le_bytes());
    config
}

/// Executes a request; `None` if it is malformed.
pub(super) fn carry_out(
    device: &mut Virtio,
    chassis: &mut Chassis,
    number: Option<u32>,
    pieces: &[Piece],
) -> Option<Done> {
    let [header, data @ .., status] = pieces else {
        chassis.violation("a request without header or status");
        return None;
    };
    let mut bytes = [0; 16];
    if header.1 != 16 || header.2 || chassis.dma_read(header.0, &mut bytes).is_none() {
        chassis.violation("a bad header");
        return None;
    }
    if status.1 != 1 || !status.2 {
        chassis.violation("a bad status descriptor");
        return None;
    }
    let number = number.unwrap_or(0);
    let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let sector = u64::from_le_bytes(bytes[8..].try_into().unwrap_or_default());
    let forced = device.plan.faults.iter().find_map(|fault| match fault {
        Fault::Status(at, status) if *at == number => Some(*status),
        _ => None,
    });
    let fails = chassis.troubles.iter().any(|trouble| {
        *trouble == Trouble::Status(number) || matches!(trouble, Trouble::StatusFrom(from) if *from <= number)
    });
    let (code, written) = match forced.or(fails.then_some(1)) {
        Some(code) => (code, 0),
        None => data_or_flush(device, chassis, (kind, sector, number), data),
    };
    if !device.has(Fault::StatusUnwritten(number)) {
        let _ = chassis.dma_write(status.0, &[code]);
    }
    let room: u32 = data.iter().filter(|piece| piece.2).map(|piece| piece.1).sum();
    Some(Done { length: written + 1, data: written, room: room + 1 })
}

/// Returns the status byte and the number of bytes written to memory.
fn data_or_flush(
    device: &Virtio,
    chassis: &mut Chassis,
    (kind, sector, number): (u32, u64, u32),
    data: &[Piece],
) -> (u8, u32) {
    let plan = &device.plan;
    let total: usize = data.iter().map(|piece| piece.1 as usize).sum();
    // 0 can only mean the minimum that any driver needs.
    let size_max = plan.size_max.map(|most| if most == 0 { 4096 } else { most });
    if size_max.is_some_and(|most| data.iter().any(|piece| piece.1 > most)) {
        chassis.violation("a segment larger than size_max");
    }
    // Not specified means one; and it always accepts at least one.
    if data.len() > plan.seg_max.unwrap_or(1).max(1) as usize {
        chassis.violation("more segments than seg_max");
        return (1, 0);
    }
    let write = match kind {
        0 => false,
        1 => true,
        4 => {
            if !plan.flush || total != 0 || sector != 0 {
                chassis.violation("a bad flush");
            }
            chassis.flush_disk();
            return (0, 0);
        }
        _ => return (2, 0),
    };
    let start = sector.saturating_mul(SECTOR);
    let end = start.saturating_add(total as u64);
    if total == 0 || !(total as u64).is_multiple_of(SECTOR) || end > device.capacity * SECTOR {
        chassis.violation(format!("a transfer of {total} bytes at sector {sector}"));
        return (1, 0);
    }
    if data.iter().any(|piece| piece.2 == write) {
        chassis.violation("a descriptor of the wrong direction");
        return (1, 0);
    }
    let short = chassis.has(Trouble::Short(number));
    let most = if short { total - SECTOR as usize } else { total };
    let Some(moved) = transfer(chassis, start, data, write, most) else { return (1, 0) };
    if write && !plan.flush {
        chassis.write_through();
    }
    match (write, short) {
        (true, false) => (0, 0),
        // A write has no other way to report it.
        (true, true) => (1, 0),
        (false, _) => (0, moved as u32),
    }
}

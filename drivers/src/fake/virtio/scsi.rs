//! Commands to a virtio SCSI host.

use super::super::Trouble;
use super::super::chassis::Chassis;
use super::plan::{Fault, Plan, ScsiPlan};
use super::state::{Done, Piece, Virtio, transfer};

const HEADER: u32 = 51;
const RESPONSE: u32 = 108;

/// How a command ends.
struct End {
    response: u8,
    status: u8,
    residual: u32,
    sense: Vec<u8>,
    /// Bytes written to memory.
    written: u32,
}

impl End {
    fn response(response: u8) -> End {
        End { response, status: 0, residual: 0, sense: Vec::new(), written: 0 }
    }

    fn status(status: u8) -> End {
        End { status, ..End::response(0) }
    }

    fn good(written: u32, residual: u32) -> End {
        End { written, residual, ..End::status(0) }
    }

    fn sense(form: u8, key: u8, (code, qualifier): (u8, u8)) -> End {
        let mut sense = vec![0; 18];
        sense[0] = form;
        if form & 2 == 0 {
            (sense[2], sense[7], sense[12], sense[13]) = (key, 10, code, qualifier);
        } else {
            (sense[1], sense[2], sense[3]) = (key, code, qualifier);
            sense.truncate(8);
        }
        End { sense, ..End::status(2) }
    }
}

pub(super) fn configuration(host: &ScsiPlan, plan: &Plan) -> [u8; 64] {
    let mut config = [0_u8; 64];
    let words = [
        1,
        plan.seg_max.unwrap_or(126),
        host.max_sectors,
        host.cmd_per_lun,
        16,
        host.sense_size,
        host.cdb_size,
        u32::from(host.max_target) << 16,
        host.max_lun,
    ];
    for (place, word) in config.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    config
}

fn header(chassis: &mut Chassis, pieces: &[Piece]) -> Option<[u8; HEADER as usize]> {
    let first = pieces.first().filter(|piece| piece.1 == HEADER && !piece.2)?;
    let mut header = [0; HEADER as usize];
    chassis.dma_read(first.0, &mut header)?;
    Some(header)
}

/// Whether a request is a data transfer or a flush.
pub(super) fn counts(device: &Virtio, chassis: &mut Chassis, head: u16) -> bool {
    let pieces = device.chain(chassis, head).unwrap_or_default();
    header(chassis, &pieces).is_some_and(|header| matches!(header[19], 0x88 | 0x8a | 0x35 | 0x91))
}

/// Executes a command; `None` if it is malformed.
pub(super) fn carry_out(
    device: &mut Virtio,
    host: &ScsiPlan,
    chassis: &mut Chassis,
    number: Option<u32>,
    pieces: &[Piece],
) -> Option<Done> {
    let (ours, theirs): (Vec<Piece>, Vec<Piece>) = pieces.iter().partition(|piece| !piece.2);
    let (Some(header), [response, into @ ..], [_, out @ ..]) =
        (header(chassis, pieces), &theirs[..], &ours[..])
    else {
        chassis.violation("a command without header or response");
        return None;
    };
    if response.1 != RESPONSE {
        chassis.violation("a bad response descriptor");
        return None;
    }
    if !into.is_empty() && !out.is_empty() {
        chassis.violation("data both ways");
    }
    if into.len().max(out.len()) > device.plan.seg_max.unwrap_or(126).max(1) as usize {
        chassis.violation("more segments than seg_max");
    }
    if header[16..19] != [0, 0, 0] || header[35..] != [0; 16] {
        chassis.violation("a bad header");
    }
    let end = command(device, host, chassis, (&header, number), (into, out));
    let mut answer = [0_u8; RESPONSE as usize];
    answer[..4].copy_from_slice(&(end.sense.len() as u32).to_le_bytes());
    answer[4..8].copy_from_slice(&end.residual.to_le_bytes());
    answer[10] = end.status;
    answer[11] = end.response;
    answer[12..][..end.sense.len()].copy_from_slice(&end.sense);
    if !number.is_some_and(|number| device.has(Fault::StatusUnwritten(number))) {
        let _ = chassis.dma_write(response.0, &answer);
    }
    let room: u32 = into.iter().map(|piece| piece.1).sum();
    Some(Done { length: end.written + RESPONSE, data: end.written, room: room + RESPONSE })
}

fn command(
    device: &mut Virtio,
    host: &ScsiPlan,
    chassis: &mut Chassis,
    (header, number): (&[u8; HEADER as usize], Option<u32>),
    (into, out): (&[Piece], &[Piece]),
) -> End {
    let sense_form = if host.descriptors { 0x72 } else { 0x70 };
    let cdb = &header[19..35];
    let target = header[1];
    let lun = u16::from(header[2] & 0x3f) << 8 | u16::from(header[3]);
    if header[0] != 1 || header[2] >> 6 != 1 || header[4..8] != [0; 4] {
        chassis.violation("a bad LUN");
    }
    let units = || {
        let disk = std::iter::once((host.disk.0, host.disk.1, 0));
        disk.chain(host.others.iter().copied()).filter(|unit| unit.0 == target)
    };
    if u16::from(target) > host.max_target {
        chassis.violation("a target that cannot be");
    }
    if units().next().is_none() {
        return End::response(3);
    }
    let unit = units().find(|unit| unit.1 == lun);
    let is_disk = (target, lun) == host.disk;
    let asked = |from: usize, bytes: usize| {
        cdb[from..][..bytes].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let give = |chassis: &mut Chassis, answer: &[u8], asked: u64| {
        let mut limit = answer.len();
        for fault in &device.plan.faults {
            if let Fault::ShortAnswers(most) = *fault {
                limit = limit.min(most as usize);
            }
        }
        let given = limit.min(asked as usize);
        let room: u32 = into.iter().map(|piece| piece.1).sum();
        if u64::from(room) != asked {
            chassis.violation(format!("room for {room} bytes of an answer of {asked}"));
        }
        let mut at = 0;
        for piece in into {
            let next = (at + piece.1 as usize).min(given);
            let _ = chassis.dma_write(piece.0, &answer[at..next]);
            at = next;
        }
        End::good(given as u32, (asked - given as u64) as u32)
    };
    let fails = device.plan.faults.iter().find_map(|fault| match *fault {
        Fault::Operation(code, key, what) if code == cdb[0] => Some(End::sense(sense_form, key, what)),
        _ => None,
    });
    if let Some(end) = fails {
        return end;
    }
    // Commands that are answered whatever the state of the unit.
    match cdb[0] {
        0x12 => {
            let mut answer = [0; 36];
            // No unit: qualifier 3, type 31.
            answer[0] = unit.map_or(0x7f, |unit| unit.2);
            answer[4] = 31;
            return give(chassis, &answer, asked(3, 2));
        }
        0xa0 => {
            let mut list: Vec<u8> = vec![0; 8];
            for (_, lun, _) in units() {
                let address = if lun < 256 { lun } else { lun | 0x4000 };
                list.extend([(address >> 8) as u8, address as u8, 0, 0, 0, 0, 0, 0]);
            }
            let length = list.len() as u32 - 8;
            list[..4].copy_from_slice(&length.to_be_bytes());
            return give(chassis, &list, asked(6, 4));
        }
        _ => {}
    }
    if unit.is_none() {
        return End::sense(sense_form, 5, (0x25, 0));
    }
    if !is_disk {
        chassis.violation(format!("command {:#x} for what is not the disk", cdb[0]));
    }
    if device.scsi.told < host.attentions {
        device.scsi.told += 1;
        return End::sense(sense_form, 6, (0x29, 0));
    }
    if device.scsi.waited < host.not_ready {
        device.scsi.waited += 1;
        return End::sense(sense_form, 2, (4, 1));
    }
    let unknown = End::sense(sense_form, 5, (0x20, 0));
    match cdb[0] {
        0x00 => End::good(0, 0),
        0x1a if !host.mode_sense => unknown,
        0x1a => {
            let protected = if device.has(Fault::ReadOnly) { 0x80 } else { 0 };
            give(chassis, &[3, 0, protected, 0, 0x08, 0x12], asked(4, 1))
        }
        0x9e if cdb[1] & 0x1f == 0x10 => {
            let blocks = device.capacity * 512 / u64::from(host.block.max(1));
            let mut answer = [0; 32];
            answer[..8].copy_from_slice(&blocks.wrapping_sub(1).to_be_bytes());
            answer[8..12].copy_from_slice(&host.block.to_be_bytes());
            answer[12] = host.protection;
            give(chassis, &answer, asked(10, 4))
        }
        0x35 if !host.flush => unknown,
        0x35 | 0x88 | 0x8a => {
            let number = number.unwrap_or(0);
            counted(device, host, chassis, (cdb, number, sense_form), (into, out))
        }
        _ => unknown,
    }
}

/// A transfer or a flush.
fn counted(
    device: &Virtio,
    host: &ScsiPlan,
    chassis: &mut Chassis,
    (cdb, number, sense_form): (&[u8], u32, u8),
    (into, out): (&[Piece], &[Piece]),
) -> End {
    let mut recovered = None;
    let mut wrong_residual = 0;
    for fault in &device.plan.faults {
        match *fault {
            Fault::Sense(at, form, 1, code) if at == number && form & 1 == 0 => {
                recovered = Some(End::sense(form, 1, code));
            }
            Fault::Sense(at, form, key, code) if at == number => return End::sense(form, key, code),
            Fault::ScsiStatus(at, status) if at == number => return End::status(status),
            Fault::ScsiStatusFrom(from, status) if from <= number => return End::status(status),
            Fault::Response(at, response) if at == number => return End::response(response),
            Fault::Residual(at, residual) if at == number => wrong_residual = residual,
            _ => {}
        }
    }
    for trouble in &chassis.troubles {
        match *trouble {
            Trouble::Status(at) if at == number => return End::sense(sense_form, 3, (0x11, 0)),
            Trouble::StatusFrom(from) if from <= number => return End::sense(sense_form, 4, (0x44, 0)),
            _ => {}
        }
    }
    if cdb[0] == 0x35 {
        if cdb[1..] != [0; 15] || !into.is_empty() || !out.is_empty() {
            chassis.violation("a bad flush");
        }
        chassis.flush_disk();
        return recovered.unwrap_or(End::good(0, wrong_residual));
    }
    let be = |range: std::ops::Range<usize>| {
        cdb[range].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let (write, block) = (cdb[0] == 0x8a, u64::from(host.block.max(1)));
    let (first, bytes) = (be(2..10), be(10..14) * block);
    let data = if write { out } else { into };
    let total: u64 = data.iter().map(|piece| u64::from(piece.1)).sum();
    let end = first.saturating_mul(block).saturating_add(bytes);
    if bytes == 0 || bytes != total || end > device.capacity * 512 || cdb[1] != 0 || cdb[14..] != [0, 0] {
        chassis.violation(format!("a transfer of {bytes} bytes at block {first} with {total} of room"));
        return End::sense(sense_form, 5, (0x21, 0));
    }
    // 0 means no limit.
    if host.max_sectors != 0 && bytes > (u64::from(host.max_sectors) * 512).max(4096) {
        chassis.violation("a transfer of more than max_sectors");
    }
    let short = if chassis.has(Trouble::Short(number)) { 512 } else { 0 };
    let most = (bytes - short) as usize;
    let Some(moved) = transfer(chassis, first * block, data, write, most) else { return End::response(9) };
    let end = End::good(if write { 0 } else { moved as u32 }, short as u32 + wrong_residual);
    match recovered {
        Some(recovered) => End { written: end.written, residual: end.residual, ..recovered },
        None => end,
    }
}

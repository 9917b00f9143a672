//! The notes, written before any memory: what people need even if nothing else reaches the disk.

use static_assertions::const_assert;
use zerocopy::IntoBytes;

use crate::format::header::Arch;
use crate::format::note::{CpuCondition, CpuState, MemoryRange, NoteHeader, NoteKind, RangeKind, TextPart};
use crate::format::{BLOCK_SIZE, PAGE_BYTES};
use crate::memory::bytes;
use crate::memory::map::PfnRange;
use crate::outcome::{Crash, Ended};
use crate::platform::{Lacks, Registers};

use crate::stream::writer::Writer;
use crate::wait::Wait;

/// Maximum number of text bytes in one record; a multiple of 8. With its headers, a record fits into one
/// block, the smallest payload that a small arena allows a chunk.
const TEXT_PIECE: usize = BLOCK_SIZE - size_of::<NoteHeader>() - size_of::<TextPart>() - 8;
const_assert!(TEXT_PIECE.is_multiple_of(8));

/// Size in bytes of a record with `length` bytes of content, including header and padding.
const fn record_bytes(length: usize) -> usize {
    length.next_multiple_of(8).saturating_add(size_of::<NoteHeader>())
}

/// Writes one record of `length` bytes, filled by `fill`.
fn record(
    writer: &mut Writer<'_, '_, '_, '_>,
    kind: NoteKind,
    length: usize,
    wait: &Wait<'_>,
    fill: impl FnOnce(&mut [u8]),
) -> Result<(), Ended> {
    writer.notes(record_bytes(length), wait, |room| {
        let (header, rest) = room.split_at_mut(size_of::<NoteHeader>().min(room.len()));
        let laid = NoteHeader { kind: (kind as u32).into(), length: (length as u32).into() };
        bytes::copy(header, laid.as_bytes());
        if let Some(inside) = rest.get_mut(..length) {
            fill(inside);
        }
    })
}

/// Writes a text in pieces.
fn text(
    writer: &mut Writer<'_, '_, '_, '_>,
    kind: NoteKind,
    text: &[u8],
    wait: &Wait<'_>,
) -> Result<(), Ended> {
    let mut offset = 0_u64;
    for piece in text.chunks(TEXT_PIECE) {
        let part = TextPart { offset: offset.into() };
        let length = size_of::<TextPart>().saturating_add(piece.len());
        record(writer, kind, length, wait, |room| {
            let (head, body) = room.split_at_mut(size_of::<TextPart>().min(room.len()));
            bytes::copy(head, part.as_bytes());
            bytes::copy(body, piece);
        })?;
        offset = offset.saturating_add(piece.len() as u64);
    }
    Ok(())
}

/// Writes the last `tail` bytes of the kernel log.
fn log(writer: &mut Writer<'_, '_, '_, '_>, tail: u64, wait: &Wait<'_>) -> Result<(), Ended> {
    let platform = wait.platform();
    let length = platform.log_length();
    let begin = length.saturating_sub(tail);
    let mut at = begin;
    // Each turn advances by at least one byte, towards `length`.
    while at < length {
        let want = length.saturating_sub(at).min(TEXT_PIECE as u64) as usize;
        let part = TextPart { offset: at.saturating_sub(begin).into() };
        let mut got = 0;
        record(writer, NoteKind::Log, size_of::<TextPart>().saturating_add(want), wait, |room| {
            let (head, body) = room.split_at_mut(size_of::<TextPart>().min(room.len()));
            bytes::copy(head, part.as_bytes());
            // Each turn gets at least one more byte, until there are no more.
            while let Some(rest) = body.get_mut(got..).filter(|rest| !rest.is_empty()) {
                let more = platform.log(at.saturating_add(got as u64), rest).min(rest.len());
                if more == 0 {
                    break;
                }
                got = got.saturating_add(more);
            }
        })?;
        if got == 0 {
            break;
        }
        at = at.saturating_add(got as u64);
    }
    Ok(())
}

/// Writes one CPU's registers word by word: a whole [`CpuState`] is large for a small stack.
fn cpu(
    writer: &mut Writer<'_, '_, '_, '_>,
    cpu: u32,
    condition: CpuCondition,
    registers: &Registers,
    wait: &Wait<'_>,
) -> Result<(), Ended> {
    record(writer, NoteKind::Cpu, size_of::<CpuState>(), wait, |room| {
        let (head, words) = room.split_at_mut(core::mem::offset_of!(CpuState, general).min(room.len()));
        let numbers = [cpu, condition as u32];
        for (slot, number) in head.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *slot = number.to_le_bytes();
        }
        let all = registers.general.iter().chain(&registers.control);
        for (slot, word) in words.as_chunks_mut::<8>().0.iter_mut().zip(all) {
            *slot = word.to_le_bytes();
        }
    })
}

/// Writes the registers of another CPU, which was told to stop.
#[inline(never)]
fn other_cpu(writer: &mut Writer<'_, '_, '_, '_>, number: u32, wait: &Wait<'_>) -> Result<(), Ended> {
    match &wait.platform().registers(number) {
        Some(registers) => cpu(writer, number, CpuCondition::Stopped, registers, wait),
        None => cpu(writer, number, CpuCondition::Silent, &NO_REGISTERS, wait),
    }
}

/// The architecture.
static MACHINE: [u8; 4] = (Arch::current() as u32).to_le_bytes();

/// The registers of a CPU that did not stop.
static NO_REGISTERS: Registers = Registers::ZERO;

/// The content of the notes.
pub(crate) struct Facts<'f> {
    pub(crate) crash: &'f Crash<'f>,
    pub(crate) crashing_cpu: u32,
    pub(crate) ram: &'f [PfnRange],
    pub(crate) arena: PfnRange,
    pub(crate) lacks: Lacks,
    pub(crate) log_tail: u64,
}

/// Writes all notes, most important first.
///
/// # Errors
/// Why the stream ended.
#[inline(never)]
pub(crate) fn write(
    writer: &mut Writer<'_, '_, '_, '_>,
    facts: &Facts<'_>,
    wait: &Wait<'_>,
) -> Result<(), Ended> {
    let platform = wait.platform();
    text(writer, NoteKind::Message, facts.crash.message.as_bytes(), wait)?;

    record(writer, NoteKind::Machine, MACHINE.len(), wait, |room| bytes::copy(room, &MACHINE))?;
    let crashing = facts.crashing_cpu;
    cpu(writer, crashing, CpuCondition::Crashing, facts.crash.registers, wait)?;
    for number in (0..platform.cpus()).filter(|number| *number != crashing) {
        other_cpu(writer, number, wait)?;
    }

    let lacks = facts.lacks.bits().to_le_bytes();
    record(writer, NoteKind::Lacks, lacks.len(), wait, |room| bytes::copy(room, &lacks))?;
    for (kind, bytes) in
        [(NoteKind::System, platform.system().as_bytes()), (NoteKind::BuildId, platform.build_id())]
    {
        let bytes = bytes.get(..bytes.len().min(TEXT_PIECE)).unwrap_or_default();
        record(writer, kind, bytes.len(), wait, |room| bytes::copy(room, bytes))?;
    }

    let ram = facts.ram.iter().map(|range| (*range, RangeKind::Ram));
    for (range, kind) in ram.chain([(facts.arena, RangeKind::Arena)]) {
        let laid = MemoryRange {
            start: range.start.saturating_mul(PAGE_BYTES).into(),
            end: range.end.saturating_mul(PAGE_BYTES).into(),
            kind: (kind as u32).into(),
            reserved: 0.into(),
        };
        record(writer, NoteKind::MemoryRange, size_of::<MemoryRange>(), wait, |room| {
            bytes::copy(room, laid.as_bytes());
        })?;
    }

    log(writer, facts.log_tail, wait)?;
    text(writer, NoteKind::Vmcoreinfo, platform.vmcoreinfo(), wait)?;
    writer.close_chunk(wait)
}

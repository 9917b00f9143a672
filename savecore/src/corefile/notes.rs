//! The notes of a core: registers as Linux's `struct elf_prstatus`, our own facts, VMCOREINFO.

use std::ops::Range;

use dumpcore::format::header::{Arch, Trigger};
use dumpcore::format::note::{CpuCondition, CpuState};
use object::elf::NT_PRSTATUS;

use super::linux::Vmcoreinfo;
use super::select::{Level, Selection};
use crate::dump::{Dump, Report, condition};

/// Owner of the note with our own facts.
pub const FACTS_NAME: &str = "DISKDUMP";

/// Type of the note with our own facts: a [`Report`] as JSON. Tools check the type before the owner, so it
/// differs from all types that cores use (`DUMP`, little-endian).
pub const FACTS_TYPE: u32 = 0x504d_5544;

/// Offsets in `struct elf_prstatus` (Linux, include/linux/elfcore.h), which differs between architectures
/// only in the number of registers.
const CURSIG: usize = 12;
const PID: usize = 32;
const REGISTERS: usize = 112;

/// Number of general registers in an `elf_prstatus`.
fn register_count(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 => 27,
        Arch::Aarch64 => 34,
        Arch::Riscv64 => 32,
    }
}

/// The signal that a debugger shows as the reason (signal(7)).
fn signal(trigger: u32) -> u32 {
    match Trigger::from_number(trigger) {
        Some(Trigger::Fault | Trigger::Oops) => 11,
        Some(Trigger::Nmi) => 7,
        Some(Trigger::Request) => 5,
        Some(Trigger::Watchdog) => 14,
        Some(Trigger::Panic) | None => 6,
    }
}

fn prstatus(state: &CpuState, arch: Arch, signal: u32) -> Vec<u8> {
    let count = register_count(arch);
    // The registers are followed by pr_fpvalid, zero, and padding.
    let mut bytes = vec![0; REGISTERS + count * 8 + 8];
    bytes[CURSIG..CURSIG + 2].copy_from_slice(&(signal as u16).to_le_bytes());
    // Never 0, which debuggers take for "no thread".
    bytes[PID..PID + 4].copy_from_slice(&state.cpu.get().wrapping_add(1).to_le_bytes());
    for (slot, register) in bytes[REGISTERS..].chunks_exact_mut(8).zip(&state.general[..count]) {
        slot.copy_from_slice(&register.get().to_le_bytes());
    }
    bytes
}

/// Appends a note (ELF gABI, "Note Section"), padded to 4 bytes. Returns the range of its bytes.
fn push(notes: &mut Vec<u8>, name: &str, kind: u32, bytes: &[u8]) -> Range<usize> {
    for number in [name.len() as u32 + 1, bytes.len() as u32, kind] {
        notes.extend_from_slice(&number.to_le_bytes());
    }
    notes.extend_from_slice(name.as_bytes());
    notes.push(0);
    notes.resize(notes.len().next_multiple_of(4), 0);
    let place = notes.len()..notes.len() + bytes.len();
    notes.extend_from_slice(bytes);
    notes.resize(notes.len().next_multiple_of(4), 0);
    place
}

/// The notes of a core, one after another.
pub(super) struct Notes {
    pub(super) bytes: Vec<u8>,
    /// The range of VMCOREINFO's text in the bytes, if the dump has it.
    pub(super) vmcoreinfo: Option<Range<usize>>,
}

/// The CPUs that have notes, in order.
///
/// Debuggers select the first note, so the crashing CPU comes first, then the others in order. CPUs that did
/// not answer have no registers, and no note: zeros would look like a CPU at address 0. The facts name them.
///
/// For a Linux, `crash` takes the n-th note for the n-th CPU. So they are in order, without gaps.
fn cpus<'d>(dump: &'d Dump<'_>) -> Vec<&'d CpuState> {
    let facts = dump.facts();
    let crashing = facts.crashing(dump.found().header.crashing_cpu.get());
    if Vmcoreinfo::of(dump).is_some() {
        return facts.cpus.iter().collect();
    }
    let others = facts.cpus.iter().filter(|state| Some(state.cpu) != crashing.map(|state| state.cpu));
    let known = |state: &&CpuState| condition(state) != CpuCondition::Silent;
    crashing.into_iter().chain(others).filter(known).collect()
}

/// All notes of a core with the selected pages.
pub(super) fn notes(dump: &Dump<'_>, selection: &Selection) -> Notes {
    let facts = dump.facts();
    let mut notes = Vec::new();
    // Registers of an unknown architecture have no known order.
    if let Some(arch) = dump.arch() {
        for state in cpus(dump) {
            let crashed = condition(state) == CpuCondition::Crashing;
            let signal = if crashed { signal(dump.found().header.trigger.get()) } else { 0 };
            push(&mut notes, "CORE", NT_PRSTATUS, &prstatus(state, arch, signal));
        }
    }
    let mut vmcoreinfo = None;
    if !facts.vmcoreinfo.is_empty() {
        let place = push(&mut notes, "VMCOREINFO", 0, &facts.vmcoreinfo);
        vmcoreinfo = Some(place);
    }
    // A structure of numbers and texts: conversion to JSON cannot fail.
    let report = Report { core_level: selection.level().map(Level::bits), ..Report::new(dump) };
    let json = serde_json::to_vec(&report).unwrap_or_default();
    push(&mut notes, FACTS_NAME, FACTS_TYPE, &json);
    Notes { bytes: notes, vmcoreinfo }
}

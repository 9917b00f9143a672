//! Judges a dump: by savecore's report, by readelf, and by the machine that it was taken from.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dumpcore::format::{BLOCK_SIZE, PAGE_SIZE};
use serde_json::Value;

use super::case::{Case, Crashed, ensure, mib};
use crate::compare::{self, Compared, Core, Memory, Range, Saved};
use crate::debugger;
use crate::image::Disk;
use crate::machine::{Machine, Running};
use crate::savecore::Targets;

const PAGE: u64 = PAGE_SIZE as u64;

/// Crashes the machine, which must end with exit code `code` and leave the foreign parts of all its disks
/// unchanged.
pub(super) fn crash(case: &Case, machine: &Machine, name: &str, code: i32) -> Result<Crashed> {
    let before = foreign_parts(machine)?;
    let crashed = case.crash(machine, name, code)?;
    same_foreign_parts(machine, &before)?;
    Ok(crashed)
}

/// Fingerprints of the foreign parts of all disks.
pub(super) fn foreign_parts(machine: &Machine) -> Result<Vec<u128>> {
    machine.disks.iter().map(|attached| attached.disk.foreign_fingerprint()).collect()
}

/// Checks that the foreign parts are unchanged.
pub(super) fn same_foreign_parts(machine: &Machine, before: &[u128]) -> Result<()> {
    ensure(foreign_parts(machine)? == before, || {
        "blocks outside of the dump partition were changed".to_owned()
    })
}

/// The report of `savecore info` on the dumps on a disk; there must be `count`.
pub(super) fn info<T: Targets + ?Sized>(case: &Case, on: &T, count: usize) -> Result<Vec<Value>> {
    info_with(case, on, count, &[])
}

/// The same, with additional arguments for savecore.
pub(super) fn info_with<T: Targets + ?Sized>(
    case: &Case,
    on: &T,
    count: usize,
    more: &[&str],
) -> Result<Vec<Value>> {
    let answer = case.savecore.expect(0, "info", on, more)?;
    let dumps = answer.value.get("dumps").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure(dumps.len() == count, || {
        format!(
            "savecore info speaks of {} dumps instead of {count}; log: {}",
            dumps.len(),
            answer.log.display()
        )
    })?;
    Ok(dumps)
}

/// The report of `savecore info` on the only dump on a disk.
pub(super) fn only<T: Targets + ?Sized>(case: &Case, on: &T) -> Result<Value> {
    info(case, on, 1)?.pop().context("no dump")
}

/// A text in savecore's report on a dump.
pub(super) fn text<'a>(dump: &'a Value, key: &str) -> &'a str {
    dump.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A value in savecore's report on a dump, by its path such as `pages.data` or `metrics.passes.1.pages`.
fn value<'a>(dump: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(dump, |value, key| match key.parse::<usize>() {
        Ok(index) => value.get(index),
        Err(_) => value.get(key),
    })
}

/// A number in savecore's report on a dump, by its path.
pub(super) fn number(dump: &Value, path: &str) -> Result<u64> {
    value(dump, path).and_then(Value::as_u64).with_context(|| format!("savecore info does not say {path}"))
}

/// The same, for a number that need not be an integer.
pub(super) fn real(dump: &Value, path: &str) -> Result<f64> {
    value(dump, path).and_then(Value::as_f64).with_context(|| format!("savecore info does not say {path}"))
}

/// Checks that a text in savecore's report has this value.
pub(super) fn says(dump: &Value, key: &str, expected: &str) -> Result<()> {
    ensure(text(dump, key) == expected, || {
        format!("savecore says {key} is `{}` instead of `{expected}`", text(dump, key))
    })
}

/// Checks that a number in savecore's report has this value.
pub(super) fn counts(dump: &Value, path: &str, expected: u64) -> Result<()> {
    let found = number(dump, path)?;
    ensure(found == expected, || format!("savecore says {path} is {found} instead of {expected}"))
}

/// Checks that a dump is complete, and that only pages left out on purpose are missing.
pub(super) fn is_whole(dump: &Value) -> Result<()> {
    says(dump, "status", "complete")?;
    ensure(dump.get("whole") == Some(&Value::Bool(true)), || "savecore says the dump is not whole".to_owned())
}

/// Checks that readelf accepts a core, and that it contains the registers of this many CPUs.
pub(super) fn readable(case: &Case, core: &Path, cpus: usize) -> Result<()> {
    let text = debugger::readelf(core, &case.folder, case.left())?;
    let found = debugger::prstatus_notes(&text);
    ensure(found == cpus, || format!("the core has the registers of {found} CPUs instead of {cpus}"))
}

/// Harvests a complete dump and checks its core. Returns the core, and savecore's report.
pub(super) fn whole(case: &Case, disk: &Disk, cpus: usize) -> Result<(PathBuf, Value)> {
    let dump = only(case, disk)?;
    is_whole(&dump)?;
    counts(&dump, "cpu_count", cpus as u64)?;
    let (cores, _) = case.save(disk, "cores", 1)?;
    let core = cores.into_iter().next().context("no core")?;
    readable(case, &core, cpus)?;
    Ok((core, dump))
}

/// Harvests a dump that ended early and checks its core. Returns the core, and savecore's report.
pub(super) fn partial(case: &Case, disk: &Disk, status: &str, cpus: usize) -> Result<(PathBuf, Value)> {
    let dump = only(case, disk)?;
    says(&dump, "status", status)?;
    let data = number(&dump, "pages.data")?;
    ensure(data > 0, || "the dump holds not a page".to_owned())?;
    let (cores, _) = case.save(disk, "cores", 1)?;
    let core = cores.into_iter().next().context("no core")?;
    readable(case, &core, cpus)?;
    Ok((core, dump))
}

/// Facts of a complete dump, for its line.
pub(super) fn facts(core: &Path, dump: &Value) -> Result<String> {
    let covered = compare::bytes(&Core::open(core)?.covers());
    Ok(format!(
        "{} of RAM in the core, {} of it with data",
        mib(covered),
        mib(number(dump, "pages.data")? * BLOCK_SIZE as u64)
    ))
}

/// A machine that halted after its dump, with its memory saved by the emulator.
pub(super) struct Halted {
    /// Its output.
    pub(super) crashed: Crashed,
    /// savecore's report on the dump.
    pub(super) dump: Value,
    memory: Vec<Saved>,
    /// All RAM.
    ram: Vec<Range>,
    /// The dump's own arena.
    arena: Vec<Range>,
}

/// Runs a machine that is to print this line and halt after its dump; saves its memory. The memory map is
/// taken from the dump on these disks, read with these arguments for savecore.
pub(super) fn halt<T: Targets + ?Sized>(
    case: &Case,
    machine: &Machine,
    outcome: &str,
    on: &T,
    more: &[&str],
) -> Result<Halted> {
    let before = foreign_parts(machine)?;
    let mut running = machine.clone().word("reset=halt").start(&case.folder, "crash")?;
    running.wait_for(outcome, case.left())?;
    running.wait_for("testkernel: halted", case.left())?;
    // The machine has halted, with the whole dump on its disk.
    let halted = freeze(case, running, on, more)?;
    same_foreign_parts(machine, &before)?;
    Ok(halted)
}

/// Stops a machine that has dumped, saves its memory, and ends it.
fn freeze<T: Targets + ?Sized>(case: &Case, mut running: Running, on: &T, more: &[&str]) -> Result<Halted> {
    running.qmp.stop()?;
    let dump = info_with(case, on, 1, more)?.pop().context("no dump")?;
    let (memory, ram, arena) = take_memory(case, &mut running, &dump, "machine")?;
    let Running { serial, .. } = running;
    let crashed = Crashed { code: 0, serial };
    crashed.small_stack()?;
    Ok(Halted { crashed, dump, memory, ram, arena })
}

/// Saves the memory of a stopped machine, by the memory map in savecore's report; also returns all RAM, and
/// the arena.
pub(super) fn take_memory(
    case: &Case,
    running: &mut Running,
    dump: &Value,
    name: &str,
) -> Result<(Vec<Saved>, Vec<Range>, Vec<Range>)> {
    let (ram, arena) = memory_map(dump)?;
    let mut memory = Vec::new();
    for (number, range) in ram.iter().enumerate() {
        let path = case.folder.join(format!("{name}-{number}.memory"));
        running.qmp.pmemsave(range.start, range.end - range.start, &path)?;
        let file =
            File::open(&path).with_context(|| format!("QEMU did not save memory to {}", path.display()))?;
        memory.push(Saved { range: range.clone(), file });
    }
    Ok((memory, ram, arena))
}

/// All RAM, and the arena, from savecore's report.
fn memory_map(dump: &Value) -> Result<(Vec<Range>, Vec<Range>)> {
    let number = |range: &Value, key: &str| {
        let text = range.get(key)?.as_str()?.strip_prefix("0x")?;
        u64::from_str_radix(text, 16).ok()
    };
    let (mut ram, mut arena) = (Vec::new(), Vec::new());
    let ranges = dump.get("memory").and_then(Value::as_array);
    for range in ranges.context("savecore info has no memory map")? {
        let bytes = number(range, "start").context("a range without a start")?
            ..number(range, "end").context("a range without an end")?;
        if range.get("kind").is_some_and(|kind| kind == "arena") {
            arena.push(bytes.clone());
        }
        ram.push(bytes);
    }
    let (ram, arena) = (compare::union(ram), compare::union(arena));
    let bytes = compare::bytes(&arena);
    ensure((1..=1 << 20).contains(&bytes), || format!("savecore says the arena has {bytes} bytes"))?;
    Ok((ram, arena))
}

impl Halted {
    /// Compares a core of the dump with the machine: no byte may differ, and savecore must give a reason for
    /// everything that is missing.
    pub(super) fn equals(&self, core: &Path) -> Result<Compared> {
        self.equals_dump(core, &self.dump)
    }

    /// The same, for a core of another dump of the same crash.
    pub(super) fn equals_dump(&self, core: &Path, dump: &Value) -> Result<Compared> {
        let core = Core::open(core)?;
        let compared = compare::compare(&core, &self.memory, &self.arena)?;
        ensure(compared.different_pages == 0, || {
            format!(
                "{} pages of the core differ from the machine: {}",
                compared.different_pages,
                addresses(&compared)
            )
        })?;
        accounts(dump, &core)?;
        Ok(compared)
    }

    /// Page frames of RAM with the content that the kernel fills memory with (`fill.kind=random`).
    pub(super) fn filled(&self) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let mut page = [0; PAGE_SIZE];
        for range in &self.ram {
            for pfn in range.start / PAGE..range.end / PAGE {
                self.memory.read(pfn * PAGE, &mut page)?;
                if compare::is_filled(pfn, &page) {
                    found.insert(pfn);
                }
            }
        }
        Ok(found)
    }

    /// Size of RAM in bytes.
    pub(super) fn bytes(&self) -> u64 {
        compare::bytes(&self.ram)
    }

    /// Size of the dump's own arena in bytes.
    pub(super) fn arena_bytes(&self) -> u64 {
        compare::bytes(&self.arena)
    }
}

/// The pages that differ, for a message.
fn addresses(compared: &Compared) -> String {
    compared.different.iter().map(|page| format!("{page:#x}")).collect::<Vec<_>>().join(" ")
}

/// Compares a core with the current memory of a machine that has continued since: nearly all of it must be
/// equal. Returns the number of changed pages.
pub(super) fn nearly_equals(core: &Path, memory: &Vec<Saved>, arena: &[Range]) -> Result<u64> {
    /// Pages that a waiting kernel may change in a second: stacks, counters, its log.
    const MOST: u64 = 64;
    let compared = compare::compare(&Core::open(core)?, memory, arena)?;
    ensure(compared.different_pages <= MOST, || {
        format!(
            "{} pages of the core differ from the machine, more than {MOST}: {} …",
            compared.different_pages,
            addresses(&compared)
        )
    })?;
    Ok(compared.different_pages)
}

/// Checks that each page of RAM is in the core, or has a reason for missing.
pub(super) fn accounts(dump: &Value, core: &Core) -> Result<()> {
    const REASONS: [&str; 13] = [
        "arena",
        "cache",
        "cache_private",
        "user",
        "free",
        "not_kernel",
        "device",
        "sealed",
        "unreadable",
        "faulted",
        "damaged",
        "not_written",
        "absent",
    ];
    let covered = compare::bytes(&core.covers()) / PAGE;
    let mut accounted = covered;
    for reason in REASONS {
        accounted += number(dump, &format!("pages.{reason}"))?;
    }
    let total = number(dump, "pages.total")?;
    let known = number(dump, "pages.data")? + number(dump, "pages.zero")?;
    ensure(accounted == total && covered == known, || {
        format!(
            "the core covers {covered} pages, savecore knows {known}; with those left out {accounted} of {total}"
        )
    })
}

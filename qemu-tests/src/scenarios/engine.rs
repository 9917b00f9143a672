//! How a dump is made: compressed, checked while it is written, with the help of other CPUs, around bad
//! memory; and its own report.

use anyhow::{Context, Result};
use dumpcore::format::PAGE_SIZE;
use serde_json::Value;

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::{counts, crash, facts, halt, is_whole, number, only, real, says, text};
use crate::compare::Core;
use crate::image::Disk;
use crate::machine::{Fails, Machine};
use crate::serial;

/// Runs a machine that halts after a complete dump; its core must equal the machine's memory.
fn halts_whole(case: &Case, disk: &Disk, machine: &Machine) -> Result<Value> {
    let halted = halt(case, machine, "diskdump: complete", disk, &[])?;
    is_whole(&halted.dump)?;
    let (cores, _) = case.save(disk, "cores", 1)?;
    halted.equals(cores.first().context("no core")?)?;
    Ok(halted.dump)
}

pub(super) fn packed(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine = case
        .machine(&disk, "panic")
        .cpus(2)
        .memory(256)
        .word("fill=96")
        .word("fill.kind=text")
        .word("encoding=lz4");
    let dump = halts_whole(case, &disk, &machine)?;
    says(&dump, "encoding", "units")?;
    let blocks = number(&dump, "end_block")? - number(&dump, "first_block")?;
    let data = number(&dump, "pages.data")?;
    ensure(blocks * 2 < data, || format!("{data} pages take {blocks} blocks, more than half"))?;
    // Text alone shrinks to a third; page tables and noise do not.
    let ratio = real(&dump, "metrics.compression")?;
    ensure(ratio > 2.0, || format!("memory shrank {ratio:.2} to 1 only"))?;
    ensure(number(&dump, "metrics.packed_from")? == data * PAGE_SIZE as u64, || {
        "not all pages went through compression".to_owned()
    })?;
    Ok(format!("{data} pages in {blocks} blocks, {ratio:.2} to 1; no byte differs"))
}

pub(super) fn pipelined(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine = case
        .machine(&disk, "panic")
        .cpus(2)
        .memory(256)
        .word("fill=48")
        .word("verify=ahead")
        .word("encoding=plain")
        .word("helpers=0");
    let dump = halts_whole(case, &disk, &machine)?;
    says(&dump, "encoding", "plain")?;
    // Reads and writes both count as requests, and more than one was in flight at a time.
    let depth = number(&dump, "metrics.depth")?;
    ensure(depth > 1, || "no two requests were in flight together".to_owned())?;
    // Every block written had been read before.
    let blocks = number(&dump, "end_block")? - number(&dump, "first_block")?;
    let checked = number(&dump, "metrics.checked_blocks")?;
    ensure(checked >= blocks, || format!("{blocks} blocks were written, and only {checked} checked"))?;
    ensure(checked < disk.dump.blocks, || "all blocks were checked, not only those ahead".to_owned())?;
    counts(&dump, "metrics.units_by_helpers", 0)?;
    Ok(format!("{checked} blocks checked ahead of {blocks}, up to {depth} requests in flight"))
}

/// A dump with three helpers.
fn helped(case: &Case, disk: &Disk, scenario: &str) -> Machine {
    case.machine(disk, scenario).cpus(4).memory(256).word("fill=64").word("fill.kind=text").word("helpers=3")
}

pub(super) fn helpers(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let dump = halts_whole(case, &disk, &helped(case, &disk, "panic"))?;
    counts(&dump, "metrics.helpers", 3)?;
    counts(&dump, "metrics.helpers_lost", 0)?;
    let (units, by_helpers) = (number(&dump, "metrics.units")?, number(&dump, "metrics.units_by_helpers")?);
    ensure(by_helpers > 0, || "the helpers did nothing".to_owned())?;
    Ok(format!("3 CPUs did {by_helpers} of {units} units; no byte differs"))
}

pub(super) fn lost_helper(case: &Case, scenario: &str) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let dump = halts_whole(case, &disk, &helped(case, &disk, scenario).word("patience=300"))?;
    counts(&dump, "metrics.helpers", 3)?;
    counts(&dump, "metrics.helpers_lost", 1)?;
    let redone = number(&dump, "metrics.units_redone")?;
    ensure(redone > 0, || "no unit was done again".to_owned())?;
    let by_helpers = number(&dump, "metrics.units_by_helpers")?;
    Ok(format!("{redone} units done again, {by_helpers} by the helpers that were left; no byte differs"))
}

pub(super) fn bad_memory(case: &Case) -> Result<String> {
    const BAD: u64 = 5;
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let mut facts = Vec::new();
    for encoding in ["lz4", "plain"] {
        let machine = case
            .machine(&disk, "bad-memory")
            .cpus(4)
            .memory(128)
            .word("fill=32")
            .word(format!("bad.pages={BAD}"))
            .word(format!("encoding={encoding}"));
        let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
        let dump = &halted.dump;
        says(dump, "status", "complete")?;
        counts(dump, "pages.faulted", BAD)?;
        counts(dump, "pages.unreadable", 0)?;
        // Exactly the pages that the kernel made unreadable.
        let line = halted.crashed.said("testkernel: bad ")?;
        let first = serial::number(line, "first").context("the kernel does not say which pages are bad")?;
        let missing = dump.get("missing").and_then(Value::as_array).cloned().unwrap_or_default();
        let start = format!("{:#x}", first * PAGE_SIZE as u64);
        ensure(
            missing.len() == 1
                && missing.iter().all(|range| {
                    text(range, "start") == start
                        && text(range, "why") == "faulted"
                        && range.get("pages") == Some(&Value::from(BAD))
                }),
            || format!("savecore says {missing:?} is missing instead of {BAD} pages from {start} on"),
        )?;
        let (cores, _) = case.save(&disk, &format!("cores-{encoding}"), 1)?;
        let compared = halted.equals(cores.first().context("no core")?)?;
        facts.push(format!("{encoding}: {} equal", mib(compared.bytes)));
    }
    Ok(format!("{BAD} pages faulted, all else is there; {}", facts.join(", ")))
}

pub(super) fn metrics(case: &Case) -> Result<String> {
    let (bad, good) = (case.formatted("bad", USUAL_BLOCKS)?, case.formatted("good", 2 * USUAL_BLOCKS)?);
    let machine = case
        .machine(&bad, "panic")
        .fails(Fails::WritesTo(bad.dump.first + 2000))
        .disk(&good)
        .cpus(4)
        .memory(256)
        .word("fill=64")
        .word("fill.kind=text")
        .word("helpers=3");
    let crashed = crash(case, &machine, "crash", exit::COMPLETE)?;
    let dump = only(case, &good)?;
    is_whole(&dump)?;
    let list = |path: &str| {
        let found = dump.pointer(path).and_then(Value::as_array).cloned();
        found.with_context(|| format!("savecore info does not say {path}"))
    };
    // All phases are present, took time if they had work, and together took no longer than the whole dump.
    let phases = list("/metrics/phases")?;
    let names: Vec<&str> = phases.iter().map(|phase| text(phase, "name")).collect();
    ensure(names == dumpcore::format::metrics::PHASES, || format!("the phases are {names:?}"))?;
    let took = phases.iter().map(|phase| real(phase, "seconds")).sum::<Result<f64>>()?;
    let elapsed = real(&dump, "elapsed_seconds")?;
    ensure(took > 0.0 && took <= elapsed * 1.01, || {
        format!("the phases took {took:.3} s of a dump's {elapsed:.3} s")
    })?;
    for worked in ["pattern check", "memory"] {
        let phase = phases.iter().find(|phase| text(phase, "name") == worked).context("no such phase")?;
        ensure(real(phase, "seconds")? > 0.0, || format!("phase {worked} took no time"))?;
    }
    // The passes cover all RAM, and all that was written.
    let passes = list("/metrics/passes")?;
    let sum = |key: &str| passes.iter().map(|pass| number(pass, key)).sum::<Result<u64>>();
    let (pages, bytes) = (sum("pages")?, sum("bytes")?);
    counts(&dump, "pages.total", pages)?;
    let blocks = number(&dump, "end_block")? - number(&dump, "first_block")?;
    ensure(bytes == (blocks - 2) * PAGE_SIZE as u64, || {
        format!("the passes wrote {bytes} bytes, and the dump has {blocks} blocks with two headers")
    })?;
    for (kind, all) in [("data", "data_pages"), ("zero", "zero_pages")] {
        counts(&dump, &format!("metrics.pages.{kind}"), number(&dump, &format!("pages.{kind}"))?)
            .with_context(|| all.to_owned())?;
    }
    // The first target, and the reason for its failure.
    counts(&dump, "metrics.target", 1)?;
    counts(&dump, "metrics.refusals", 1)?;
    counts(&dump, "metrics.refused.0.target", 0)?;
    let refused = dump.pointer("/metrics/refused/0").context("no refusal is told of")?;
    ensure(refused.get("begun") == Some(&Value::Bool(true)), || "nothing was begun on the first".to_owned())?;
    let why = text(refused, "why");
    crashed.said(why)?;
    ensure(!why.is_empty(), || "no reason is told of".to_owned())?;
    // The same in the human-readable output.
    let told = case.savecore.tell("info", &good, &[])?;
    for part in ["pattern check ", "the rest: ", " to 1", "3 other CPUs did ", "target 2, at most ", why] {
        ensure(told.contains(part), || format!("savecore info does not tell `{part}`: {told}"))?;
    }
    // The dump on the first target is closed, and reports no targets before it. Phases before both attempts
    // are equal in both.
    let first = only(case, &bad)?;
    counts(&first, "metrics.refusals", 0)?;
    for phase in ["metrics.phases.0.seconds", "metrics.phases.1.seconds"] {
        let (ours, theirs) = (real(&dump, phase)?, real(&first, phase)?);
        ensure(ours == theirs, || {
            format!("{phase} is {ours:.6} of the second dump, and {theirs:.6} of the first")
        })?;
    }
    let (cores, _) = case.save(&good, "cores", 1)?;
    let core = cores.first().context("no core")?;
    ensure(!Core::open(core)?.covers().is_empty(), || "the core is empty".to_owned())?;
    Ok(format!("{took:.2} of {elapsed:.2} s in phases; refused: {why}; {}", facts(core, &dump)?))
}

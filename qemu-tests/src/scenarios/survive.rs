//! Dumps of kernels that continue: snapshots, survived faults, the NMI button, the watchdog, a second crash.

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{Case, Crashed, USUAL_BLOCKS, ensure, exit};
use super::judge::{
    crash, foreign_parts, info, is_whole, nearly_equals, number, readable, same_foreign_parts, says,
    take_memory, whole,
};
use crate::image::Disk;
use crate::machine::Machine;
use crate::serial;

/// Checks the number of CPUs that the kernel reports as resumed, each time.
fn all_went_on(crashed: &Crashed, times: usize, cpus: u64) -> Result<()> {
    let lines = crashed.serial.lines().iter().filter(|line| line.text.contains("testkernel: resumed "));
    let counts: Vec<Option<u64>> = lines.map(|line| serial::number(&line.text, "cpus")).collect();
    ensure(counts == vec![Some(cpus); times], || {
        format!("after {times} dumps of {cpus} CPUs went on: {counts:?}")
    })
}

/// Checks that the dumps are contiguous, from the first block on.
fn in_a_row(dumps: &[Value]) -> Result<()> {
    let mut end = 1;
    for dump in dumps {
        let first = number(dump, "first_block")?;
        ensure(first == end, || format!("a dump begins at block {first} instead of {end}"))?;
        end = number(dump, "end_block")?;
    }
    Ok(())
}

pub(super) fn snapshot(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine =
        case.machine(&disk, "snapshot").cpus(4).memory(128).word("fill=24").word("cpu=2").word("dumps=2");
    let before = foreign_parts(&machine)?;
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("testkernel: resumed", case.left())?;
    // Between the first dump and the end of the second: the current disk and memory.
    running.qmp.stop()?;
    let first =
        info(case, &disk, 1).or_else(|_| info(case, &disk, 2))?.into_iter().next().context("no dump")?;
    let (memory, _, arena) = take_memory(case, &mut running, &first, "live")?;
    let then = disk.copy(&case.folder.join("first.raw"))?;
    running.qmp.go_on()?;
    let crashed = case.end(running, exit::COMPLETE)?;
    same_foreign_parts(&machine, &before)?;
    all_went_on(&crashed, 2, 4)?;

    let dumps = info(case, &disk, 2)?;
    in_a_row(&dumps)?;
    for dump in &dumps {
        is_whole(dump)?;
        says(dump, "trigger", "request")?;
    }
    let blocks = number(&first, "first_block")?..number(&first, "end_block")?;
    ensure(disk.same_blocks(&then, blocks)?, || "the second dump changed the first".to_owned())?;
    let (cores, _) = case.save(&disk, "cores", 2)?;
    let mut changed = Vec::new();
    for core in &cores {
        readable(case, core, 4)?;
        changed.push(nearly_equals(core, &memory, &arena)?.to_string());
    }
    Ok(format!(
        "two dumps, 4 CPUs went on after each; {} pages differ from memory in between",
        changed.join(" and ")
    ))
}

/// A kernel that dumps once and continues.
fn goes_on(case: &Case, disk: &Disk, crashed: &Crashed, trigger: &str) -> Result<String> {
    all_went_on(crashed, 1, 2)?;
    let (_, dump) = whole(case, disk, 2)?;
    says(&dump, "trigger", trigger)?;
    Ok(dump.get("message").and_then(Value::as_str).unwrap_or_default().to_owned())
}

pub(super) fn oops(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "oops").cpus(2).word("cpu=1");
    let crashed = crash(case, &machine, "crash", exit::COMPLETE)?;
    goes_on(case, &disk, &crashed, "oops")
}

/// Presses the NMI button of a machine when it has printed this, and waits for its end.
fn press(case: &Case, machine: &Machine, name: &str, when: &str) -> Result<Crashed> {
    let before = foreign_parts(machine)?;
    let mut running = machine.start(&case.folder, name)?;
    running.wait_for(when, case.left())?;
    running.qmp.inject_nmi()?;
    let crashed = case.end(running, exit::COMPLETE)?;
    crashed.small_stack()?;
    crashed.never_said("crashed itself")?;
    same_foreign_parts(machine, &before)?;
    Ok(crashed)
}

pub(super) fn nmi(case: &Case) -> Result<String> {
    const READY: &str = "testkernel: waiting for nmi";
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "nmi").cpus(2);
    press(case, &machine, "crash", READY)?;
    let (_, dump) = whole(case, &disk, 2)?;
    says(&dump, "trigger", "nmi")?;
    let crashed = press(case, &machine.word("nmi=snapshot"), "snapshot", READY)?;
    goes_on(case, &disk, &crashed, "nmi")?;
    // Slow enough to be interrupted in the middle of a dump with another cause.
    let machine = case
        .machine(&disk, "panic")
        .drive("throttling.bps-write=8388608")
        .cpus(2)
        .word("fill=16")
        .word("verify=ahead");
    press(case, &machine, "meanwhile", "diskdump: dumped")?;
    let (_, dump) = whole(case, &disk, 2)?;
    says(&dump, "trigger", "panic")?;
    Ok("taken for a crash, and for a snapshot; ignored in the middle of a dump".to_owned())
}

pub(super) fn watchdog(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // The dump takes several times as long as the watchdog's timeout.
    let machine = case
        .machine(&disk, "watchdog")
        .drive("throttling.bps-write=8388608")
        .watchdog()
        .cpus(2)
        .word("watchdog=1000")
        .word("fill=24")
        .word("verify=ahead");
    let crashed = crash(case, &machine, "crash", exit::COMPLETE)?;
    crashed.said("testkernel: the watchdog kept quiet")?;
    crashed.never_said("crashed itself")?;
    let (_, dump) = whole(case, &disk, 2)?;
    says(&dump, "trigger", "watchdog")?;
    let seconds = super::judge::real(&dump, "elapsed_seconds")?;
    ensure(seconds > 2.0, || format!("the dump took only {seconds:.1} s, so nothing was proved"))?;
    Ok(format!("bit once after 1 s; quiet through a dump of {seconds:.1} s"))
}

pub(super) fn two_crashes(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "two-crashes").cpus(2).memory(128).word("fill=8");
    let before = foreign_parts(&machine)?;
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("testkernel: outcome complete", case.left())?;
    running.qmp.stop()?;
    let then = disk.copy(&case.folder.join("first.raw"))?;
    running.qmp.go_on()?;
    case.end(running, exit::COMPLETE)?;
    same_foreign_parts(&machine, &before)?;
    let dumps = info(case, &disk, 2)?;
    in_a_row(&dumps)?;
    for dump in &dumps {
        is_whole(dump)?;
        says(dump, "trigger", "panic")?;
    }
    let first = dumps.first().context("no dump")?;
    let blocks = number(first, "first_block")?..number(first, "end_block")?;
    ensure(disk.same_blocks(&then, blocks.clone())?, || "the second dump changed the first".to_owned())?;
    let (cores, _) = case.save(&disk, "cores", 2)?;
    for core in &cores {
        readable(case, core, 2)?;
    }
    Ok(format!("blocks {} to {} unchanged by the second; both saved", blocks.start, blocks.end - 1))
}

pub(super) fn interrupt(case: &Case) -> Result<String> {
    let mut machine = case.machine_without("interrupt").cpus(2);
    machine.arguments.extend(["-device", "edu"]);
    let crashed = case.crash(&machine, "raised", exit::COMPLETE)?;
    Ok(crashed.said("interrupts arrived")?.trim_start_matches("testkernel: ").to_owned())
}

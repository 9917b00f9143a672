//! Several disks: fail-over to the next, striping over all, and none left.

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::{
    counts, crash, foreign_parts, halt, info, is_whole, number, only, partial, same_foreign_parts, says,
    text, whole,
};
use crate::bed::disk_id;
use crate::machine::Fails;

/// The block of the partition that cannot be written: a third into the blocks to be written.
const SPOT: u64 = 3000;

pub(super) fn io_error(case: &Case) -> Result<String> {
    let (bad, good) = (case.formatted("bad", USUAL_BLOCKS)?, case.formatted("good", USUAL_BLOCKS)?);
    let machine = case
        .machine(&bad, "panic")
        .fails(Fails::WritesTo(bad.dump.first + SPOT))
        .disk(&good)
        .cpus(2)
        .memory(128)
        .word("fill=32");
    let halted = halt(case, &machine, "diskdump: complete", &good, &[])?;
    halted.crashed.said("diskdump: incomplete: ")?;
    is_whole(&halted.dump)?;
    counts(&halted.dump, "metrics.target", 1)?;
    let (cores, _) = case.save(&good, "cores-good", 1)?;
    halted.equals(cores.first().context("no core")?)?;
    // The dump on the first disk is closed, gives the reason, and is valid as far as it goes.
    let (core, first) = partial(case, &bad, "incomplete", 2)?;
    says(&first, "reason", "the device failed")?;
    let compared = halted.equals_dump(&core, &first)?;
    ensure(compared.bytes > 4 << 20, || format!("the first dump has only {} bytes", compared.bytes))?;
    // Only the chunk with the bad block is lost.
    let damage = first.get("damage").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure(damage.len() == 1 && damage.iter().all(|damage| text(damage, "what") == "not written"), || {
        format!("more than one chunk is lost: {damage:?}")
    })?;
    let lost = damage.first().context("nothing is lost")?;
    let first_lost = number(lost, "block")?;
    ensure((first_lost..first_lost + number(lost, "count")?).contains(&SPOT), || {
        format!("not block {SPOT} is lost, but {lost}")
    })?;
    let why = halted.dump.pointer("/metrics/refused/0").map_or("", |refused| text(refused, "why")).to_owned();
    Ok(format!("first: closed with {} equal; second: complete, no byte differs; {why}", mib(compared.bytes)))
}

pub(super) fn unplugged(case: &Case) -> Result<String> {
    let (first, second) =
        (case.formatted("first", 2 * USUAL_BLOCKS)?, case.formatted("second", 2 * USUAL_BLOCKS)?);
    // Slow enough to be interrupted in the middle. QEMU's `pc` machine supports unplugging.
    let machine = case
        .machine(&first, "unplug")
        .pulled()
        .drive("throttling.bps-write=8388608")
        .disk(&second)
        .kind("pc")
        .cpus(2)
        .memory(256)
        .word("fill=64")
        .word("verify=ahead")
        .word("timeout=3000");
    let before = foreign_parts(&machine)?;
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("diskdump: dumped", case.left())?;
    running.qmp.device_del(&disk_id(0))?;
    case.end(running, exit::COMPLETE)?;
    same_foreign_parts(&machine, &before)?;
    let (_, dump) = whole(case, &second, 2)?;
    counts(&dump, "metrics.target", 1)?;
    counts(&dump, "metrics.refusals", 1)?;
    let why = dump.pointer("/metrics/refused/0").map_or("", |refused| text(refused, "why")).to_owned();
    // The first one could not be closed, and is readable nevertheless.
    let (_, begun) = partial(case, &first, "unfinished", 2)?;
    let pages = number(&begun, "pages.data")?;
    Ok(format!("second: complete; first: unfinished, {pages} pages read; {why}"))
}

pub(super) fn all_fail(case: &Case) -> Result<String> {
    let label = case.formatted("label", USUAL_BLOCKS)?;
    let pattern = case.formatted("pattern", USUAL_BLOCKS)?;
    let write = case.formatted("write", USUAL_BLOCKS)?;
    let two = case.and_unlooked(case.unlooked(&label, "panic")?, &pattern)?;
    let three = case.and_unlooked(two.clone(), &write)?.fails(Fails::EveryWrite);
    label.flip(0, 1234)?;
    pattern.flip(77, 20_011)?;
    let images = [&label, &pattern, &write];
    let fingerprints = || images.iter().map(|disk| disk.fingerprint()).collect::<Result<Vec<_>>>();
    let before = fingerprints()?;
    let reasons = [
        "target 0: refused: block 0 is not a label (its checksum",
        "target 1: refused: block 77 does not hold its pattern",
    ];
    for (machine, name, code) in [(&two, "two", exit::REFUSED), (&three, "three", exit::UNCLOSED)] {
        let crashed = case.crash(machine, name, code)?;
        for reason in reasons {
            crashed.said(reason)?;
        }
        crashed.never_said("diskdump: complete")?;
        if name == "three" {
            crashed.said("headers could not be closed")?;
        }
        ensure(fingerprints()? == before, || "a disk was changed where no dump is".to_owned())?;
    }
    Ok("each disk's reason on the console; no image changed".to_owned())
}

pub(super) fn striped(case: &Case) -> Result<String> {
    let (one, two) = (case.formatted("one", USUAL_BLOCKS)?, case.formatted("two", USUAL_BLOCKS)?);
    let both = &[&one, &two][..];
    // More noise than fits on one disk.
    let machine = case.machine(&one, "panic").disk(&two).cpus(2).memory(256).word("fill=64").word("stripe=1");
    let halted = halt(case, &machine, "diskdump: complete", both, &[])?;
    is_whole(&halted.dump)?;
    counts(&halted.dump, "stripes", 2)?;
    let mut chunks = Vec::new();
    for disk in both {
        // One stripe alone: closed, but incomplete, because the other is missing.
        let dump = only(case, *disk)?;
        says(&dump, "status", "complete")?;
        ensure(dump.get("whole") == Some(&false.into()), || "half a dump passes for whole".to_owned())?;
        let missing = dump.get("missing_stripes").and_then(|list| list.as_array()).map_or(0, Vec::len);
        ensure(missing == 1, || format!("{missing} stripes are said to be missing"))?;
        chunks.push(number(&dump, "chunks")?);
    }
    ensure(chunks.iter().max() <= chunks.iter().min().map(|least| least + 1).as_ref(), || {
        format!("the disks have {chunks:?} chunks")
    })?;
    let (cores, _) = case.savecore.save_from(both, &case.folder.join("cores"), &[])?;
    ensure(cores.len() == 1, || format!("{} cores were saved", cores.len()))?;
    let compared = halted.equals(cores.first().context("no core")?)?;
    for disk in both {
        case.check_ready(disk)?;
    }
    Ok(format!("{} and {} chunks, one core of {} equal bytes", chunks[0], chunks[1], compared.bytes))
}

pub(super) fn risky(case: &Case) -> Result<String> {
    let (asleep, awake) = (case.formatted("asleep", USUAL_BLOCKS)?, case.formatted("awake", USUAL_BLOCKS)?);
    let before = asleep.fingerprint()?;
    let risky = case.machine(&asleep, "panic").cpus(2).memory(128).word("asleep=0");
    let reason = "the disk looks risky: ";
    // If another disk is left, it is not touched ...
    let crashed = crash(case, &risky.clone().disk(&awake), "two", exit::COMPLETE)?;
    let why = crashed.said(reason)?.trim_start_matches("diskdump: ").to_owned();
    ensure(asleep.fingerprint()? == before, || "the risky disk was written".to_owned())?;
    let (_, dump) = whole(case, &awake, 2)?;
    counts(&dump, "metrics.target", 1)?;
    // ... nor if it is forbidden ...
    let crashed = crash(case, &risky.clone().word("risky=0"), "forbidden", exit::REFUSED)?;
    crashed.said("the disk is risky, which is not allowed")?;
    ensure(asleep.fingerprint()? == before, || "the risky disk was written".to_owned())?;
    // ... but it is better than none.
    crash(case, &risky.word("risky=1"), "allowed", exit::COMPLETE)?;
    is_whole(info(case, &asleep, 1)?.first().context("no dump")?)?;
    Ok(format!("{why}; only used when no other is left, and if that is allowed"))
}

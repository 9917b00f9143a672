//! What must not be written, and is not: after each crash the whole disk image is, bit by bit, what it was.

use anyhow::Result;

use super::case::{Case, Crashed, USUAL_BLOCKS, ensure, exit};
use crate::bed::disk_id;
use crate::image::Disk;
use crate::machine::Machine;

/// Crashes the machine, which must end with one of these exit codes and say why, and must leave the disk as it was.
pub(super) fn refused(
    case: &Case,
    disk: &Disk,
    machine: &Machine,
    codes: &[i32],
    reason: &str,
) -> Result<Crashed> {
    judged(disk, codes, reason, || case.crash_any(machine, "refused"))
}

/// The same, for a crash that needs more than a machine left alone.
fn judged(
    disk: &Disk,
    codes: &[i32],
    reason: &str,
    crash: impl FnOnce() -> Result<Crashed>,
) -> Result<Crashed> {
    let before = disk.fingerprint()?;
    let crashed = crash()?;
    let after = disk.fingerprint()?;
    // The worst first.
    ensure(before == after, || {
        format!("the disk image was changed by a dump that had to be refused ({before:#x} became {after:#x})")
    })?;
    ensure(codes.contains(&crashed.code), || {
        format!(
            "the machine ended with exit code {}, none of {codes:?}; its last line: `{}`; log: {}",
            crashed.code,
            crashed.serial.last(),
            crashed.serial.path().display()
        )
    })?;
    let line = crashed.said(reason)?;
    ensure(line.contains("refused") || line.contains("crashed itself"), || {
        format!("the guest said `{line}`, which does not say that it refused")
    })?;
    Ok(crashed)
}

/// The facts of a refusal: its reason, as the guest said it.
pub(super) fn facts(crashed: &Crashed, reason: &str) -> Result<String> {
    let line = crashed.said(reason)?;
    let said = line.trim_start_matches("diskdump: ").trim_start_matches("testkernel: ");
    Ok(format!("image unchanged; {said}"))
}

pub(super) fn unformatted(case: &Case) -> Result<String> {
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    let reason = "block 0 is not a label";
    // As healthy arming finds it ...
    let machine = case.machine(&disk, "panic");
    refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?;
    // ... and as the crash does, where arming was not allowed to look.
    let machine = machine.word("disk.shared").word(format!("disk.uuid={}", "5a".repeat(16)));
    facts(&refused(case, &disk, &machine, &[exit::REFUSED], reason)?, reason)
}

pub(super) fn pattern(case: &Case, which: fn(u64) -> u64) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.unlooked(&disk, "panic")?;
    let block = which(disk.dump.blocks);
    disk.flip(block, 20_011)?;
    let reason = format!("block {block} does not hold its pattern");
    facts(&refused(case, &disk, &machine, &[exit::REFUSED], &reason)?, &reason)
}

pub(super) fn label_damaged(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.unlooked(&disk, "panic")?;
    disk.flip(0, 1234)?;
    let reason = "block 0 is not a label (its checksum";
    facts(&refused(case, &disk, &machine, &[exit::REFUSED], reason)?, reason)
}

pub(super) fn label_of_another_disk(case: &Case) -> Result<String> {
    let ours = case.formatted("ours", USUAL_BLOCKS)?;
    let other = case.formatted("other", USUAL_BLOCKS)?;
    // Armed for one disk, crashed with the other in its place.
    let armed = case.unlooked(&ours, "panic")?;
    let found = armed.clone().exchange(&other);
    let reason = "the label is of another partition";
    let crashed = refused(case, &other, &found, &[exit::REFUSED], reason)?;
    let facts = facts(&crashed, reason)?;
    // This disk's label over the other disk's pattern, as after a bad copy.
    let label = ours.read(0)?;
    other.write(0, &label)?;
    let found = armed.exchange(&other);
    refused(case, &other, &found, &[exit::REFUSED], "block 1 does not hold its pattern")?;
    Ok(facts)
}

pub(super) fn larger_than_disk(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.unlooked(&disk, "panic")?;
    disk.truncate(USUAL_BLOCKS / 2)?;
    let reason = "the partition ends at block";
    facts(&refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?, reason)
}

pub(super) fn by_kernel(case: &Case, scenario: &str, reason: &str) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, scenario);
    let crashed = refused(case, &disk, &machine, &[exit::REFUSED], reason)?;
    case.check_ready(&disk)?;
    facts(&crashed, reason)
}

pub(super) fn device_gone(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // Unplugging as QEMU's machine `pc` does it; the test kernel knows how to agree.
    let machine = case.machine(&disk, "device-gone").pulled().kind("pc");
    let reason = "the device is gone";
    let crashed = judged(&disk, &[exit::REFUSED], reason, || {
        let mut running = machine.start(&case.folder, "refused")?;
        running.wait_for("testkernel: waiting for unplug", case.left())?;
        running.qmp.device_del(&disk_id(0))?;
        let code = running.wait_exit(case.left())?;
        Ok(Crashed { code, serial: running.serial })
    })?;
    case.check_ready(&disk)?;
    facts(&crashed, reason)
}

pub(super) fn device_stuck(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // A byte a second: what is over the first burst will be done in hours.
    let machine = case
        .unlooked(&disk, "panic")?
        .drive("throttling.bps-total=1")
        .word("timeout=1000")
        .word("budget=20000");
    let reason = "did not happen within";
    let begin = std::time::Instant::now();
    let crashed = refused(case, &disk, &machine, &[exit::REFUSED], reason)?;
    let took = begin.elapsed().as_secs_f32();
    ensure(took < 30.0, || format!("it took {took:.1} s to give up, with a budget of 20 s"))?;
    facts(&crashed, reason)
}

pub(super) fn nested_before_write(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "nested-before-write");
    let reason = "crashed itself while";
    let crashed = refused(case, &disk, &machine, &[exit::NESTED], reason)?;
    case.check_ready(&disk)?;
    facts(&crashed, reason)
}

pub(super) fn no_entropy(case: &Case) -> Result<String> {
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    case.savecore.format_for(&disk, &case.savecore.keygen("secret.key")?)?;
    // QEMU's usual CPU cannot make random numbers.
    let machine = case.machine(&disk, "panic");
    let reason = "no entropy";
    let crashed = refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?;
    case.check_ready(&disk)?;
    facts(&crashed, reason)
}

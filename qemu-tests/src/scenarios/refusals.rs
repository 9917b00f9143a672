//! Data that must not be overwritten: after each crash the whole disk image is unchanged, bit by bit.

use anyhow::Result;

use super::case::{Case, Crashed, USUAL_BLOCKS, ensure, exit};
use crate::bed::disk_id;
use crate::image::Disk;
use crate::machine::Machine;

/// Crashes the machine, which must end with one of these exit codes, print the reason, and leave the disk
/// unchanged.
pub(super) fn refused(
    case: &Case,
    disk: &Disk,
    machine: &Machine,
    codes: &[i32],
    reason: &str,
) -> Result<Crashed> {
    judged(disk, codes, reason, || case.crash_any(machine, "refused"))
}

/// The same, for a crash that needs interaction with the machine.
fn judged(
    disk: &Disk,
    codes: &[i32],
    reason: &str,
    crash: impl FnOnce() -> Result<Crashed>,
) -> Result<Crashed> {
    let before = disk.fingerprint()?;
    let crashed = crash()?;
    let after = disk.fingerprint()?;
    // Most important first.
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

/// The facts of a refusal: its reason, as printed by the guest.
pub(super) fn facts(crashed: &Crashed, reason: &str) -> Result<String> {
    let line = crashed.said(reason)?;
    let said = line.trim_start_matches("diskdump: ").trim_start_matches("testkernel: ");
    Ok(format!("image unchanged; {said}"))
}

pub(super) fn unformatted(case: &Case) -> Result<String> {
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    let reason = "block 0 is not a label";
    // Found by arming on an unused disk ...
    let machine = case.machine(&disk, "panic");
    refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?;
    // ... and by the crash, if arming was not allowed to read the disk.
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
    // This disk's label over the other disk's pattern, as after a faulty copy.
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
    // QEMU's `pc` machine supports unplugging; the test kernel knows how to agree.
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
    // One byte per second: everything after the first burst would take hours.
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
    // QEMU's default CPU has no random numbers.
    let machine = case.machine(&disk, "panic");
    let reason = "no entropy";
    let crashed = refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?;
    case.check_ready(&disk)?;
    facts(&crashed, reason)
}

//! The disk is taken over from a driver that was using it at the crash.

use anyhow::{Context, Result};

use super::case::{Case, Crashed, USUAL_BLOCKS, ensure, exit};
use super::judge::{facts, whole};
use super::refusals;
use crate::bed::{Bed, DEVICES, Device};
use crate::image::Disk;
use crate::machine::Machine;
use crate::serial;

/// The scenario that needs a normal driver in the test kernel.
pub(super) const TAKEOVER: &str = "takeover";

/// The test kernel's normal driver for a device (`live.on=`), or why there is none.
fn normal_driver(device: &Device) -> Result<&'static str, &'static str> {
    match device.driver {
        "virtio-blk" => Ok("virtio"),
        "ahci" => Ok("ahci"),
        "nvme" => Ok("nvme"),
        _ => Err("the test kernel has no normal driver for it, only the one that dumps"),
    }
}

/// Why a takeover is impossible on a bed.
pub(super) fn impossible(bed: Bed) -> Option<&'static str> {
    normal_driver(bed.device).err()
}

pub(super) fn takeover(case: &Case) -> Result<String> {
    let driver = normal_driver(case.bed.device).map_err(anyhow::Error::msg)?;
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // The boot CPU runs the driver, and another one crashes.
    let machine = machine(case, &disk, driver)?.word("cpu=1");
    taken_over(case, &disk, &machine, "panics, as the command line asks")
}

pub(super) fn old_style(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = dumping_itself(machine(case, &disk, "nvme")?)?.word("cpu=1");
    taken_over(case, &disk, &machine, "panics, as the command line asks")
}

pub(super) fn lock_held(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = dumping_itself(machine(case, &disk, "nvme")?)?.word("live.locked");
    taken_over(case, &disk, &machine, "panics with the driver's lock held")
}

pub(super) fn late(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // One byte per second: everything after the first burst would take hours.
    let machine = case.unlooked(&disk, "panic")?.drive("throttling.bps-total=1").word("timeout=1000");
    let machine = dumping_itself(machine)?.word("budget=20000");
    let reason = "as its timer says";
    let crashed = refusals::refused(case, &disk, &machine, &[exit::REFUSED], reason)?;
    refusals::facts(&crashed, reason)
}

/// The machine with NVMe disks, whose normal driver is also the one that dumps.
fn dumping_itself(mut machine: Machine) -> Result<Machine> {
    let nvme = DEVICES.iter().find(|device| device.name == "nvme");
    machine.bed.device = nvme.context("the matrix has no NVMe")?;
    Ok(machine.word("disk.on=nvme-2004"))
}

/// A machine whose normal driver reads and writes the partition after ours, throttled so that requests are in
/// flight at the crash.
fn machine(case: &Case, disk: &Disk, driver: &str) -> Result<Machine> {
    let live = disk.foreign_after();
    Ok(case
        .unlooked(disk, "shared-live")?
        .cpus(2)
        .memory(256)
        .word(format!("live.on={driver}"))
        .word(format!("live.first={}", live.first))
        .word(format!("live.blocks={}", live.blocks))
        .drive("throttling.bps-read=25165824")
        .drive("throttling.bps-write=12582912"))
}

fn taken_over(case: &Case, disk: &Disk, machine: &Machine, message: &str) -> Result<String> {
    let before = disk.rest_fingerprint()?;
    let crashed = case.crash(machine, "crash", exit::COMPLETE)?;
    ensure(disk.rest_fingerprint()? == before, || {
        "blocks outside of the dump partition and the live driver's were changed".to_owned()
    })?;
    // Each of the live driver's blocks is unchanged or written by it; none has a byte of the dump.
    let spoiled = disk.spoiled(b'L')?;
    ensure(spoiled.is_empty(), || format!("blocks of the live driver hold something else: {spoiled:?}"))?;
    let busy = busy(&crashed)?;
    let (core, dump) = whole(case, disk, 2)?;
    let said = super::judge::text(&dump, "message");
    ensure(said.contains(message), || format!("savecore says the message was `{said}`"))?;
    Ok(format!("{busy}; {}", facts(&core, &dump)?))
}

/// The driver's load at the crash; fails unless reads and writes were in flight and interrupts had arrived.
fn busy(crashed: &Crashed) -> Result<String> {
    let line = crashed.said("testkernel: live driver=")?;
    let number = |name: &str| {
        serial::number(line, name).with_context(|| format!("the guest does not say {name}: {line}"))
    };
    let (reads, writes, interrupts) =
        (number("in_flight_reads")?, number("in_flight_writes")?, number("interrupts")?);
    ensure(reads > 0 && writes > 0, || format!("not both ways were in flight: {line}"))?;
    ensure(interrupts > 0, || format!("the driver took no interrupt: {line}"))?;
    Ok(format!("{reads} reads and {writes} writes in flight, {interrupts} interrupts before"))
}

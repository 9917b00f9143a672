//! Creates, starts and follows the guest of a row.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Lab, Row};
use crate::bed::{Bed, X86_64};
use crate::image::Disk;
use crate::linux::guest::{Guest, LOAD};
use crate::machine::{Machine, Running};
use crate::serial::{Line, Serial};

/// Script functions for diskdump.ko.
pub(crate) const ARM: &str = include_str!("../arm.sh");

/// MiB of RAM.
pub(super) const MEMORY: u32 = 384;

/// Size of the dump partition in blocks: all memory fits, compressed.
const BLOCKS: u64 = 256 << 8;

/// Any guest that takes longer hangs: under TCG, with another one running.
pub(super) const LIMIT: Duration = Duration::from_secs(150);

/// The line that announces the crash of an armed guest.
pub(super) const CRASHES: &str = "linux: crashes now";

/// Finds the disk, and starts the load before arming.
pub(super) const BEFORE: &str = r#"
disk=$(first_disk 20) || fail "there is no disk"
target=/dev/$(partition "$disk" 2)
load 12 5 5 300
load_module
"#;

/// Starts I/O, and crashes.
pub(super) const CRASH: &str = r#"
traffic "$disk"
sleep 1
crash_now
sleep 60
fail "it did not crash"
"#;

/// A formatted disk.
pub(super) fn disk(lab: &Lab, name: &str) -> Result<Disk> {
    fs::create_dir_all(&lab.folder).with_context(|| format!("cannot create {}", lab.folder.display()))?;
    let disk = Disk::create(&lab.folder.join(format!("{name}.raw")), BLOCKS)?;
    lab.savecore.format(&disk)?;
    Ok(disk)
}

/// A guest with diskdump.ko and faults.ko that runs this script.
pub(super) fn guest<'a>(lab: &'a Lab, row: &Row, script: &str) -> Result<Guest<'a>> {
    let read =
        |path: &std::path::Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(Guest::new(&lab.stock, &format!("{LOAD}\n{ARM}\n{script}"))
        .disk(row.device)
        .file("diskdump.ko", 0o644, &read(&lab.module)?)
        .file("faults.ko", 0o644, &read(&lab.faults)?))
}

/// The machine of a row, with this disk.
pub(super) fn machine(lab: &Lab, row: &Row, guest: &Guest<'_>, disk: &Disk, name: &str) -> Result<Machine> {
    let bed = Bed { architecture: X86_64, device: row.device };
    Ok(guest.machine(bed, &lab.folder, name)?.cpus(row.cpus).memory(MEMORY).disk(disk))
}

/// Waits for a line; if the guest reports a failure, that is the error.
pub(super) fn wait(running: &mut Running, needle: &str) -> Result<Line> {
    running.wait_for(needle, LIMIT).map_err(|error| told(&running.serial, error))
}

/// Waits until the machine was reset or powered off; returns its output.
pub(super) fn end(mut running: Running) -> Result<Serial> {
    if let Err(error) = running.wait_exit(LIMIT) {
        return Err(told(&running.serial, error));
    }
    Ok(running.serial)
}

/// Waits for a guest that ends by itself after its script.
pub(super) fn finish(running: Running) -> Result<Serial> {
    let serial = end(running)?;
    if serial.find("linux: end status=0").is_none() {
        let last = serial.last().to_owned();
        let other = anyhow::anyhow!("the guest ended with `{last}`; log: {}", serial.path().display());
        return Err(told(&serial, other));
    }
    Ok(serial)
}

/// The guest's own description of a failure, if there is one.
fn told(serial: &Serial, error: anyhow::Error) -> anyhow::Error {
    match serial.find("linux: failed: ") {
        Some(line) => anyhow::anyhow!("{}; log: {}", line.text, serial.path().display()),
        None => error,
    }
}

/// Runs a machine that arms, crashes and resets. Returns its output.
pub(super) fn crash(machine: &Machine, lab: &Lab, name: &str) -> Result<Serial> {
    let serial = end(machine.start(&lab.folder, name)?)?;
    // Output just before a panic may be lost in the port.
    let other = anyhow::anyhow!("it did not crash; log: {}", serial.path().display());
    match serial.find("linux: failed: ") {
        Some(_) => Err(told(&serial, other)),
        None => Ok(serial),
    }
}

/// Checks that the module reported a complete dump.
pub(super) fn is_complete(serial: &Serial) -> Result<()> {
    if serial.find("diskdump: complete").is_some() {
        return Ok(());
    }
    let said = |line: &&Line| line.text.contains("diskdump: ");
    let last = serial.lines().iter().rev().find(said).map_or("nothing", |line| line.text.as_str());
    bail!("no complete dump was made; diskdump said at last: `{last}`; log: {}", serial.path().display())
}

/// Checks that outside the dump partition only the guest's own traffic has changed anything.
pub(super) fn only_ours(disk: &Disk, before: u128) -> Result<()> {
    ensure!(disk.rest_fingerprint()? == before, "blocks of others were changed");
    let spoiled = disk.spoiled(b'L')?;
    ensure!(spoiled.is_empty(), "block {} behind the dump partition was changed", spoiled[0]);
    Ok(())
}

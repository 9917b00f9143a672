//! How a row's guest is made, started and followed to its end.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Lab, Row};
use crate::bed::{Bed, X86_64};
use crate::image::Disk;
use crate::linux::guest::{Guest, LOAD};
use crate::machine::{Machine, Running};
use crate::serial::{Line, Serial};

/// What a script can do with diskdump.ko.
pub(crate) const ARM: &str = include_str!("../arm.sh");

/// MiB of RAM.
pub(super) const MEMORY: u32 = 384;

/// Blocks of the dump partition: all memory fits, packed.
const BLOCKS: u64 = 256 << 8;

/// What a guest takes longer for hangs: under TCG, with another one beside it.
pub(super) const LIMIT: Duration = Duration::from_secs(150);

/// Tells that an armed guest is ready to be crashed.
pub(super) const CRASHES: &str = "linux: crashes now";

/// The disk, and what the guest is busy with before it arms.
pub(super) const BEFORE: &str = r#"
disk=$(first_disk 20) || fail "there is no disk"
target=/dev/$(partition "$disk" 2)
load 12 5 5 300
load_module
"#;

/// I/O in flight, and the crash.
pub(super) const CRASH: &str = r#"
traffic "$disk"
sleep 1
crash_now
sleep 60
fail "it did not crash"
"#;

/// A disk with a label.
pub(super) fn disk(lab: &Lab, name: &str) -> Result<Disk> {
    fs::create_dir_all(&lab.folder).with_context(|| format!("cannot create {}", lab.folder.display()))?;
    let disk = Disk::create(&lab.folder.join(format!("{name}.raw")), BLOCKS)?;
    lab.savecore.format(&disk)?;
    Ok(disk)
}

/// A guest with diskdump.ko and faults.ko, which runs this script.
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

/// Waits for a line; what the guest says of a failure is the error.
pub(super) fn wait(running: &mut Running, needle: &str) -> Result<Line> {
    running.wait_for(needle, LIMIT).map_err(|error| told(&running.serial, error))
}

/// Waits until the machine was reset or switched off; gives what was said.
pub(super) fn end(mut running: Running) -> Result<Serial> {
    if let Err(error) = running.wait_exit(LIMIT) {
        return Err(told(&running.serial, error));
    }
    Ok(running.serial)
}

/// Waits for a guest that ends by itself, its script done.
pub(super) fn finish(running: Running) -> Result<Serial> {
    let serial = end(running)?;
    if serial.find("linux: end status=0").is_none() {
        let last = serial.last().to_owned();
        let other = anyhow::anyhow!("the guest ended with `{last}`; log: {}", serial.path().display());
        return Err(told(&serial, other));
    }
    Ok(serial)
}

/// The guest's own word for a failure, if it has one.
fn told(serial: &Serial, error: anyhow::Error) -> anyhow::Error {
    match serial.find("linux: failed: ") {
        Some(line) => anyhow::anyhow!("{}; log: {}", line.text, serial.path().display()),
        None => error,
    }
}

/// A machine that crashes by itself: armed, then a crash, then a reset. Gives what was said.
pub(super) fn crash(machine: &Machine, lab: &Lab, name: &str) -> Result<Serial> {
    let serial = end(machine.start(&lab.folder, name)?)?;
    // What a program says just before a panic may never get out of the port.
    let other = anyhow::anyhow!("it did not crash; log: {}", serial.path().display());
    match serial.find("linux: failed: ") {
        Some(_) => Err(told(&serial, other)),
        None => Ok(serial),
    }
}

/// Makes sure that the module said that a dump is complete.
pub(super) fn is_complete(serial: &Serial) -> Result<()> {
    if serial.find("diskdump: complete").is_some() {
        return Ok(());
    }
    let said = |line: &&Line| line.text.contains("diskdump: ");
    let last = serial.lines().iter().rev().find(said).map_or("nothing", |line| line.text.as_str());
    bail!("no complete dump was made; diskdump said at last: `{last}`; log: {}", serial.path().display())
}

/// Makes sure that nothing outside of the dump partition was changed but by the guest's own traffic.
pub(super) fn only_ours(disk: &Disk, before: u128) -> Result<()> {
    ensure!(disk.rest_fingerprint()? == before, "blocks of others were changed");
    let spoiled = disk.spoiled(b'L')?;
    ensure!(spoiled.is_empty(), "block {} behind the dump partition was changed", spoiled[0]);
    Ok(())
}

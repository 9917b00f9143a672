//! The scenarios for every disk, on every machine that has it.

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{Case, Crashed, Stack, USUAL_BLOCKS, ensure, exit, mib, uuid};
use super::judge::{
    crash, foreign_parts, halt, info, is_whole, number, partial, same_foreign_parts, says, text, whole,
};
use super::refusals;
use crate::image::{Disk, Layout};
use crate::machine::{Fails, disk_word};

/// The scenario whose kernel is built in the dev profile.
pub(super) const DEMO_DEV: &str = "demo-dev";

/// The scenario that needs a disk which can be unplugged.
pub(super) const PULLED: &str = "pulled";

/// The scenario that needs a disk of more than 2 TiB.
pub(super) const FAR_AWAY: &str = "far";

/// A block of the partition in the middle of the blocks to be written.
const SPOT: u64 = 2500;

/// Maximum time in seconds from the crash to the first block written.
const FIRST_WRITE: f64 = 1.0;

pub(super) fn demo(case: &Case) -> Result<String> {
    let demo = Demo::run(case, 128, 16)?;
    let first = demo.first_write;
    ensure(first <= FIRST_WRITE, || format!("the first block was written {first:.2} s after the crash"))?;
    Ok(demo.facts())
}

/// Speed does not matter for unoptimised code, so less is dumped.
pub(super) fn demo_dev(case: &Case) -> Result<String> {
    let demo = Demo::run(case, 48, 1)?;
    let Stack { used, size } = demo.stack;
    Ok(format!("{}; {used} of {size} bytes of stack", demo.facts()))
}

/// The result of a demo.
struct Demo {
    /// Bytes of RAM that are equal in core and machine.
    compared: u64,
    /// Seconds from the crash to the first block written.
    first_write: f64,
    /// At most half of it is used.
    stack: Stack,
}

impl Demo {
    fn facts(&self) -> String {
        let Demo { compared, first_write, .. } = self;
        format!("{compared} bytes compared, none differs; first block written after {first_write:.3} s")
    }

    /// With this many MiB of RAM, of which this many are filled.
    fn run(case: &Case, memory: u32, fill: u32) -> Result<Demo> {
        let disk = case.formatted("disk", USUAL_BLOCKS)?;
        // Checked ahead, so that a check of the whole partition does not count towards the first write.
        let machine = case
            .machine(&disk, "panic")
            .cpus(2)
            .memory(memory)
            .word("cpu=1")
            .word(format!("fill={fill}"))
            .word("verify=ahead");
        let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
        is_whole(&halted.dump)?;
        let first_write = halted.dump.pointer("/metrics/first_write_seconds").and_then(Value::as_f64);
        let first_write = first_write.context("the dump does not say when its first block was written")?;
        let (cores, _) = case.save(&disk, "cores", 1)?;
        let compared = halted.equals(cores.first().context("no core")?)?.bytes;
        // Only the arena may be missing, and memory reserved by firmware.
        let least = halted.bytes() - halted.arena_bytes();
        ensure(compared >= least, || format!("only {} of {} were compared", mib(compared), mib(least)))?;
        case.check_ready(&disk)?;
        let stack = halted.crashed.stack().context("the dump does not say how much stack it used")?;
        Ok(Demo { compared, first_write, stack })
    }
}

pub(super) fn write_error(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case
        .machine(&disk, "panic")
        .fails(Fails::WritesTo(disk.dump.first + SPOT))
        .cpus(2)
        .word("fill=24")
        .word("encoding=plain");
    let crashed = crash(case, &machine, "crash", exit::INCOMPLETE)?;
    let said = crashed.said("diskdump: incomplete: ")?.trim_start_matches("diskdump: ").to_owned();
    let (_, dump) = partial(case, &disk, "incomplete", 2)?;
    says(&dump, "reason", "the device failed")?;
    let damage = dump.get("damage").and_then(Value::as_array).cloned().unwrap_or_default();
    let lost = damage.iter().any(|damage| {
        let (first, count) = (number(damage, "block").unwrap_or(0), number(damage, "count").unwrap_or(0));
        text(damage, "what") == "not written" && (first..first + count).contains(&SPOT)
    });
    ensure(lost, || format!("savecore does not say that block {SPOT} is lost: {damage:?}"))?;
    Ok(format!("{} pages in front of block {SPOT}; {said}", number(&dump, "pages.data")?))
}

pub(super) fn read_error(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.unlooked(&disk, "panic")?.fails(Fails::ReadsOf(disk.dump.first + SPOT));
    // The device does not report which block of a request failed.
    let reason = " could not be read: ";
    let crashed = refusals::refused(case, &disk, &machine, &[exit::REFUSED], reason)?;
    refusals::facts(&crashed, reason)
}

pub(super) fn pulled(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    // Slow enough to be interrupted in the middle.
    let machine = case
        .machine(&disk, "unplug")
        .pulled()
        .drive("throttling.bps-write=8388608")
        .cpus(2)
        .word("fill=48")
        .word("verify=ahead")
        .word("timeout=3000")
        .word("budget=20000");
    let before = foreign_parts(&machine)?;
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("diskdump: dumped", case.left())?;
    let pulled = (case.bed.device.pulled)(0).map_err(anyhow::Error::msg)?;
    running.qmp.device_del(&pulled)?;
    let begin = std::time::Instant::now();
    let code = running.wait_exit(case.left())?;
    let took = begin.elapsed().as_secs_f32();
    ensure([exit::UNCLOSED, exit::INCOMPLETE].contains(&code), || {
        format!("the machine ended with exit code {code}; its last line: `{}`", running.serial.last())
    })?;
    ensure(took < 20.0, || format!("it took {took:.1} s to give up, with a budget of 20 s"))?;
    same_foreign_parts(&machine, &before)?;
    let status =
        info(case, &disk, 1)?.first().map(|dump| text(dump, "status").to_owned()).unwrap_or_default();
    let (_, dump) = partial(case, &disk, &status, 2)?;
    Ok(format!("{status}: {} pages read; ended {took:.1} s later", number(&dump, "pages.data")?))
}

pub(super) fn one_block_less(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.unlooked(&disk, "panic")?;
    disk.truncate(disk.dump.blocks - 1)?;
    let reason = "the partition ends at block";
    let crashed = refusals::refused(case, &disk, &machine, &[exit::NOT_ARMED, exit::REFUSED], reason)?;
    refusals::facts(&crashed, reason)
}

/// The first block of a partition beyond 2 TiB, where 32-bit sector numbers end.
const FAR: u64 = (2 << 40) / 4096 + 4096;

pub(super) fn far(case: &Case) -> Result<String> {
    let disk = {
        let layout =
            Layout { first: FAR, blocks: USUAL_BLOCKS, odd: 0, sector_size: case.bed.device.sector_size };
        Disk::create_laid(&case.folder.join("disk.raw"), layout)?
    };
    case.savecore.format(&disk)?;
    let machine = case.machine_without("panic").cpus(2).word("fill=8");
    let found = machine.clone().disk_by(&disk, "name:dump");
    let crashed = case.crash(&found, "by-name", exit::COMPLETE)?;
    let place = found_at(&crashed).map(str::to_owned);
    whole(case, &disk, 2)?;
    // Once more, found by the label, on the PCI function at that address.
    let uuid = uuid(&disk)?;
    let mut found = machine.disk_by(&disk, &format!("label:{uuid}"));
    if let Some(place) = &place {
        found = found.word(disk_word(0, &format!("pci={place}")));
    }
    case.crash(&found, "by-label", exit::COMPLETE)?;
    let (_, dump) = whole(case, &disk, 2)?;
    ensure(disk.foreign_parts_are_whole()?, || "blocks of a foreign partition were changed".to_owned())?;
    let at = place.map_or(String::new(), |place| format!(" at {place}"));
    Ok(format!("from block {FAR} on, by name and by label{at}; {} pages", number(&dump, "pages.data")?))
}

/// The disk's bus address, as the guest printed it when arming.
fn found_at(crashed: &Crashed) -> Option<&str> {
    let line = crashed.said("testkernel: armed").ok()?;
    line.rsplit(' ').next().filter(|place| place.contains(':') && place.contains('.'))
}

pub(super) fn odd_start(case: &Case) -> Result<String> {
    let disk = {
        let layout = Layout { first: 1024, blocks: USUAL_BLOCKS, odd: 1, sector_size: 512 };
        Disk::create_laid(&case.folder.join("disk.raw"), layout)?
    };
    let machine = case.machine_without("panic").disk_by(&disk, "name:dump");
    let reason = "the partition begins at sector 8193 of 512 bytes, which is not a multiple of 4096 bytes";
    let crashed = refusals::refused(case, &disk, &machine, &[exit::NOT_ARMED], reason)?;
    refusals::facts(&crashed, reason)
}

//! `cargo xtask bench linux`: diskdump.ko against kdump, on the same kernel, guest and load.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use dumpcore::format::BLOCK_SIZE;
use qemu_tests::bed::DEVICES;
use qemu_tests::image::Disk;
use qemu_tests::linux::{Cost, Filter, Kernel, Scene, TIMED_MEMORY};
use qemu_tests::savecore::Savecore;
use serde_json::Value;

use super::row::{Row, median};
use crate::{linux, ui};

/// Runs of each side.
const RUNS: usize = 3;
/// Blocks of the partition for a filtered dump, and for a dump of all memory.
const FILTERED: u64 = 512 << 8;
const WHOLE: u64 = (TIMED_MEMORY as u64 + 128) << 8;
/// Maximum bytes that we may reserve.
const RESERVED_GOAL: u64 = 4 << 20;
/// Maximum ratio of our time from panic to dump to kdump's.
const TIME_GOAL: f64 = 0.2;
/// savecore has hung if it takes longer.
const LIMIT: Duration = Duration::from_secs(300);

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// One of our ways to dump, and kdump's way for the same purpose.
struct Pair {
    name: &'static str,
    device: &'static str,
    blocks: u64,
    /// Our ways: names, and settings for arming.
    ways: &'static [(&'static str, &'static str)],
    filter: Filter,
    /// MiB: the minimum for kdump's kernel.
    crashkernel: u32,
    goal: Option<f64>,
}

/// Reads the whole partition before the first block is written (the default), or checks each block just
/// before its write.
const CHECKS: &[(&str, &str)] =
    &[(", checked first", "level=31 verify=all"), (", checked ahead", "level=31 verify=ahead")];

static PAIRS: [Pair; 3] = [
    Pair {
        name: "level 31",
        device: "virtio-blk",
        blocks: FILTERED,
        ways: CHECKS,
        filter: Filter::Makedumpfile("-l -d 31"),
        crashkernel: 76,
        goal: Some(TIME_GOAL),
    },
    Pair {
        name: "level 31",
        device: "nvme",
        blocks: FILTERED,
        ways: CHECKS,
        filter: Filter::Makedumpfile("-l -d 31"),
        crashkernel: 80,
        goal: Some(TIME_GOAL),
    },
    Pair {
        name: "raw",
        device: "virtio-blk",
        blocks: WHOLE,
        ways: &[("", "level=0 compress=none verify=ahead")],
        filter: Filter::Plain,
        crashkernel: 76,
        goal: None,
    },
];

/// The text above the table.
pub(super) fn about() -> String {
    format!(
        "a stock kernel in {TIMED_MEMORY} MiB with 2 CPUs, 600 MB of files in memory; ours against kdump; medians of {RUNS} runs, in turn"
    )
}

/// Measures; appends remarks on the figures to `notes`.
pub(super) fn rows(savecore: &Path, notes: &mut Vec<String>, quiet: bool) -> Result<Vec<Row>> {
    let library = linux::library_for_modules()?;
    let built = linux::modules(linux::get(Kernel::CLOUD, false)?, &library)?;
    let folder = linux::folder().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let savecore = Savecore::new(savecore, &folder, LIMIT);
    let mut rows = Vec::new();
    for pair in &PAIRS {
        let device = DEVICES.iter().find(|device| device.name == pair.device).context("no such device")?;
        let mut theirs = Vec::new();
        let mut ours: Vec<Vec<Cost>> = pair.ways.iter().map(|_| Vec::new()).collect();
        for run in 1..=RUNS {
            let show = |side: &str| {
                if !quiet {
                    ui::running(&format!("{} on {}, {side}, run {run} of {RUNS}", pair.name, pair.device));
                }
            };
            let disk = Disk::create(&folder.join("disk.raw"), pair.blocks)?;
            let scene = Scene { stock: &built.stock, device, disk: &disk, folder: &folder };
            // Both write to blocks that the host has already allocated.
            savecore.expect(0, "format", &disk, &["--yes"])?;
            show("kdump");
            theirs.push(scene.theirs(pair.filter, pair.crashkernel)?);
            for ((_, words), costs) in pair.ways.iter().zip(&mut ours) {
                savecore.expect(0, "format", &disk, &["--yes", "--force"])?;
                show("ours");
                let mut cost = scene.ours(&built.module, words)?;
                let said = savecore.expect(0, "info", &disk, &[])?;
                let block =
                    |key: &str| said.value.pointer(&format!("/dumps/0/{key}")).and_then(Value::as_u64);
                let blocks =
                    block("end_block").zip(block("first_block")).context("savecore finds no dump")?;
                cost.written = (blocks.0 - blocks.1) * BLOCK_SIZE as u64;
                costs.push(cost);
            }
        }
        for ((way, _), ours) in pair.ways.iter().zip(&ours) {
            let name = |what: &str| format!("{}, {}{way}: {what}", pair.name, pair.device);
            let sides =
                |of: &dyn Fn(&Cost) -> f64| [ours, &theirs].map(|side| median(side.iter().map(of).collect()));
            let [a, b] = sides(&|cost| mib(cost.reserved));
            rows.push(Row::share(
                "linux",
                &name("memory reserved"),
                "MiB",
                a,
                b,
                Some(mib(RESERVED_GOAL) / b),
            ));
            let [a, b] = sides(&|cost| cost.dump.as_secs_f64());
            rows.push(Row::share("linux", &name("panic to dump"), "s", a, b, pair.goal));
            let [a, b] = sides(&|cost| cost.back.as_secs_f64());
            rows.push(Row::share("linux", &name("panic to userspace"), "s", a, b, None));
            let [a, b] = sides(&|cost| mib(cost.written));
            rows.push(Row::share("linux", &name("written"), "MiB", a, b, None));
        }
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    notes.extend([
        format!("Linux {}, QEMU's TCG; times by the host's clock, from the kernel's word of its panic", built.stock.release),
        "kdump: crashkernel at its least, makedumpfile -l -d 31 or dd bs=1M, from an initramfs of busybox, to the partition, fsync".to_owned(),
        format!("ours: a partition of {} MiB, for raw of {} MiB, checked ahead; pages of zeros are not written", FILTERED >> 8, WHOLE >> 8),
        "the goal of memory reserved is 4 MiB, as a share of kdump's".to_owned(),
    ]);
    Ok(rows)
}

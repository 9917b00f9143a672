//! `cargo xtask bench engine`: each stage of a dump against what it is built on: the same driver without a
//! dump, the compressor alone, one CPU, less memory.
//! compressor without the rest, one CPU, less memory.

use std::fs;

use anyhow::{Context, Result};
use clap::ValueEnum;
use qemu_tests::machine::Machine;
use qemu_tests::scenarios::Programs;
use qemu_tests::serial;
use serde_json::Value;

use crate::CannotBegin;

use super::guest::{FILL, Guest, Packing, REQUEST, RUNS, UNVERIFIED, measured};
use super::row::{Row, median};

/// A disk as fast as the host copies memory, where the guest's CPU is the bottleneck, and a disk that is the
/// bottleneck itself, as most are.
/// most are.
const DISKS: [(Option<u64>, &str); 2] = [(None, "host's speed"), (Some(256 << 20), "256 MiB/s")];

/// A part of the bench.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Part {
    /// A dump that packs nothing against plain polled writes
    Raw,
    /// The check of the pattern against plain polled reads
    Verify,
    /// Packing against the compressor alone, by size of the unit
    Lz4,
    /// Two CPUs against one where packing is the limit
    Parallel,
    /// Time and arena by size of the dump
    Linear,
}

/// Minimum ratio of an uncompressed dump to plain writes.
const RAW_GOAL: f64 = 0.95;
/// Minimum ratio of the pattern check to plain reads.
const VERIFY_GOAL: f64 = 0.9;
/// Minimum ratio of compression in a dump to the compressor alone.
const LZ4_GOAL: f64 = 0.9;
/// Minimum speedup of two CPUs over one.
const PARALLEL_GOAL: f64 = 1.7;
/// Minimum ratio of the rate of larger dumps to that of the smallest.
const LINEAR_GOAL: f64 = 0.9;
/// Sizes of dumps, in MiB.
const SIZES: [u32; 3] = [256, 1024, 4096];
/// MiB of RAM beyond the filled part.
const SPARE: u32 = 64;
/// Runs of each size: the largest takes long.
const LINEAR_RUNS: usize = 3;
/// Requests in flight for the deepest queue.
const DEEP: usize = 16;

/// The text above the table.
pub(super) fn about() -> String {
    format!("stages of a dump of {FILL} MiB in the guest; medians of {RUNS} runs, in turn")
}

/// The parts named `name`, or all.
///
/// # Errors
/// If there is no such part.
pub(super) fn chosen(name: Option<&str>) -> Result<Vec<Part>> {
    let all = Part::value_variants();
    let Some(name) = name else { return Ok(all.to_vec()) };
    let part = Part::from_str(name, false).map_err(|_| {
        let values = all.iter().filter_map(ValueEnum::to_possible_value);
        let known: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        CannotBegin(format!("no part of this bench is called {name}: {}", known.join(", ")))
    })?;
    Ok(vec![part])
}

/// Measures.
pub(super) fn rows(programs: &Programs, parts: &[Part], quiet: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for part in parts {
        rows.extend(match part {
            Part::Raw => raw(programs, quiet)?,
            Part::Verify => verify(programs, quiet)?,
            Part::Lz4 => lz4(programs, quiet)?,
            Part::Parallel => parallel(programs, quiet)?,
            Part::Linear => linear(programs, quiet)?,
        });
    }
    // The folder holds gigabytes.
    let _ = fs::remove_dir_all(programs.folder.join("bench"));
    Ok(rows)
}

/// A timed dump.
struct Timed {
    /// Bytes on the disk, headers and checksums included.
    written: f64,
    /// Nanoseconds from the panic to the shutdown of the disk.
    nanoseconds: f64,
    /// Bytes of arena in use.
    arena: u64,
    /// savecore's facts about the dump.
    info: Value,
}

impl Timed {
    /// MB/s to the disk.
    fn rate(&self) -> f64 {
        self.written * 1000.0 / self.nanoseconds
    }
}

impl Guest<'_> {
    /// Plain transfers, in MB/s.
    fn transfers(&self, name: &str, bytes: u64, depth: usize, quiet: bool) -> Result<f64> {
        let machine = self
            .machine(&format!("bench-{name}"))
            .word(format!("bench.bytes={bytes}"))
            .word(format!("bench.request={REQUEST}"))
            .word(format!("bench.depth={depth}"));
        self.rate(&machine, quiet, name)
    }

    /// A machine with `cpus` CPUs that dumps `fill` MiB of filled memory.
    fn dumping(&self, fill: u32, cpus: u32) -> Machine {
        self.machine("bench-dump")
            .cpus(cpus)
            .word(format!("fill={fill}"))
            .word(format!("helpers={}", cpus - 1))
    }

    /// The same, without compression and almost without checks.
    fn dumping_raw(&self, fill: u32, cpus: u32) -> Machine {
        self.dumping(fill, cpus).word("encoding=plain").word("level=1").word(UNVERIFIED)
    }

    /// Formats the disk, lets a machine dump, and requires a complete dump.
    fn timed(&self, machine: &Machine, quiet: bool) -> Result<Timed> {
        self.format()?;
        let serial = self.run(machine, quiet, "dump")?;
        let say = || format!("the guest did not measure its dump; log: {}", serial.path().display());
        let line = measured(&serial).next().with_context(say)?;
        let nanoseconds = serial::number(line, "ns").with_context(say)?;
        let armed = serial.find("testkernel: armed ").map(|line| line.text.as_str());
        let arena = armed.and_then(|line| serial::number(line, "arena_used")).with_context(say)?;
        let info = self.savecore().expect(0, "info", &self.disk, &[])?;
        let dump = info.value.pointer("/dumps/0").cloned().unwrap_or_default();
        let number = |key: &str| dump.get(key).and_then(Value::as_u64);
        let (first, end) =
            number("first_block").zip(number("end_block")).context("savecore knows no dump")?;
        anyhow::ensure!(
            dump.get("whole") == Some(&Value::Bool(true)),
            "the dump is not whole; log: {}",
            info.log.display()
        );
        Ok(Timed {
            written: (end - first) as f64 * 4096.0,
            nanoseconds: nanoseconds.max(1) as f64,
            arena,
            info: dump,
        })
    }

    /// How fast a dump checks its whole partition, in MB/s. The dump itself is small.
    fn checking(&self, cpus: u32, quiet: bool) -> Result<f64> {
        let dump = self.timed(&self.dumping(1, cpus).word("verify=all"), quiet)?.info;
        let is_check = |phase: &&Value| phase.get("name").is_some_and(|name| name == "pattern check");
        let phases = dump.pointer("/metrics/phases").and_then(Value::as_array);
        let seconds = phases.and_then(|phases| phases.iter().find(is_check)?.get("seconds")?.as_f64());
        let checked = dump.pointer("/metrics/checked_blocks").and_then(Value::as_u64);
        let (seconds, checked) = seconds.zip(checked).context("savecore knows nothing of the check")?;
        Ok(checked as f64 * 4096.0 / 1e6 / seconds.max(1e-9))
    }
}

fn raw(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let mut guest = Guest::new(programs)?;
    let bytes = u64::from(FILL) << 20;
    let mut rows = Vec::new();
    for (speed, on) in DISKS {
        guest.disk_speed = speed;
        let (mut one, mut deep) = (Vec::new(), Vec::new());
        let (mut alone, mut helped) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            for (depth, rates) in [(1, &mut one), (DEEP, &mut deep)] {
                guest.format()?;
                rates.push(guest.transfers("plain", bytes, depth, quiet)?);
            }
            for (cpus, rates) in [(1, &mut alone), (2, &mut helped)] {
                rates.push(guest.timed(&guest.dumping_raw(FILL, cpus), quiet)?.rate());
            }
        }
        let (one, deep) = (median(one), median(deep));
        for (cpus, ours) in [("1 CPU", median(alone)), ("2 CPUs", median(helped))] {
            for (how, theirs) in [("one at a time", one), ("in flight", deep)] {
                let name = format!("{on}: raw dump, {cpus} / plain writes, {how}");
                rows.push(Row::rate("engine raw", &name, ours, theirs, Some(RAW_GOAL)));
            }
        }
    }
    Ok(rows)
}

fn verify(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let mut guest = Guest::new(programs)?;
    let bytes = u64::from(FILL) << 20;
    let mut rows = Vec::new();
    for (speed, on) in DISKS {
        guest.disk_speed = speed;
        let (mut one, mut deep, mut matched) = (Vec::new(), Vec::new(), Vec::new());
        let (mut alone, mut helped) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            guest.format()?;
            for (name, depth, rates) in
                [("reads", 1, &mut one), ("reads", DEEP, &mut deep), ("verify", DEEP, &mut matched)]
            {
                rates.push(guest.transfers(name, bytes, depth, quiet)?);
            }
            for (cpus, rates) in [(1, &mut alone), (2, &mut helped)] {
                rates.push(guest.checking(cpus, quiet)?);
            }
        }
        let (one, deep) = (median(one), median(deep));
        for (cpus, ours) in [("1 CPU", median(alone)), ("2 CPUs", median(helped))] {
            for (how, theirs) in [("one at a time", one), ("in flight", deep)] {
                let name = format!("{on}: a dump's check, {cpus} / plain reads, {how}");
                rows.push(Row::rate("engine verify", &name, ours, theirs, Some(VERIFY_GOAL)));
            }
        }
        let name = format!("{on}: reads in flight, each compared / plain");
        rows.push(Row::rate("engine verify", &name, median(matched), deep, None));
    }
    Ok(rows)
}

/// A compressor's results: its name, its rates, and its compression ratio.
struct Packer {
    name: String,
    rates: Vec<f64>,
    shrinks: f64,
}

fn lz4(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let mut packers: Vec<Packer> = Vec::new();
    for _ in 0..RUNS {
        for scenario in ["bench-lz4", "bench-pack"] {
            for Packing { name, rate, shrinks } in guest.packing(scenario, FILL / 2, "text", quiet)? {
                match packers.iter_mut().find(|packer| packer.name == name) {
                    Some(packer) => packer.rates.push(rate),
                    None => packers.push(Packer { name, rates: vec![rate], shrinks }),
                }
            }
        }
    }
    let find = |name: &str| {
        let found = packers.iter().find(|packer| packer.name == name);
        found.with_context(|| format!("the guest did not measure {name}"))
    };
    let rate = |name: &str| Ok::<f64, anyhow::Error>(median(find(name)?.rates.clone()));
    let pack = rate("pack")?;
    let row = |name: &str, ours, theirs, goal| Row::rate("engine lz4", name, ours, theirs, goal);
    let mut rows = vec![
        row("packing, units of 8 pages / lz4_flex alone", pack, rate("lz4-flex-8")?, Some(LZ4_GOAL)),
        row("packing, units of 8 pages / its compressor alone", pack, rate("lz4-8")?, None),
    ];
    for packer in packers.iter().filter(|packer| packer.name != "pack") {
        let what = match packer.name.strip_prefix("lz4-flex-") {
            Some(pages) => format!("lz4_flex alone, units of {pages} pages"),
            None => {
                format!("our compressor alone, units of {} pages", packer.name.trim_start_matches("lz4-"))
            }
        };
        let ours = median(packer.rates.clone());
        rows.push(row(&format!("{what} / of 8"), ours, rate("lz4-8")?, None));
        let name = format!("{what}: memory / packed");
        rows.push(Row::proportion("engine lz4", &name, "to 1", packer.shrinks));
    }
    Ok(rows)
}

fn parallel(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let (mut alone, mut helped, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (cpus, rates) in [(1, &mut alone), (2, &mut helped)] {
            let machine =
                guest.dumping(FILL, cpus).word("fill.kind=text").word("encoding=lz4").word(UNVERIFIED);
            let timed = guest.timed(&machine, quiet)?;
            // Both have the same memory, so compare the times to finish it.
            rates.push(f64::from(FILL) * f64::from(1 << 20) * 1000.0 / timed.nanoseconds);
            let number = |path| timed.info.pointer(path).and_then(Value::as_f64);
            let units = number("/metrics/units_by_helpers").zip(number("/metrics/units"));
            let (by_helpers, units) = units.context("savecore knows nothing of the units")?;
            if cpus > 1 {
                shares.push(by_helpers / units.max(1.0));
            }
        }
    }
    let (alone, helped) = (median(alone), median(helped));
    let name = "packed dump, 2 CPUs / 1 CPU";
    let share = "packed dump, 2 CPUs: what the other CPU did of it";
    Ok(vec![
        Row::rate("engine parallel", name, helped, alone, Some(PARALLEL_GOAL)),
        Row::proportion("engine parallel", share, "of 1", median(shares)),
    ])
}

fn linear(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let mut rates: [Vec<f64>; SIZES.len()] = Default::default();
    let mut arenas = [0; SIZES.len()];
    for _ in 0..LINEAR_RUNS {
        for ((size, rates), arena) in SIZES.iter().zip(&mut rates).zip(&mut arenas) {
            let guest = Guest::with_memory(programs, size + SPARE)?;
            let timed = guest.timed(&guest.dumping_raw(*size, 1), quiet)?;
            rates.push(timed.rate());
            *arena = timed.arena;
        }
    }
    let rates = rates.map(median);
    let [smallest, ..] = rates;
    let [least, ..] = arenas;
    let mut rows = Vec::new();
    for ((size, rate), arena) in SIZES.iter().zip(rates).zip(arenas).skip(1) {
        let name = format!("raw dump of {size} MiB / of {} MiB", SIZES[0]);
        rows.push(Row::rate("engine linear", &name, rate, smallest, Some(LINEAR_GOAL)));
        let name = format!("arena for {size} MiB; goal: that for {} MiB", SIZES[0]);
        rows.push(Row::size("engine linear", &name, arena, least));
    }
    Ok(rows)
}

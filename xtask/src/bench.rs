//! `cargo xtask bench`: the cost of a dump, measured in the guest, against its yardsticks.
//!
//! The two sides of a ratio run alternately, since the speed of a shared machine varies. Medians are
//! compared.

mod drivers;
mod engine;
mod guest;
mod linux;
mod row;
mod savecore;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use qemu_tests::bed::{Bed, X86_64};
use qemu_tests::machine::Machine;
use qemu_tests::scenarios::{self, Build, Case, Footprint, Profile, Programs};

use crate::{CannotBegin, build, setup, ui};
use guest::{FILL, Guest, LIMIT, MEMORY, REQUEST, RUNS, UNVERIFIED};
use row::{Row, median};

/// A bench.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Name {
    /// Each of the others, in one table
    All,
    /// A dump against what bounds it: plain polled writes, the compressor alone; and against QEMU's dump-guest-memory
    Dump,
    /// The checksum of bulk data against others
    Checksum,
    /// Arena and stack
    Footprint,
    /// What each stage of a dump costs, against what it is built on
    Engine,
    /// Each polled driver against Linux's own
    Drivers,
    /// Saving a dump and laying the pattern against cp, makedumpfile and dd
    Savecore,
    /// The module for stock kernels against kdump
    Linux,
}

/// Minimum ratio of a raw dump to plain writes.
const RAW_GOAL: f64 = 0.7;
/// Minimum ratio of a compressed dump to its bound.
const PACKED_GOAL: f64 = 0.7;
/// MiB of the same kind of data for timing the compressor alone; it compresses them in units of seven sizes.
const SAMPLE: u32 = 56;

/// The task.
pub(crate) fn task(name: Option<Name>, part: Option<&str>, json: bool) -> Result<bool> {
    let name = name.unwrap_or(Name::All);
    let parts = match (name, part) {
        (Name::Engine, part) => Parts { engine: engine::chosen(part)?, ..Parts::all()? },
        (Name::Drivers, part) => Parts { drivers: drivers::chosen(part)?, ..Parts::all()? },
        (_, None) => Parts::all()?,
        (_, Some(_)) => {
            return Err(CannotBegin("only `bench engine` and `bench drivers` have parts".to_owned()).into());
        }
    };
    if name == Name::All {
        return all(&parts, json);
    }
    let mut notes = Vec::new();
    let rows = measure(name, &parts, &mut notes, json)?;
    Ok(shown(name, &rows, &notes, json))
}

/// What to measure in the benches that have parts.
struct Parts {
    engine: Vec<engine::Part>,
    drivers: Vec<drivers::Rivals>,
}

impl Parts {
    fn all() -> Result<Parts> {
        Ok(Parts { engine: engine::chosen(None)?, drivers: drivers::chosen(None)? })
    }
}

/// Runs one bench.
fn measure(name: Name, parts: &Parts, notes: &mut Vec<String>, quiet: bool) -> Result<Vec<Row>> {
    let programs = || {
        setup::ensure(&[crate::toolchain::TARGETS[0]])?;
        if !quiet {
            ui::running("building the test kernel and savecore");
        }
        build::programs([Build::release(X86_64)])
    };
    match name {
        // Handled by `all`.
        Name::All => Ok(Vec::new()),
        Name::Dump => dump(&programs()?, quiet),
        Name::Checksum => checksum(&programs()?, quiet),
        Name::Footprint => footprint(&programs()?),
        Name::Engine => engine::rows(&programs()?, &parts.engine, quiet),
        Name::Drivers => drivers::rows(&programs()?, &parts.drivers, notes, quiet),
        Name::Savecore => savecore::rows(notes, quiet),
        Name::Linux => linux::rows(&build::savecore()?, notes, quiet),
    }
}

/// Runs every bench, one after another, and prints all rows as one table. A failing bench does not stop the
/// others and counts as a missed goal.
fn all(parts: &Parts, json: bool) -> Result<bool> {
    let begin = Instant::now();
    let (mut rows, mut notes, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for name in Name::value_variants().iter().copied().filter(|name| *name != Name::All) {
        match measure(name, parts, &mut notes, json) {
            Ok(measured) => rows.extend(measured),
            Err(error) => failed.push(format!("bench {}: {error:#}", title(name))),
        }
    }
    let met = shown(Name::All, &rows, &notes, json);
    failed.iter().for_each(|why| ui::error(why));
    if !json {
        ui::text(&format!("  {}; took {} s", verdict(&rows), begin.elapsed().as_secs()));
    }
    Ok(met && failed.is_empty())
}

/// Number of goals, and of missed goals.
fn verdict(rows: &[Row]) -> String {
    let goals = rows.iter().filter(|row| row.met.is_some()).count();
    let not_met = rows.iter().filter(|row| row.met == Some(false)).count();
    format!("{goals} goals, {not_met} not met")
}

/// A bench's name on the command line.
fn title(name: Name) -> String {
    name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Prints the results of a bench; returns whether all goals were met.
fn shown(name: Name, rows: &[Row], notes: &[String], json: bool) -> bool {
    if json {
        for row in rows {
            // Plain stdout without colours: JSON is for programs.
            println!("{}", row.json());
        }
    } else {
        table(name, rows);
        notes.iter().for_each(|note| ui::text(&format!("  {note}")));
    }
    rows.iter().all(|row| row.met != Some(false))
}

/// Prints rows as columns; the rows of all benches as a Markdown table with a column for the bench.
fn table(name: Name, rows: &[Row]) {
    ui::section(&format!("\r{}: {}", title(name), about(name)));
    let lines = if name == Name::All { markdown(rows) } else { plain(rows) };
    lines.iter().for_each(|line| ui::text(line));
}

const HEAD: [&str; 7] = ["", "ours", "theirs", "unit", "ratio", "goal", "met"];

/// Rows and their header as columns of equal width.
fn plain(rows: &[Row]) -> Vec<String> {
    let head = HEAD.map(str::to_owned).to_vec();
    let lines = std::iter::once(head).chain(rows.iter().map(|row| row.cells().to_vec())).collect();
    // Names and units are left-aligned, numbers right-aligned.
    let lines = padded(lines, &[0, 3]).into_iter();
    lines.map(|cells| format!("  {}", cells.join("  ")).trim_end().to_owned()).collect()
}

/// The same in Markdown, with a first column for the bench.
fn markdown(rows: &[Row]) -> Vec<String> {
    let of = |bench: &str, cells: [String; 7]| [vec![bench.to_owned()], cells.to_vec()].concat();
    let head = of("bench", HEAD.map(str::to_owned));
    let rule = vec!["---".to_owned(); head.len()];
    let lines = [head, rule].into_iter().chain(rows.iter().map(|row| of(row.bench, row.cells()))).collect();
    let lines = padded(lines, &[0, 1, 4]).into_iter();
    lines.map(|cells| format!("| {} |", cells.join(" | "))).collect()
}

/// Pads cells to the width of their column; the columns in `left` are left-aligned, the others right-aligned.
fn padded(mut lines: Vec<Vec<String>>, left: &[usize]) -> Vec<Vec<String>> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let width = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let width = width.unwrap_or(0);
        for cell in lines.iter_mut().filter_map(|line| line.get_mut(column)) {
            *cell =
                if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
        }
    }
    lines
}

fn about(name: Name) -> String {
    match name {
        Name::All => "both sides of each in turn; medians".to_owned(),
        Name::Dump => format!(
            "{FILL} MiB in a guest of {MEMORY} MiB with one CPU, panic to shutdown of the disk; medians of {RUNS} runs"
        ),
        Name::Checksum => format!("4096-byte blocks of noise in the guest; medians of {RUNS} runs"),
        Name::Footprint => "what a dump needs of memory".to_owned(),
        Name::Engine => engine::about(),
        Name::Drivers => drivers::about(),
        Name::Savecore => savecore::about(),
        Name::Linux => linux::about(),
    }
}

/// The disk bounds a raw dump, so it is compared with plain polled writes of as many bytes by the same
/// driver. A compressed dump is bound by the slower of compressing and writing the compressed bytes.
fn dump(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let bytes = u64::from(FILL) << 20;
    let (mut plain, mut pipelined) = (Vec::new(), Vec::new());
    let (mut unverified, mut verified, mut qemu) = (Vec::new(), Vec::new(), Vec::new());
    let mut packed = FILLS.map(Packed::new);
    for _ in 0..RUNS {
        // Both write the same blocks of an image that is in the host's page cache. "One at a time" is the
        // yardstick: submit, poll, next. The pipelined one keeps rewriting a few cached buffers with all of
        // them in flight; a dump that reads all of memory cannot reach that.
        for (depth, rates) in [(1, &mut plain), (16, &mut pipelined)] {
            guest.format()?;
            let machine = guest
                .machine("bench-plain")
                .word(format!("bench.bytes={bytes}"))
                .word(format!("bench.request={REQUEST}"))
                .word(format!("bench.depth={depth}"));
            rates.push(guest.rate(&machine, quiet, "plain")?);
        }
        let dumping = |words: [&str; 3]| {
            guest.format()?;
            let machine = guest.machine("bench-dump").word(format!("fill={FILL}"));
            guest.rate(&words.into_iter().fold(machine, Machine::word), quiet, "dump")
        };
        for (verify, rates) in [(UNVERIFIED, &mut unverified), ("verify=all", &mut verified)] {
            rates.push(dumping(["encoding=plain", "fill.kind=random", verify])?);
        }
        for packed in &mut packed {
            let kind = format!("fill.kind={}", packed.fill.kind);
            packed.dumps.push(dumping(["encoding=lz4", &kind, UNVERIFIED])?);
            for alone in guest.packing("bench-lz4", SAMPLE, packed.fill.kind, quiet)? {
                if alone.name == "lz4-8" {
                    packed.alone.push(alone.rate);
                    packed.shrinks = alone.shrinks;
                }
            }
        }
        qemu.push(dump_guest_memory(&guest, bytes, quiet)?);
    }
    let (plain, pipelined, qemu) = (median(plain), median(pipelined), median(qemu));
    let (unverified, verified) = (median(unverified), median(verified));
    // The folder takes a gigabyte.
    let _ = fs::remove_dir_all(&guest.folder);
    let row = |name, ours, theirs, goal| Row::rate("dump", name, ours, theirs, goal);
    let mut rows = vec![
        row("raw, verification off / plain writes, one at a time", unverified, plain, Some(RAW_GOAL)),
        row("raw, verify all / plain writes, one at a time", verified, plain, None),
        row("raw, verification off / plain writes in flight", unverified, pipelined, None),
        row("raw, verification off / dump-guest-memory", unverified, qemu, None),
        row("raw, verify all / dump-guest-memory", verified, qemu, None),
    ];
    rows.extend(packed.into_iter().map(|packed| packed.row(plain)));
    Ok(rows)
}

/// Memory contents for a compressed dump: noise, the worst case, which costs time and does not shrink; and
/// text.
const FILLS: [Fill; 2] = [Fill { kind: "random", name: "noise" }, Fill { kind: "text", name: "text" }];

#[derive(Clone, Copy)]
struct Fill {
    /// The test kernel's name for it.
    kind: &'static str,
    name: &'static str,
}

/// Compressed dumps of one kind of memory, and their bounds; rates in MB of memory per second.
struct Packed {
    fill: Fill,
    dumps: Vec<f64>,
    /// The compressor alone, in units of as many pages as in a dump.
    alone: Vec<f64>,
    /// Bytes of memory / compressed bytes.
    shrinks: f64,
}

impl Packed {
    fn new(fill: Fill) -> Packed {
        Packed { fill, dumps: Vec::new(), alone: Vec::new(), shrinks: 1.0 }
    }

    /// Compares with the tighter bound, for a disk of `disk` MB/s.
    fn row(self, disk: f64) -> Row {
        let (alone, disk) = (median(self.alone), disk * self.shrinks);
        let (bound, what) = if alone <= disk {
            (alone, "the compressor alone")
        } else {
            (disk, "plain writes of as much, packed")
        };
        let name = format!("packed, {}, verification off / {what}", self.fill.name);
        Row::rate("dump", &name, median(self.dumps), bound, Some(PACKED_GOAL))
    }
}

/// QEMU's own dump of the same guest, stopped: the same noise, in the time that QEMU takes.
fn dump_guest_memory(guest: &Guest<'_>, bytes: u64, quiet: bool) -> Result<f64> {
    if !quiet {
        ui::running("dump-guest-memory");
    }
    let machine = guest.machine("halt-only").word(format!("fill={FILL}"));
    let mut running = machine.start(&guest.folder, "bench")?;
    running.wait_for("testkernel: halted", LIMIT)?;
    let path = guest.folder.join("qemu.memory");
    let took = running.qmp.dump_guest_memory(&path)?;
    fs::remove_file(&path).with_context(|| format!("QEMU wrote no {}", path.display()))?;
    Ok(bytes as f64 / 1e6 / took.as_secs_f64())
}

fn checksum(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let machine = guest.machine("bench-checksum").word(format!("bench.bytes={}", 256 << 20));
    let mut all: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..RUNS {
        for (name, rate) in guest.rates(&machine, quiet, "checksums")? {
            match all.iter_mut().find(|(found, _)| *found == name) {
                Some((_, rates)) => rates.push(rate),
                None => all.push((name, vec![rate])),
            }
        }
    }
    let _ = fs::remove_dir_all(&guest.folder);
    let rates: Vec<(String, f64)> = all.into_iter().map(|(name, rates)| (name, median(rates))).collect();
    let ours = rates
        .iter()
        .find(|(name, _)| name == "sum64")
        .map(|(_, rate)| *rate)
        .context("the guest did not measure sum64")?;
    Ok(rates
        .iter()
        .filter(|(name, _)| name != "sum64")
        .map(|(name, rate)| {
            let goal = match name.as_str() {
                // Headers use a CRC-32. Unless ours beats it for bulk data, there is no reason for a second
                // checksum.
                "crc32" => Some(1.0),
                // The previous version, dropped for the errors that it missed. The current one has the same
                // number of instructions, which is what counts on an emulated machine, and fewer stalls; the
                // rest is tolerance.
                "sum64-version-3" => Some(0.85),
                _ => None,
            };
            Row::rate("checksum", &format!("sum64 / {name}"), ours, *rate, goal)
        })
        .collect())
}

fn footprint(programs: &Programs) -> Result<Vec<Row>> {
    let case = Case::new(programs, Bed::usual(), Profile::Release, "bench-footprint", LIMIT)?;
    let footprint: Footprint = scenarios::measure_footprint(&case)?;
    case.forget_large_files();
    Ok(vec![
        Row::size("footprint", "arena", footprint.arena, scenarios::ARENA_LIMIT),
        Row::size("footprint", "stack from crash() on", footprint.stack(), scenarios::STACK_LIMIT),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_dump_is_held_against_what_bounds_it_first() {
        let packed = |alone, shrinks| Packed {
            dumps: vec![80.0],
            alone: vec![alone],
            shrinks,
            ..Packed::new(FILLS[1])
        };
        let by_compressor = packed(100.0, 4.0).row(50.0);
        assert_eq!((by_compressor.theirs, by_compressor.met), (Some(100.0), Some(true)));
        assert!(by_compressor.name.ends_with("/ the compressor alone"));
        let by_disk = packed(1000.0, 4.0).row(50.0);
        assert_eq!((by_disk.theirs, by_disk.met), (Some(200.0), Some(false)));
        assert!(by_disk.name.ends_with("/ plain writes of as much, packed"));
    }

    #[test]
    fn the_table_of_all_benches_is_markdown_with_equal_columns_and_counts_what_is_not_met() {
        let rows = [
            Row::rate("dump", "a long name", 70.0, 100.0, Some(0.7)),
            Row::size("footprint", "stack", 9000, 8192),
            Row::proportion("engine lz4", "b", "to 1", 3.0),
        ];
        let lines = markdown(&rows);
        assert_eq!(lines.len(), rows.len() + 2);
        let widths: Vec<usize> = lines.iter().map(String::len).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{lines:#?}");
        assert!(lines.iter().all(|line| line.matches('|').count() == 9), "{lines:#?}");
        assert!(lines[3].starts_with("| footprint  | stack ") && lines[3].ends_with("|  NO |"), "{lines:#?}");
        assert_eq!(verdict(&rows), "2 goals, 1 not met");
    }
}

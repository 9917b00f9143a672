//! `cargo xtask bench`: what a dump costs, measured in the guest, against its yardsticks.
//!
//! Both sides of a ratio are measured in turn, run by run, since a shared machine's speed wanders; the medians count.

mod drivers;
mod engine;
mod linux;
mod savecore;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::format::chunk::MAX_PAYLOAD_BLOCKS;
use qemu_tests::bed::{Bed, X86_64};
use qemu_tests::image::Disk;
use qemu_tests::machine::Machine;
use qemu_tests::savecore::Savecore;
use qemu_tests::scenarios::{self, Build, Case, Footprint, Profile, Programs};
use qemu_tests::serial::{self, Serial};
use serde_json::{Value, json};

use crate::{CannotBegin, build, setup, ui};

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

/// Runs of each side.
const RUNS: usize = 7;
/// Bytes of a plain write: as a dump's own, a chunk's header and its payload.
const REQUEST: usize = (1 + MAX_PAYLOAD_BLOCKS) * BLOCK_SIZE;
/// MiB of noise that the guest holds, so that much has to be written.
const FILL: u32 = 448;
/// MiB of RAM of the guest.
const MEMORY: u32 = 512;
/// One run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of plain writing a raw dump must reach.
const RAW_GOAL: f64 = 0.7;
/// How much a packed dump must reach of what bounds it.
const PACKED_GOAL: f64 = 0.7;
/// MiB of the same kind that the compressor alone is timed with: it goes through them with units of seven sizes.
const SAMPLE: u32 = 56;

/// A result: ours against theirs. What a bench does not have is `None`.
#[derive(Clone, Debug)]
struct Row {
    bench: &'static str,
    name: String,
    unit: &'static str,
    ours: f64,
    theirs: Option<f64>,
    ratio: Option<f64>,
    goal: Option<f64>,
    met: Option<bool>,
}

impl Row {
    /// A rate against another: larger is better, the ratio is ours by theirs.
    fn rate(bench: &'static str, name: &str, ours: f64, theirs: f64, goal: Option<f64>) -> Row {
        let ratio = ours / theirs;
        Row {
            bench,
            name: name.to_owned(),
            unit: "MB/s",
            ours,
            theirs: Some(theirs),
            ratio: Some(ratio),
            goal,
            met: goal.map(|goal| ratio >= goal),
        }
    }

    /// A time that must not exceed its goal, in milliseconds.
    fn time(bench: &'static str, name: &str, ours: f64, goal: f64) -> Row {
        let met = Some(ours <= goal);
        Row { goal: Some(goal), met, ..Row::proportion(bench, name, "ms", ours) }
    }

    /// A proportion that stands for itself.
    fn proportion(bench: &'static str, name: &str, unit: &'static str, ours: f64) -> Row {
        Row { bench, name: name.to_owned(), unit, ours, theirs: None, ratio: None, goal: None, met: None }
    }

    /// Ours as a share of theirs, which must not exceed its goal.
    fn share(
        bench: &'static str,
        name: &str,
        unit: &'static str,
        ours: f64,
        theirs: f64,
        goal: Option<f64>,
    ) -> Row {
        let ratio = ours / theirs;
        Row {
            bench,
            name: name.to_owned(),
            unit,
            ours,
            theirs: Some(theirs),
            ratio: Some(ratio),
            goal,
            met: goal.map(|goal| ratio <= goal),
        }
    }

    /// A size that must not exceed its goal.
    fn size(bench: &'static str, name: &str, ours: u64, goal: u64) -> Row {
        Row {
            bench,
            name: name.to_owned(),
            unit: "bytes",
            ours: ours as f64,
            theirs: None,
            ratio: None,
            goal: Some(goal as f64),
            met: Some(ours <= goal),
        }
    }

    fn json(&self) -> Value {
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        // Sizes are whole numbers and look like it.
        let whole =
            |number: f64| if self.unit == "bytes" { json!(number as u64) } else { json!(round(number)) };
        json!({
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "ours": whole(self.ours),
            "theirs": self.theirs.map(whole),
            "ratio": self.ratio.map(round),
            "goal": self.goal.map(whole),
            "met": self.met,
        })
    }

    fn cells(&self) -> [String; 7] {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let digits = match self.unit {
            "to 1" | "of 1" | "s" => 2,
            "ms" | "MiB" => 1,
            _ => 0,
        };
        // A goal of a rate is a ratio, a goal of a size is a size.
        let goal_digits = if self.ratio.is_some() { 2 } else { 0 };
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        [
            self.name.clone(),
            number(Some(self.ours), digits),
            number(self.theirs, digits),
            self.unit.to_owned(),
            number(self.ratio, 2),
            number(self.goal, goal_digits),
            met.to_owned(),
        ]
    }
}

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

/// What is measured of the benches that have parts.
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
        // It is the others.
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

/// Runs every bench, one after another, and shows all rows in one table. One that fails does not keep the others from running,
/// and counts as a goal that is not met.
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

/// How many goals there are, and how many are not met.
fn verdict(rows: &[Row]) -> String {
    let goals = rows.iter().filter(|row| row.met.is_some()).count();
    let not_met = rows.iter().filter(|row| row.met == Some(false)).count();
    format!("{goals} goals, {not_met} not met")
}

/// A bench's name on the command line.
fn title(name: Name) -> String {
    name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Prints what a bench has measured; gives whether all goals were met.
fn shown(name: Name, rows: &[Row], notes: &[String], json: bool) -> bool {
    if json {
        for row in rows {
            // Not through the screen's colours: for a program.
            println!("{}", row.json());
        }
    } else {
        table(name, rows);
        notes.iter().for_each(|note| ui::text(&format!("  {note}")));
    }
    rows.iter().all(|row| row.met != Some(false))
}

/// Prints rows as columns: those of all benches as a table of Markdown, in which each says what bench it is of.
fn table(name: Name, rows: &[Row]) {
    ui::section(&format!("\r{}: {}", title(name), about(name)));
    let lines = if name == Name::All { markdown(rows) } else { plain(rows) };
    lines.iter().for_each(|line| ui::text(line));
}

const HEAD: [&str; 7] = ["", "ours", "theirs", "unit", "ratio", "goal", "met"];

/// Rows and their head as columns of equal width.
fn plain(rows: &[Row]) -> Vec<String> {
    let head = HEAD.map(str::to_owned).to_vec();
    let lines = std::iter::once(head).chain(rows.iter().map(|row| row.cells().to_vec())).collect();
    // Names and units from the left, numbers from the right.
    let lines = padded(lines, &[0, 3]).into_iter();
    lines.map(|cells| format!("  {}", cells.join("  ")).trim_end().to_owned()).collect()
}

/// The same in Markdown, with the bench of each in front.
fn markdown(rows: &[Row]) -> Vec<String> {
    let of = |bench: &str, cells: [String; 7]| [vec![bench.to_owned()], cells.to_vec()].concat();
    let head = of("bench", HEAD.map(str::to_owned));
    let rule = vec!["---".to_owned(); head.len()];
    let lines = [head, rule].into_iter().chain(rows.iter().map(|row| of(row.bench, row.cells()))).collect();
    let lines = padded(lines, &[0, 1, 4]).into_iter();
    lines.map(|cells| format!("| {} |", cells.join(" | "))).collect()
}

/// Cells as wide as the widest of their column; those columns begin at the left, the others end at the right.
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

/// A guest to be measured, and its folder.
struct Guest<'a> {
    programs: &'a Programs,
    folder: PathBuf,
    disk: Disk,
    /// What the machine is, and what its disk hangs on.
    bed: Bed,
    /// MiB of RAM.
    memory: u32,
    /// Bytes a second that the disk does, `None` for as fast as the host is.
    disk_speed: Option<u64>,
}

impl<'a> Guest<'a> {
    fn new(programs: &'a Programs) -> Result<Guest<'a>> {
        Guest::with_memory(programs, MEMORY)
    }

    /// A guest with so many MiB of RAM.
    fn with_memory(programs: &'a Programs, memory: u32) -> Result<Guest<'a>> {
        Guest::on(Bed::usual(), programs, memory)
    }

    /// A guest on another device.
    fn on(bed: Bed, programs: &'a Programs, memory: u32) -> Result<Guest<'a>> {
        let folder = programs.folder.join("bench");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Room for the noise, all else that the kernel holds, headers and checksums.
        let blocks = u64::from(memory) * 256 + 4096;
        let disk = Disk::create(&folder.join("disk.raw"), blocks)?;
        if bed.device.power_of_two {
            disk.round_up()?;
        }
        Ok(Guest { programs, folder, disk, bed, memory, disk_speed: None })
    }

    fn savecore(&self) -> Savecore {
        Savecore::new(&self.programs.savecore, &self.folder, LIMIT)
    }

    fn format(&self) -> Result<()> {
        // What the last run left there is not worth a question.
        self.savecore().expect(0, "format", &self.disk, &["--yes", "--force"])?;
        Ok(())
    }

    fn machine(&self, scenario: &str) -> Machine {
        let machine = Machine::new(self.bed, self.programs.kernel(Build::release(X86_64)))
            .cpus(1)
            .memory(self.memory)
            .resident()
            .disk(&self.disk)
            .word(format!("scenario={scenario}"))
            .word("reset=return");
        match self.disk_speed {
            Some(speed) => machine.drive(format!("throttling.bps-total={speed}")),
            None => machine,
        }
    }

    /// Runs a guest to its end; gives what it said.
    fn run(&self, machine: &Machine, quiet: bool, what: &str) -> Result<Serial> {
        if !quiet {
            ui::running(what);
        }
        let mut running = machine.start(&self.folder, "bench")?;
        running.wait_exit(LIMIT)?;
        Ok(running.serial)
    }

    /// Runs a guest to its end; gives the rates that it measured, by name, in MB/s.
    fn rates(&self, machine: &Machine, quiet: bool, what: &str) -> Result<Vec<(String, f64)>> {
        let serial = self.run(machine, quiet, what)?;
        let rates: Vec<(String, f64)> = measured(&serial)
            .filter_map(|line| {
                let name = serial::value(line, "name")?.to_owned();
                let bytes = serial::number(line, "bytes")? as f64;
                let nanoseconds = serial::number(line, "ns")?.max(1) as f64;
                Some((name, bytes * 1000.0 / nanoseconds))
            })
            .collect();
        anyhow::ensure!(
            !rates.is_empty(),
            "{what}: the guest measured nothing, its last line: `{}`; log: {}",
            serial.last(),
            serial.path().display()
        );
        Ok(rates)
    }

    /// The rate with this name; of several the middle one.
    fn rate(&self, machine: &Machine, quiet: bool, name: &str) -> Result<f64> {
        Ok(median(self.rates_of(machine, quiet, name)?))
    }

    /// All rates with this name, at least one.
    fn rates_of(&self, machine: &Machine, quiet: bool, name: &str) -> Result<Vec<f64>> {
        let rates = self.rates(machine, quiet, name)?;
        let found: Vec<f64> =
            rates.into_iter().filter(|(found, _)| found == name).map(|(_, rate)| rate).collect();
        anyhow::ensure!(
            !found.is_empty(),
            "the guest did not measure {name}; log: {}",
            self.folder.display()
        );
        Ok(found)
    }
}

/// The lines in which a guest says what it measured: `testkernel: bench name=NAME bytes=N ns=N …`.
fn measured(serial: &Serial) -> impl Iterator<Item = &str> {
    serial
        .lines()
        .iter()
        .map(|line| line.text.as_str())
        .filter(|line| line.contains("testkernel: bench name="))
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    if numbers.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) }
}

/// A raw dump is bound by the disk, so it is held against plain polled writes of as much by the same driver. A packed one is
/// bound by what takes longer: to compress, or to write what is left.
fn dump(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let bytes = u64::from(FILL) << 20;
    let (mut plain, mut pipelined) = (Vec::new(), Vec::new());
    let (mut unverified, mut verified, mut qemu) = (Vec::new(), Vec::new(), Vec::new());
    let mut packed = FILLS.map(Packed::new);
    for _ in 0..RUNS {
        // Both write the same blocks of an image that the host has in its cache.
        // "One at a time" is the yardstick: submit, poll, next. The other writes the same few cached buffers over and
        // over with all of them in flight, which nothing that reads all of memory can reach.
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
    // The folder holds a gigabyte.
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

/// Nearly nothing is checked before it is written.
const UNVERIFIED: &str = "verify=sample:1000000000";

/// What memory is filled with for a packed dump: the worst, which costs time and does not shrink, and what shrinks.
const FILLS: [Fill; 2] = [Fill { kind: "random", name: "noise" }, Fill { kind: "text", name: "text" }];

#[derive(Clone, Copy)]
struct Fill {
    /// The test kernel's word for it.
    kind: &'static str,
    name: &'static str,
}

/// Packed dumps of one kind of memory, and what bounds them; rates in MB of memory a second.
struct Packed {
    fill: Fill,
    dumps: Vec<f64>,
    /// The compressor alone, in units of as many pages as a dump's.
    alone: Vec<f64>,
    /// Bytes of memory by bytes packed.
    shrinks: f64,
}

impl Packed {
    fn new(fill: Fill) -> Packed {
        Packed { fill, dumps: Vec::new(), alone: Vec::new(), shrinks: 1.0 }
    }

    /// Against the bound that is reached first, on a disk that does so many MB/s.
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

/// What a compressor did with a guest's memory.
struct Packing {
    /// The compressor, and the pages of its unit.
    name: String,
    /// MB of memory a second.
    rate: f64,
    /// Bytes of memory by bytes packed.
    shrinks: f64,
}

impl Guest<'_> {
    /// Lets the guest pack so many MiB of memory of a kind, in each way that the scenario has.
    fn packing(&self, scenario: &str, fill: u32, kind: &str, quiet: bool) -> Result<Vec<Packing>> {
        let machine = self.machine(scenario).word(format!("fill={fill}")).word(format!("fill.kind={kind}"));
        let serial = self.run(&machine, quiet, scenario)?;
        let read = |line: &str| {
            let say = || format!("cannot read `{line}`");
            let number = |key: &str| serial::number(line, key).map(|number| number.max(1) as f64);
            let name = serial::value(line, "name").with_context(say)?.to_owned();
            let (bytes, packed) = number("bytes").zip(number("packed")).with_context(say)?;
            let rate = bytes * 1000.0 / number("ns").with_context(say)?;
            Ok(Packing { name, rate, shrinks: bytes / packed })
        };
        measured(&serial).map(read).collect()
    }
}

/// QEMU's own dump of the same guest, standing still: the same noise, by the time that QEMU takes.
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
                // Headers have a CRC-32; for bulk data it would have to be beaten, or there is no reason for another.
                "crc32" => Some(1.0),
                // It was given up for what it did not see. This one has as many instructions, which is what an emulated machine pays
                // for, and waits less; the rest is for the noise.
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
    fn the_median_is_the_middle_one_whatever_the_order() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_goal_is_met_from_its_value_on() {
        assert_eq!(Row::rate("dump", "a", 70.0, 100.0, Some(0.7)).met, Some(true));
        assert_eq!(Row::rate("dump", "a", 69.0, 100.0, Some(0.7)).met, Some(false));
        assert_eq!(Row::rate("dump", "a", 69.0, 100.0, None).met, None);
        assert_eq!(Row::size("footprint", "stack", 8192, 8192).met, Some(true));
        assert_eq!(Row::size("footprint", "stack", 8193, 8192).met, Some(false));
    }

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

    #[test]
    fn the_machine_form_has_all_keys() {
        let value = Row::size("footprint", "arena", 5, 8).json();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["bench", "goal", "met", "name", "ours", "ratio", "theirs", "unit"]);
    }
}

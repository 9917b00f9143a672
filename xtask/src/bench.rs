//! `cargo xtask bench`: what a dump costs, measured in the guest, against its yardsticks.
//!
//! Both sides of a ratio are measured in turn, run by run, since a shared machine's speed wanders; the medians count.

mod drivers;
mod engine;
mod linux;
mod savecore;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

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
    /// A dump against plain polled writes, and against QEMU's dump-guest-memory
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
/// How much of plain writing a dump must reach.
const DUMP_GOAL: f64 = 0.7;

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
    let (parts, devices) = match name {
        Some(Name::Engine) => (engine::chosen(part)?, drivers::chosen(None)?),
        Some(Name::Drivers) => (engine::chosen(None)?, drivers::chosen(part)?),
        _ if part.is_some() => {
            return Err(CannotBegin("only `bench engine` and `bench drivers` have parts".to_owned()).into());
        }
        _ => (engine::chosen(None)?, drivers::chosen(None)?),
    };
    if name == Some(Name::Savecore) {
        // It runs no guest.
        let mut notes = Vec::new();
        let rows = savecore::rows(&mut notes, json)?;
        return Ok(shown(Name::Savecore, &rows, &notes, json));
    }
    if name == Some(Name::Linux) {
        // It runs no test kernel.
        let mut notes = Vec::new();
        let rows = linux::rows(&build::savecore()?, &mut notes, json)?;
        return Ok(shown(Name::Linux, &rows, &notes, json));
    }
    setup::ensure(&[crate::toolchain::TARGETS[0]])?;
    if !json {
        ui::running("building the test kernel and savecore");
    }
    let programs = build::programs([Build::release(X86_64)])?;
    let chosen = match name {
        Some(name) => vec![name],
        None => Name::value_variants().to_vec(),
    };
    let mut met = true;
    for name in chosen {
        let mut notes = Vec::new();
        let rows = match name {
            Name::Dump => dump(&programs, json)?,
            Name::Checksum => checksum(&programs, json)?,
            Name::Footprint => footprint(&programs)?,
            Name::Engine => engine::rows(&programs, &parts, json)?,
            Name::Drivers => drivers::rows(&programs, &devices, &mut notes, json)?,
            Name::Savecore => savecore::rows(&mut notes, json)?,
            Name::Linux => linux::rows(&programs.savecore, &mut notes, json)?,
        };
        met &= shown(name, &rows, &notes, json);
    }
    Ok(met)
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

/// Prints rows as columns.
fn table(name: Name, rows: &[Row]) {
    let title = name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    ui::section(&format!("\r{title}: {}", about(name)));
    let head = ["", "ours", "theirs", "unit", "ratio", "goal", "met"].map(str::to_owned);
    let lines: Vec<[String; 7]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                // Names and units from the left, numbers from the right.
                if matches!(column, 0 | 3) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            })
            .collect();
        ui::text(format!("  {}", cells.join("  ")).trim_end());
    }
}

fn about(name: Name) -> String {
    match name {
        Name::Dump => format!(
            "{FILL} MiB of noise in a guest of {MEMORY} MiB, panic to shutdown of the disk; medians of {RUNS} runs"
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

fn dump(programs: &Programs, quiet: bool) -> Result<Vec<Row>> {
    let guest = Guest::new(programs)?;
    let bytes = u64::from(FILL) << 20;
    let (mut plain, mut pipelined) = (Vec::new(), Vec::new());
    let (mut unverified, mut verified, mut qemu) = (Vec::new(), Vec::new(), Vec::new());
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
        for (verify, rates) in [("sample:1000000000", &mut unverified), ("all", &mut verified)] {
            guest.format()?;
            let machine =
                guest.machine("bench-dump").word(format!("fill={FILL}")).word(format!("verify={verify}"));
            rates.push(guest.rate(&machine, quiet, "dump")?);
        }
        qemu.push(dump_guest_memory(&guest, bytes, quiet)?);
    }
    let (plain, pipelined, qemu) = (median(plain), median(pipelined), median(qemu));
    let (unverified, verified) = (median(unverified), median(verified));
    // The folder holds a gigabyte.
    let _ = fs::remove_dir_all(&guest.folder);
    Ok(vec![
        Row::rate(
            "dump",
            "verification off / plain writes, one at a time",
            unverified,
            plain,
            Some(DUMP_GOAL),
        ),
        Row::rate("dump", "verify all / plain writes, one at a time", verified, plain, None),
        Row::rate("dump", "verification off / plain writes in flight", unverified, pipelined, None),
        Row::rate("dump", "verification off / dump-guest-memory", unverified, qemu, None),
        Row::rate("dump", "verify all / dump-guest-memory", verified, qemu, None),
    ])
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
            // Headers have a CRC-32; for bulk data it would have to be beaten, or there is no reason for another.
            let goal = (name == "crc32").then_some(1.0);
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
    fn the_machine_form_has_all_keys() {
        let value = Row::size("footprint", "arena", 5, 8).json();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["bench", "goal", "met", "name", "ours", "ratio", "theirs", "unit"]);
    }
}

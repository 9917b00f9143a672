//! `cargo xtask campaign`: tests that take hours. Kills savecore, makes its system calls fail, and fuzzes its
//! input, for as long as requested; then prints a table of runs and findings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::toolchain::{host_cargo, logged};
use crate::ui::{self, Mark};
use crate::{CannotBegin, fuzz, setup};

/// Allowance on top of a part's time: for the current run and the build.
const GRACE: Duration = Duration::from_secs(1200);

/// A part of the campaign.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    /// savecore under this kind of trouble; name and description.
    Trouble(&'static str, &'static str),
    /// A fuzzer.
    Fuzz(String),
}

/// The kinds of trouble.
const TROUBLES: [(&str, &str); 3] = [
    ("kills", "savecore is killed at random moments"),
    ("calls", "savecore is killed before each of its system calls"),
    ("faults", "each of savecore's system calls fails in each way"),
];

impl Part {
    fn all() -> Result<Vec<Part>> {
        let troubles = TROUBLES.into_iter().map(|(name, about)| Part::Trouble(name, about));
        Ok(troubles.chain(fuzz::targets()?.into_iter().map(Part::Fuzz)).collect())
    }

    fn name(&self) -> String {
        match self {
            Part::Trouble(name, _) => (*name).to_owned(),
            Part::Fuzz(name) => format!("fuzz-{name}"),
        }
    }

    fn about(&self) -> String {
        match self {
            Part::Trouble(_, about) => (*about).to_owned(),
            Part::Fuzz(name) => format!("a fuzzer makes up what `cargo xtask fuzz {name}` reads"),
        }
    }
}

/// A row of the table: what a part did.
#[derive(Debug)]
struct Row {
    name: String,
    seconds: f64,
    /// `None` if it did not report it.
    runs: Option<u64>,
    /// Total number of runs, if it is finite.
    of: Option<u64>,
    /// Runs that the trouble reached, out of those with trouble.
    reached: Option<u64>,
    /// Dumps that were neither on their partition nor in the store.
    lost: Option<u64>,
    findings: u64,
}

/// The options of the task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// Only parts whose name contains this.
    pub(crate) filter: Option<&'a str>,
    /// Hours for each part.
    pub(crate) hours: f64,
    /// Seed of the random numbers.
    pub(crate) seed: u64,
    /// Only list the parts.
    pub(crate) list: bool,
}

/// The task.
pub(crate) fn task(options: Options<'_>) -> Result<bool> {
    let mut parts = Part::all()?;
    parts.retain(|part| options.filter.is_none_or(|filter| part.name().contains(filter)));
    if parts.is_empty() {
        let why = "no part's name contains that; `cargo xtask campaign --list` names them";
        return Err(CannotBegin(why.to_owned()).into());
    }
    if options.list {
        for part in parts {
            ui::text(&format!("{:<24} {}", part.name(), part.about()));
        }
        return Ok(true);
    }
    let seconds = options.hours * 3600.0;
    if !(1.0..=1e6).contains(&seconds) {
        return Err(CannotBegin(format!("{} hours: use 0.001 to 277", options.hours)).into());
    }
    let seconds = seconds as u64;
    if parts.iter().any(|part| matches!(part, Part::Trouble(..))) && !setup::in_path("strace") {
        return Err(CannotBegin("strace is missing: sudo apt-get install strace".to_owned()).into());
    }
    if parts.iter().any(|part| matches!(part, Part::Fuzz(_))) {
        fuzz::build()?;
    }
    let mut rows = Vec::new();
    for part in &parts {
        let row = match part {
            Part::Trouble(name, _) => trouble(name, seconds, options.seed)?,
            Part::Fuzz(name) => {
                let begin = Instant::now();
                let fuzzed = fuzz::run(name, seconds)?;
                Row {
                    name: part.name(),
                    seconds: begin.elapsed().as_secs_f64(),
                    runs: fuzzed.runs,
                    of: None,
                    reached: None,
                    lost: None,
                    findings: fuzzed.findings as u64,
                }
            }
        };
        rows.push(row);
    }
    table(&rows).iter().for_each(|line| ui::text(line));
    Ok(rows.iter().all(|row| row.findings == 0 && row.lost.is_none_or(|lost| lost == 0)))
}

/// savecore under trouble of one kind.
fn trouble(name: &str, seconds: u64, seed: u64) -> Result<Row> {
    ui::running(name);
    let begin = Instant::now();
    let mut cargo = host_cargo();
    cargo.args(["test", "--quiet", "--package", "savecore", "--test", "campaign", "--", name]);
    cargo.arg("--seconds").arg(seconds.to_string()).arg("--seed").arg(seed.to_string());
    let output = logged(cargo, &format!("campaign {name}"), Duration::from_secs(seconds) + GRACE)?;
    let line = output.stdout.lines().rev().find(|line| line.starts_with('{'));
    let said = line.and_then(|line| serde_json::from_str::<Value>(line).ok());
    let said =
        said.with_context(|| format!("campaign {name} did not run; log: {}.err", output.log.display()))?;
    let number = |key: &str| said[key].as_u64();
    let row = Row {
        name: name.to_owned(),
        seconds: said["seconds"].as_f64().unwrap_or_default(),
        runs: number("runs"),
        of: number("of"),
        reached: number("hurt"),
        lost: number("lost"),
        findings: number("findings").unwrap_or(1),
    };
    let mark = if row.findings == 0 { Mark::Ok } else { Mark::Failed };
    let runs = row.runs.unwrap_or_default();
    ui::done(mark, name, &format!("{runs} runs, {} findings", row.findings), Some(begin.elapsed()));
    for told in said["told"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ui::text(&format!("        {}", told.lines().next().unwrap_or_default()));
    }
    Ok(row)
}

/// The rows as a table.
fn table(rows: &[Row]) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut lines = vec![
        "| part | seconds | runs | of | a second | reached | lost | findings |".to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    for row in rows {
        let rate = row
            .runs
            .map_or_else(|| "-".to_owned(), |runs| format!("{:.1}", runs as f64 / row.seconds.max(0.001)));
        lines.push(format!(
            "| {} | {:.0} | {} | {} | {rate} | {} | {} | {} |",
            row.name,
            row.seconds,
            number(row.runs),
            number(row.of),
            number(row.reached),
            number(row.lost),
            row.findings
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_name_of_its_own_and_all_fuzzers_are_parts() {
        let parts = Part::all().unwrap();
        let mut names: Vec<String> = parts.iter().map(Part::name).collect();
        assert!(names.contains(&"kills".to_owned()) && names.contains(&"fuzz-configuration".to_owned()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_table_says_the_rate_and_leaves_out_what_is_not_known() {
        let row = Row {
            name: "kills".to_owned(),
            seconds: 10.0,
            runs: Some(25),
            of: None,
            reached: Some(20),
            lost: Some(0),
            findings: 0,
        };
        let lines = table(&[row]);
        assert_eq!(lines[2], "| kills | 10 | 25 | - | 2.5 | 20 | 0 | 0 |");
    }
}

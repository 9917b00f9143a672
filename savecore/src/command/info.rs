//! `savecore info`: what crashed, when, why, and how much of it is there.

use std::io::Write;

use savecore::dump::{Dump, Report};
use savecore::partition::Partition;
use savecore::source::{Access, Target};

use super::{TargetArguments, salvage};
use crate::command::story;
use crate::output::{Bar, FAINT, WARNING, harmless, json, out, paint};
use crate::{Finding, printed};

/// Tell what is known of each dump on TARGET
#[derive(clap::Args)]
#[command(after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show the end of the kernel's log too
    #[arg(long, conflicts_with = "json")]
    log: bool,
    /// Look at every block for dumps, not only in front of the first free block
    #[arg(long)]
    search: bool,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    uuid: uuid::Uuid,
    dumps: &'a [Report],
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let target = arguments.target.open(Access::Read)?;
    let mut bar = Bar::new();
    let partition = salvage(&target, arguments.search, &mut bar)?;
    printed(print(arguments, &target, &partition, &mut bar))?;
    Ok(if partition.dumps.is_empty() { Finding::Negative } else { Finding::Good })
}

fn print(arguments: &Arguments, target: &Target, partition: &Partition, bar: &mut Bar) -> anyhow::Result<()> {
    let shown = target.name();
    let uuid = partition.uuid();
    let mut reports = Vec::new();
    for (index, found) in partition.dumps.iter().enumerate() {
        let dump = Dump::open_with(target, uuid, found, bar);
        let report = Report::new(&dump);
        if arguments.json {
            reports.push(report);
            continue;
        }
        let mut out = out();
        if index > 0 {
            writeln!(out)?;
        }
        story::tell(&mut out, &report)?;
        if arguments.log {
            let log = String::from_utf8_lossy(&dump.facts().log).into_owned();
            writeln!(out, "  {}", paint(FAINT, "log"))?;
            for line in harmless(&log).lines() {
                writeln!(out, "    {line}")?;
            }
        }
    }
    if arguments.json {
        json(&Result { target: shown, uuid: uuid::Uuid::from_bytes(uuid), dumps: &reports })?;
    }
    for range in &partition.foreign {
        if !arguments.json {
            let text = format!("blocks {} to {} belong to no dump", range.start, range.end - 1);
            writeln!(out(), "{}", paint(WARNING, text))?;
        }
    }
    if partition.dumps.is_empty() && !arguments.json {
        writeln!(out(), "{shown}: no dump")?;
    }
    Ok(())
}

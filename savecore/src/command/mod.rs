//! The subcommands, one file each, and their common parts.

pub(crate) mod adopt;
pub(crate) mod arm;
pub(crate) mod boot;
pub(crate) mod check;
pub(crate) mod clear;
pub(crate) mod completions;
mod configuration;
pub(crate) mod drill;
pub(crate) mod format;
pub(crate) mod info;
pub(crate) mod install;
mod kernel_on;
mod kernels;
pub(crate) mod keygen;
mod keys;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod probe;
mod rearm;
pub(crate) mod report;
pub(crate) mod save;
mod story;
mod system;
mod targets;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use savecore::Error;
use savecore::arming::System;
use savecore::corefile::CoreOptions;
use savecore::ownership::{Owner, Whose};
use savecore::partition::{Search, read_label};
use savecore::source::{Access, Reading, TableKind, Target, node_at};

use savecore::targets::TargetName;

use crate::output::warning;

/// The target, as all subcommands take it.
#[derive(clap::Args)]
pub(crate) struct TargetArguments {
    /// Block device, image file, disk, or (for reading only) - for standard input
    pub(crate) target: PathBuf,
    /// Partition of TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID")]
    pub(crate) partition: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
}

/// How the partition table of an image is to be read, as all subcommands take it.
#[derive(Clone, Copy, Default, clap::Args)]
pub(crate) struct ReadingArguments {
    /// Sector size of an image's partition table, if it can be read in two ways
    #[arg(long, value_name = "512|4096", value_parser = sector_size)]
    sector_size: Option<u32>,
    /// Which partition table of an image to use, if it has two
    #[arg(long, value_enum)]
    table: Option<TableName>,
}

/// A kind of partition table, as an argument.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum TableName {
    /// The GUID partition table
    Gpt,
    /// The DOS partition table
    Dos,
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("disks have sectors of 512 or of 4096 bytes".to_owned()),
    }
}

impl ReadingArguments {
    pub(crate) fn reading(&self) -> Reading {
        let table = self.table.map(|table| match table {
            TableName::Gpt => TableKind::Gpt,
            TableName::Dos => TableKind::Dos,
        });
        Reading { sector_size: self.sector_size, table }
    }
}

impl TargetArguments {
    pub(crate) fn open(&self, access: Access) -> Result<Target, Error> {
        let (path, partition) = (self.target.clone(), self.partition.clone());
        open(&TargetName { path, partition, reading: self.reading.reading() }, access)
    }
}

/// Opens a target, and warns about oddities.
fn open(name: &TargetName, access: Access) -> Result<Target, Error> {
    let target = name.open(access)?;
    if let Some(remark) = target.remark() {
        warning(&format!("{}: {remark}", target.name()));
    }
    Ok(target)
}

/// Prevents mistakes with another machine's partition.
///
/// # Errors
/// If its label names another machine, without an explicit option.
fn refuse_foreign(target: &Target, owner: &Owner, is_meant: bool, what: &str) -> anyhow::Result<()> {
    let Ok(label) = read_label(target) else { return Ok(()) };
    if is_meant || owner.of_label(&label) != Whose::AnotherMachine {
        return Ok(());
    }
    let shown = target.name();
    anyhow::bail!(
        "{shown} is another machine's dump partition: add --foreign to {what} it anyway, or `savecore adopt` makes it this machine's; nothing was changed"
    )
}

/// Whether a target is a device of the system, not a file.
fn is_device(system: &System, named: &TargetArguments, target: &Target) -> bool {
    target.is_device()
        || node_at(&system.roots, &named.target, named.partition.as_deref()).is_ok_and(|node| node.is_some())
}

/// The extent of the search for dumps.
fn search(whole: bool) -> Search {
    if whole { Search::Whole } else { Search::Quick }
}

/// The number of threads; by default the number of CPUs.
fn threads(given: Option<usize>) -> anyhow::Result<usize> {
    match given {
        Some(0) => anyhow::bail!("--threads must be at least 1"),
        Some(threads) => Ok(threads.min(1024)),
        None => Ok(CoreOptions::default().threads),
    }
}

/// Asks a question on a terminal; `None` without a terminal.
fn ask(question: &str) -> anyhow::Result<Option<bool>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ").context("cannot ask")?;
    stderr.flush().context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

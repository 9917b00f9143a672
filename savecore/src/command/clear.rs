//! `savecore clear`: lays the pattern over dumps again without saving them.

use std::io::Write;

use anyhow::{Context, bail};
use savecore::partition::{self, Found};
use savecore::source::Access;
use savecore::text::harmless;

use super::system::SystemArguments;
use super::{TargetArguments, ask, search};
use crate::finding::{Finding, printed};
use crate::output::{Bar, count, json, out, warning};

/// Discard all dumps on TARGET without saving them (asks first)
#[derive(clap::Args)]
#[command(after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Clear another machine's dump partition too
    #[arg(long)]
    foreign: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Search every block for dumps, not only those before the first free block
    #[arg(long)]
    search: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// Maximum number of panic messages to show before discarding dumps.
const SHOWN: usize = 16;

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    cleared: u64,
    blocks: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let mut target = arguments.target.open(Access::Write)?;
    let shown = target.name().to_owned();
    let owner = arguments.system.owner();
    super::refuse_foreign(&target, &owner, arguments.foreign, "clear it")?;
    let mut bar = Bar::new();
    let mut partition = match partition::scan_with(&target, search(arguments.search), &mut bar) {
        Ok(partition) => partition,
        Err(error) => match partition::waiting(&target, owner.machine()) {
            // The error's advice, to format, would be refused because of the dump.
            Ok((1.., Some(defect))) => bail!(
                "{shown}: {defect}, so nothing can be cleared: `savecore save --keep` first, then `savecore format --force`"
            ),
            _ => return Err(error).with_context(|| shown.clone()),
        },
    };
    partition.doubt(&target, owner.machine());
    if let Some(other) = &partition.other_version {
        warning(&format!("{shown}: {other}: it stays as it is"));
    }
    for range in &partition.foreign {
        warning(&format!(
            "{shown}: blocks {} to {} belong to no dump and stay as they are; `savecore format` formats all of it again",
            range.start,
            range.end - 1
        ));
    }
    if let Some(found) = partition::growing(&target, &partition) {
        bail!(
            "{shown}: dump {} is still being written: clear it when that is finished; nothing was changed",
            found.header.sequence
        );
    }
    let number = partition.dumps.len() as u64;
    if partition.earlier.dumps > 0 {
        let others = partition.earlier.dumps;
        warning(&format!(
            "{shown}: {others} more dumps stay: clear again, or format it to discard all at once"
        ));
    }
    if number == 0 {
        printed(if arguments.json {
            json(&Result { target: &shown, cleared: 0, blocks: 0 })
        } else {
            writeln!(out(), "{shown}: no dump").map_err(anyhow::Error::from)
        })?;
        return Ok(Finding::Negative);
    }
    let waiting = partition.number_waiting();
    if !arguments.yes && waiting > 0 {
        let message = |found: &Found| harmless(found.header.message()).replace('\n', " ");
        let mut messages: Vec<String> = partition.waiting().take(SHOWN).map(message).collect();
        if waiting > SHOWN as u64 {
            messages.push(format!("and {} more", waiting - SHOWN as u64));
        }
        let question = format!(
            "{shown} holds {} that nobody has saved:\n  {}\nDiscard?",
            count(waiting, "dump", "dumps"),
            messages.join("\n  ")
        );
        match ask(&question)? {
            Some(true) => {}
            Some(false) => {
                warning(&format!("{shown} was left as it is"));
                return Ok(Finding::Negative);
            }
            None => bail!(
                "{shown} holds {} that nobody has saved, and there is no terminal to ask on: add --yes to discard; nothing was changed",
                count(waiting, "dump", "dumps")
            ),
        }
    }
    target.make_writable()?;
    let uuid = partition.uuid();
    // From last to first, so that there is never a gap before a dump.
    for found in partition.dumps.iter().rev() {
        // If interrupted from here on, `savecore save` and `savecore boot` finish it: the user has confirmed.
        let marked =
            partition::mark_saved(&mut target, found, owner.machine()).with_context(|| shown.clone())?;
        partition::clear(&mut target, &uuid, &marked, &mut bar).with_context(|| shown.clone())?;
    }
    let blocks = partition.dumps.iter().map(|found| found.blocks()).sum();
    printed(if arguments.json {
        json(&Result { target: &shown, cleared: number, blocks })
    } else {
        let dumps = count(number, "dump", "dumps");
        writeln!(out(), "{shown}: {dumps} cleared, {blocks} blocks are free again")
            .map_err(anyhow::Error::from)
    })?;
    Ok(Finding::Good)
}

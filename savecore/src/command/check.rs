//! `savecore check`: is a partition ready for a dump, are dumps waiting, is it damaged?

use std::io::{self, Write};

use anyhow::Context;
use savecore::Error;
use savecore::arming::KernelOn;
use savecore::dump::{Dump, Report, utc};
use savecore::keys::public_text;
use savecore::partition::{self, Check, Partition, Search, Verdict};
use savecore::source::{Access, Target};
use savecore::text::harmless;

use savecore::targets::{Opener, TargetName, is_copy};

use super::targets::{IdentityArguments, TargetsArguments, identity};
use super::{kernel_on, open};
use crate::finding::{Finding, one_line, printed};
use crate::output::{BAD, Bar, GOOD, WARNING, count, json, out, paint, size};

/// Read every block of each TARGET and say whether it is unformatted, ready, damaged, or has waiting dumps
///
/// "Ready" means that a dump can be written there. Whether the running kernel would do so is shown next to it, and by
/// `savecore armed`. Without a TARGET, all of this machine's own dump partitions are read. --json prints one object for
/// a single named TARGET, and a list otherwise.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    targets: TargetsArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct BadBlock {
    block: u64,
    holds: String,
}

#[derive(serde::Serialize)]
struct Result {
    target: String,
    verdict: &'static str,
    why: Option<String>,
    /// The running kernel's relation to it; missing for an image.
    kernel: Option<KernelOn>,
    uuid: Option<uuid::Uuid>,
    name: Option<String>,
    created: Option<String>,
    /// The public key for encrypted dumps.
    recipient: Option<String>,
    blocks: Option<u64>,
    free_blocks: Option<u64>,
    bad_blocks: u64,
    first_bad: Option<BadBlock>,
    dumps: Vec<Report>,
}

impl Result {
    /// The facts that need no read of every block.
    fn of_label(
        target: &str,
        verdict: &'static str,
        why: Option<String>,
        partition: Option<&Partition>,
    ) -> Result {
        Result {
            target: target.to_owned(),
            verdict,
            why,
            kernel: None,
            uuid: partition.map(|partition| uuid::Uuid::from_bytes(partition.uuid())),
            name: None,
            created: None,
            recipient: partition.and_then(|partition| partition.label.recipient()).map(public_text),
            blocks: None,
            free_blocks: None,
            bad_blocks: 0,
            first_bad: None,
            dumps: Vec::new(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let opener = arguments.identity.read()?;
    let names = arguments.targets.names()?;
    let mut told = Told { json: arguments.json.then(Vec::new) };
    let mut worst = Finding::Good;
    for name in &names {
        match (check(arguments, name, opener.as_ref(), &mut told), worst) {
            (Ok(Finding::Good), _) | (Ok(_), Finding::Failed) => {}
            (Ok(finding), _) => worst = finding,
            (Err(error), _) if names.len() == 1 => return Err(error),
            // The others are checked anyway.
            (Err(error), _) => {
                crate::output::error(&one_line(&format!("{error:#}")));
                worst = Finding::Failed;
            }
        }
    }
    printed(match told.json.as_deref() {
        None => Ok(()),
        Some([result]) if arguments.targets.named().len() == 1 => json(result),
        Some(results) => json(&results),
    })?;
    Ok(worst)
}

/// The output: one result at a time for people, or all together as JSON.
struct Told {
    json: Option<Vec<Result>>,
}

impl Told {
    fn tell(
        &mut self,
        result: impl FnOnce() -> Result,
        text: impl FnOnce() -> io::Result<()>,
    ) -> anyhow::Result<()> {
        match &mut self.json {
            Some(results) => results.push(result()),
            None => printed(text().map_err(anyhow::Error::from))?,
        }
        Ok(())
    }
}

fn check(
    arguments: &Arguments,
    name: &TargetName,
    opener: Option<&Opener>,
    told: &mut Told,
) -> anyhow::Result<Finding> {
    let target = open(name, Access::Read)?;
    let shown = target.name();
    if let Some(opener) = opener {
        // The check reports the same errors, with more details.
        if let Ok(partition) = partition::salvage(&target, Search::Quick, &mut ()) {
            opener.refuse_wrong(shown, &partition)?;
        }
    }
    // Standard input has no name for an advice.
    let is_part = matches!(partition::read_label(&target), Err(Error::OtherSize { label, partition }) if partition < label);
    if is_copy(&name.path) || (target.is_carried() && is_part) {
        return check_copy(&target, opener, told);
    }
    match partition::check_with(&target, identity(opener), &mut Bar::new()) {
        Ok(check) => {
            let kernel = on(arguments, name, &check.partition);
            told.tell(|| of_check(shown, &check, kernel), || print_text(shown, &check, kernel))?;
            let good = matches!(check.verdict, Verdict::Ready | Verdict::Waiting);
            Ok(if good { Finding::Good } else { Finding::Negative })
        }
        Err(error) => {
            let on = |partition: &Partition| on(arguments, name, partition);
            without_label(&target, opener, error, on, told)
        }
    }
}

/// The running kernel's relation to the target.
fn on(arguments: &Arguments, name: &TargetName, partition: &Partition) -> Option<KernelOn> {
    let uuid = uuid::Uuid::from_bytes(partition.uuid());
    kernel_on::held(&arguments.targets.system())?.on(&name.path, name.partition.as_deref(), uuid)
}

/// A raw copy is not a partition for dumps: what counts is whether its dump is complete.
fn check_copy(target: &Target, opener: Option<&Opener>, told: &mut Told) -> anyhow::Result<Finding> {
    let shown = target.name();
    let mut bar = Bar::new();
    let partition = partition::salvage(target, Search::Quick, &mut bar).with_context(|| shown.to_owned())?;
    let dumps = reports(target, &partition, opener, &mut bar);
    let whole = !dumps.is_empty() && dumps.iter().all(|dump| !dump.damaged && dump.status != "unfinished");
    let (verdict, style) = if whole { ("copy", GOOD) } else { ("damaged", BAD) };
    let why = "a raw copy of a dump: `savecore save` makes a core of it";
    let result = || Result {
        dumps: dumps.clone(),
        ..Result::of_label(shown, verdict, Some(why.to_owned()), Some(&partition))
    };
    told.tell(result, || {
        writeln!(out(), "{shown}: {}: {why}", paint(style, if whole { "whole" } else { "damaged" }))
            .and_then(|()| print_dumps(&mut out(), &dumps))
    })?;
    Ok(if whole { Finding::Good } else { Finding::Negative })
}

fn reports(target: &Target, partition: &Partition, opener: Option<&Opener>, bar: &mut Bar) -> Vec<Report> {
    let report =
        |found| Report::new(&Dump::open_with(target, partition.uuid(), found, identity(opener), bar));
    partition.dumps.iter().map(report).collect()
}

/// The label is unusable, with this error. There may be a dump nevertheless; then shows how to get at it.
fn without_label(
    target: &Target,
    opener: Option<&Opener>,
    error: Error,
    on: impl FnOnce(&Partition) -> Option<KernelOn>,
    told: &mut Told,
) -> anyhow::Result<Finding> {
    let shown = target.name();
    let mut bar = Bar::new();
    let (verdict, why, partition, dumps) = match (partition::salvage(target, Search::Quick, &mut bar), error)
    {
        (Ok(partition), error) => {
            let dumps = reports(target, &partition, opener, &mut bar);
            let fault = partition.defect.map_or_else(|| error.to_string(), |defect| defect.to_string());
            let why = match partition.number_waiting() {
                0 => format!("{fault}; `savecore format` formats it again"),
                waiting => format!(
                    "{fault}, and {} there: `savecore save --keep` first, then `savecore format --force`",
                    count(waiting, "dump waits", "dumps wait")
                ),
            };
            ("damaged", why, Some(partition), dumps)
        }
        (Err(_), error @ Error::Unformatted { .. }) => ("unformatted", error.to_string(), None, Vec::new()),
        (Err(_), error @ Error::Version { .. }) => ("other-version", error.to_string(), None, Vec::new()),
        (Err(_), error @ Error::OtherSize { .. }) => ("damaged", error.to_string(), None, Vec::new()),
        (Err(_), error) => return Err(error).with_context(|| shown.to_owned()),
    };
    let kernel = partition.as_ref().and_then(on);
    let result = || Result {
        dumps: dumps.clone(),
        kernel,
        ..Result::of_label(shown, verdict, Some(why.clone()), partition.as_ref())
    };
    told.tell(result, || {
        let kernel = kernel.map_or_else(String::new, |on| kernel_on::joined(Verdict::Damaged, on));
        writeln!(out(), "{shown}: {}{kernel}: {why}", paint(BAD, verdict))
            .and_then(|()| print_dumps(&mut out(), &dumps))
    })?;
    Ok(Finding::Negative)
}

fn verdict_name(check: &Check) -> &'static str {
    match check.verdict {
        Verdict::Ready => "ready",
        Verdict::Waiting => "waiting",
        Verdict::Damaged => "damaged",
    }
}

/// Why a partition is not in order, in a sentence.
pub(super) fn why(check: &Check) -> Option<String> {
    if let Some(other) = &check.partition.other_version {
        return Some(format!("{other}; use the savecore of that version"));
    }
    if let Some(bad) = &check.first_bad {
        let others = match check.bad_blocks {
            1 => String::new(),
            blocks => format!("; {blocks} blocks do not hold their pattern"),
        };
        return Some(format!("block {} holds {}{others}", bad.block, bad.holds));
    }
    if check.verdict != Verdict::Damaged {
        return None;
    }
    let foreign = |dump: &Report| dump.first_foreign.map(|first| (first, dump.foreign_blocks));
    if let Some((first, blocks)) = check.dumps.iter().find_map(foreign) {
        let others = if blocks == 1 { String::new() } else { format!("; {blocks} such blocks") };
        return Some(format!(
            "block {first} is foreign, too far after an unfinished dump to be torn by the power cut{others}; `savecore save` recovers what is readable and leaves those blocks alone"
        ));
    }
    let why = if check.dumps.iter().any(|dump| dump.damaged) {
        "a dump is damaged; `savecore save` recovers what is readable"
    } else if check.dumps.iter().any(|dump| dump.status == "unfinished") {
        "a dump is unfinished; `savecore save` recovers what is there"
    } else if check.dumps.iter().any(|dump| dump.status == "saved") {
        "a saved dump is only partly cleared; `savecore save` finishes that"
    } else {
        "dumps do not begin at block 1; `savecore save --search` finds them"
    };
    Some(why.to_owned())
}

fn of_check(shown: &str, check: &Check, kernel: Option<KernelOn>) -> Result {
    let label = &check.partition.label;
    let listed: u64 = check.partition.dumps.iter().map(|found| found.blocks()).sum();
    let used = listed + check.partition.earlier.end.saturating_sub(1);
    Result {
        kernel,
        name: Some(label.name().to_owned()),
        created: utc(label.created.get()).map(|time| time.to_string()),
        blocks: Some(check.partition.blocks),
        free_blocks: Some((check.partition.blocks - 1).saturating_sub(used + check.bad_blocks)),
        bad_blocks: check.bad_blocks,
        first_bad: check
            .first_bad
            .as_ref()
            .map(|bad| BadBlock { block: bad.block, holds: bad.holds.to_string() }),
        dumps: check.dumps.clone(),
        ..Result::of_label(shown, verdict_name(check), why(check), Some(&check.partition))
    }
}

fn print_text(shown: &str, check: &Check, kernel: Option<KernelOn>) -> io::Result<()> {
    let is_idle = kernel.is_some_and(|on| on != KernelOn::Armed);
    let label = &check.partition.label;
    let waiting = check.partition.number_waiting();
    let style = match check.verdict {
        Verdict::Ready if is_idle => WARNING,
        Verdict::Ready => GOOD,
        Verdict::Waiting => WARNING,
        Verdict::Damaged => BAD,
    };
    let mut verdict = match check.verdict {
        Verdict::Ready => "ready".to_owned(),
        Verdict::Waiting => count(waiting, "dump waits", "dumps wait"),
        Verdict::Damaged if waiting > 0 => format!("damaged, {}", count(waiting, "dump waits", "dumps wait")),
        Verdict::Damaged => "damaged".to_owned(),
    };
    if check.verdict == Verdict::Damaged
        && check.bad_blocks == 0
        && !check.dumps.iter().any(|dump| dump.damaged)
    {
        verdict = verdict.replace("damaged", "not in order");
    }
    let why = why(check).map_or(String::new(), |why| format!(": {why}"));
    let mut out = out();
    let kernel = kernel.map_or_else(String::new, |on| kernel_on::joined(check.verdict, on));
    writeln!(out, "{shown}: {}{kernel}{why}", paint(style, verdict))?;
    let name = match label.name() {
        "" => String::new(),
        name => format!("\"{}\", ", harmless(name)),
    };
    let laid = utc(label.created.get()).map_or(String::new(), |time| format!(", laid {time}"));
    let bytes = check.partition.blocks * 4096;
    let uuid = uuid::Uuid::from_bytes(label.uuid);
    writeln!(out, "  {name}{}, {} blocks, uuid {uuid}{laid}", size(bytes), check.partition.blocks)?;
    if let Some(recipient) = label.recipient() {
        writeln!(out, "  dumps are encrypted to {}", public_text(recipient))?;
    }
    print_dumps(&mut out, &check.dumps)
}

fn print_dumps(out: &mut impl Write, dumps: &[Report]) -> io::Result<()> {
    for dump in dumps {
        let place = format!("blocks {} to {}", dump.first_block, dump.end_block - 1);
        writeln!(out, "  dump {} ({place}): {}, {}", dump.sequence, dump.state(), dump.when())?;
    }
    Ok(())
}

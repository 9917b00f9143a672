//! `savecore check`: is a partition armed, whole, dumped, damaged?

use std::io::{self, Write};

use anyhow::Context;
use savecore::Error;
use savecore::dump::{Dump, Report, utc};
use savecore::partition::{self, Check, Search, Verdict};
use savecore::source::{Access, Target};

use super::{TargetArguments, story};
use crate::output::{BAD, Bar, GOOD, WARNING, count, harmless, json, out, paint, size};
use crate::{Finding, printed};

/// Read every block of TARGET and say: unformatted, armed, dumps waiting, or damaged
#[derive(clap::Args)]
#[command(after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct BadBlock<'a> {
    block: u64,
    holds: &'a str,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    verdict: &'static str,
    why: Option<String>,
    uuid: Option<uuid::Uuid>,
    name: Option<&'a str>,
    created: Option<String>,
    blocks: Option<u64>,
    free_blocks: Option<u64>,
    bad_blocks: u64,
    first_bad: Option<BadBlock<'a>>,
    dumps: &'a [Report],
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let target = arguments.target.open(Access::Read)?;
    let shown = target.name();
    match partition::check(&target, &mut Bar::new()) {
        Ok(check) => {
            printed(if arguments.json { print_json(shown, &check) } else { print_text(shown, &check) })?;
            let good = matches!(check.verdict, Verdict::Armed | Verdict::Waiting);
            Ok(if good { Finding::Good } else { Finding::Negative })
        }
        Err(error) => without_label(arguments, &target, error),
    }
}

/// The label cannot be used, as `error` says. A dump may be there nevertheless; then the way out is told.
fn without_label(arguments: &Arguments, target: &Target, error: Error) -> anyhow::Result<Finding> {
    let shown = target.name();
    let mut bar = Bar::new();
    let (verdict, why, uuid, dumps) = match (partition::salvage(target, Search::Quick, &mut bar), error) {
        (Ok(partition), error) => {
            let uuid = partition.uuid();
            let dumps: Vec<_> = partition
                .dumps
                .iter()
                .map(|found| Report::new(&Dump::open_with(target, uuid, found, &mut bar)))
                .collect();
            let fault = partition.defect.map_or_else(|| error.to_string(), |defect| defect.to_string());
            let why = match partition.waiting().count() as u64 {
                0 => format!("{fault}; `savecore format` lays it anew"),
                waiting => format!(
                    "{fault}, and {} there: `savecore save --keep` first, then `savecore format --force`",
                    count(waiting, "dump waits", "dumps wait")
                ),
            };
            ("damaged", why, Some(uuid::Uuid::from_bytes(uuid)), dumps)
        }
        (Err(_), error @ Error::Unformatted { .. }) => ("unformatted", error.to_string(), None, Vec::new()),
        (Err(_), error @ Error::OtherSize { .. }) => ("damaged", error.to_string(), None, Vec::new()),
        (Err(_), error) => return Err(error).with_context(|| shown.to_owned()),
    };
    printed(if arguments.json {
        json(&Result {
            target: shown,
            verdict,
            why: Some(why),
            uuid,
            name: None,
            created: None,
            blocks: None,
            free_blocks: None,
            bad_blocks: 0,
            first_bad: None,
            dumps: &dumps,
        })
    } else {
        writeln!(out(), "{shown}: {}: {why}", paint(BAD, verdict))
            .and_then(|()| print_dumps(&mut out(), &dumps))
            .map_err(anyhow::Error::from)
    })?;
    Ok(Finding::Negative)
}

fn verdict_name(check: &Check) -> &'static str {
    match check.verdict {
        Verdict::Armed => "armed",
        Verdict::Waiting => "waiting",
        Verdict::Damaged => "damaged",
    }
}

/// Why a partition is not in order, in a sentence.
fn why(check: &Check) -> Option<String> {
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
            "block {first} is foreign, too far behind an unfinished dump to be torn by the power cut{others}; `savecore save` gets out what is readable and leaves them"
        ));
    }
    let why = if check.dumps.iter().any(|dump| dump.damaged) {
        "a dump is damaged; `savecore save` gets out what is readable"
    } else if check.dumps.iter().any(|dump| dump.status == "unfinished") {
        "a dump is unfinished; `savecore save` gets out what is there"
    } else if check.dumps.iter().any(|dump| dump.status == "saved") {
        "a harvested dump is not cleared to the end; `savecore save` finishes that"
    } else {
        "dumps do not begin at block 1; `savecore save --search` finds them"
    };
    Some(why.to_owned())
}

fn print_json(shown: &str, check: &Check) -> anyhow::Result<()> {
    let label = &check.partition.label;
    let used: u64 = check.partition.dumps.iter().map(|found| found.blocks()).sum();
    json(&Result {
        target: shown,
        verdict: verdict_name(check),
        why: why(check),
        uuid: Some(uuid::Uuid::from_bytes(label.uuid)),
        name: Some(label.name()),
        created: utc(label.created.get()).map(|time| time.to_string()),
        blocks: Some(check.partition.blocks),
        free_blocks: Some((check.partition.blocks - 1).saturating_sub(used + check.bad_blocks)),
        bad_blocks: check.bad_blocks,
        first_bad: check.first_bad.as_ref().map(|bad| BadBlock { block: bad.block, holds: &bad.holds }),
        dumps: &check.dumps,
    })
}

fn print_text(shown: &str, check: &Check) -> anyhow::Result<()> {
    let label = &check.partition.label;
    let waiting = check.partition.waiting().count() as u64;
    let style = match check.verdict {
        Verdict::Armed => GOOD,
        Verdict::Waiting => WARNING,
        Verdict::Damaged => BAD,
    };
    let mut verdict = match check.verdict {
        Verdict::Armed => "armed".to_owned(),
        Verdict::Waiting => format!("{} waiting", count(waiting, "dump", "dumps")),
        Verdict::Damaged if waiting > 0 => format!("damaged, {} waiting", count(waiting, "dump", "dumps")),
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
    writeln!(out, "{shown}: {}{why}", paint(style, verdict))?;
    let name = match label.name() {
        "" => String::new(),
        name => format!("\"{}\", ", harmless(name)),
    };
    let laid = utc(label.created.get()).map_or(String::new(), |time| format!(", laid {time}"));
    let bytes = check.partition.blocks * 4096;
    let uuid = uuid::Uuid::from_bytes(label.uuid);
    writeln!(out, "  {name}{}, {} blocks, uuid {uuid}{laid}", size(bytes), check.partition.blocks)?;
    print_dumps(&mut out, &check.dumps)?;
    Ok(())
}

fn print_dumps(out: &mut impl Write, dumps: &[Report]) -> io::Result<()> {
    for dump in dumps {
        let place = format!("blocks {} to {}", dump.first_block, dump.end_block - 1);
        writeln!(out, "  dump {} ({place}): {}, {}", dump.sequence, story::state(dump), story::when(dump))?;
    }
    Ok(())
}

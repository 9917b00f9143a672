//! `savecore format`: makes a dump partition.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Status};
use dumpcore::format::{BLOCK_SIZE, Block};
use savecore::Error;
use savecore::partition::{self, Plan};
use savecore::source::{Access, Content, Source, Target, recognise};

use super::{TargetArguments, ask};
use crate::Finding;
use crate::output::{Bar, GOOD, count, json, out, paint, size, warning};

/// Make TARGET a dump partition: lay label and pattern over all of it, after asking
#[derive(clap::Args)]
#[command(after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// A name for people, up to 64 bytes
    #[arg(long, default_value = "")]
    name: String,
    /// The partition's identity; a random one if not given
    #[arg(long)]
    uuid: Option<uuid::Uuid>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Also if a dump waits there that nobody has saved; it is lost
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    held: String,
    uuid: uuid::Uuid,
    name: &'a str,
    blocks: u64,
    bytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    if arguments.name.len() > 64 {
        bail!("a name has 64 bytes at most, this one has {}", arguments.name.len());
    }
    let mut target = arguments.target.open(Access::Write)?;
    let shown = target.name().to_owned();
    let content = recognise(&target);
    let waiting = waiting(&target);
    if waiting > 0 && !arguments.force {
        bail!(
            "{shown} holds {} that nobody has saved: save first (`savecore save`), or add --force to lose it",
            count(waiting, "dump", "dumps")
        );
    }
    let bytes = target.blocks() * BLOCK_SIZE as u64;
    if !arguments.yes {
        let lost = match (&content, waiting) {
            (Content::Zeros, _) => "",
            (_, 0) => " All of it will be lost.",
            _ => " All of it, and a dump that nobody has saved, will be lost.",
        };
        let question = format!("{shown} ({}) holds {content}.{lost}\nMake it a dump partition?", size(bytes));
        match ask(&question)? {
            Some(true) => {}
            Some(false) => {
                warning(&format!("{shown} was left as it is"));
                return Ok(Finding::Negative);
            }
            None => bail!(
                "{shown} holds {content}, and there is no terminal to ask on: add --yes to format it; nothing was changed"
            ),
        }
    }
    let uuid = arguments.uuid.unwrap_or_else(uuid::Uuid::new_v4);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let plan = Plan { uuid: uuid.into_bytes(), name: arguments.name.clone(), created };
    partition::format(&mut target, &plan, &mut Bar::new()).with_context(|| shown.clone())?;
    let blocks = target.blocks();
    if arguments.json {
        json(&Result {
            target: &shown,
            held: content.to_string(),
            uuid,
            name: &arguments.name,
            blocks,
            bytes,
        })?;
    } else {
        let verdict = paint(GOOD, "is a dump partition now");
        writeln!(out(), "{shown} {verdict}: {}, {blocks} blocks, uuid {uuid}", size(bytes))?;
    }
    Ok(Finding::Good)
}

/// Dumps that nobody has saved. With the label gone, at least the first one is seen.
fn waiting(target: &Target) -> u64 {
    match partition::scan(target) {
        Ok(partition) => partition.waiting().count() as u64,
        Err(Error::Unformatted { .. } | Error::OtherSize { .. }) => {
            let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
            let read = target.read(1, &mut block);
            let front = read.ok().and_then(|()| Header::parse(&block[0], Kind::Front).ok());
            u64::from(front.is_some_and(|front| front.status() != Status::Saved))
        }
        Err(_) => 0,
    }
}

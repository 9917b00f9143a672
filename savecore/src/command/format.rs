//! `savecore format`: creates a dump partition.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use dumpcore::format::BLOCK_SIZE;
use savecore::keys::public_text;
use savecore::ownership::{List, Whose};
use savecore::partition::{self, Plan, Search};
use savecore::source::{Access, Content, Source, fingerprint, node_at, recognise};

use super::adopt::NO_ID;
use super::system::SystemArguments;
use super::{TargetArguments, ask, keys};
use crate::finding::{Finding, printed};
use crate::output::{Bar, GOOD, count, json, out, paint, size, warning};

/// Make TARGET a dump partition: write the label and the pattern over all of it (asks first)
#[derive(clap::Args)]
#[command(after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// A name for people, up to 64 bytes
    #[arg(long, default_value = "")]
    name: String,
    /// The partition's identity [default: random]
    #[arg(long)]
    uuid: Option<uuid::Uuid>,
    /// Encrypt dumps to this public key (from `savecore keygen`), or to the one in this file
    #[arg(long, value_name = "KEY|FILE")]
    recipient: Option<String>,
    /// Whose it will be: this machine's, named in the label; or nobody's, for an image that is copied to several machines,
    /// each of which takes it by `savecore adopt` or by its partition type [default: this; none for an image file]
    #[arg(long, value_enum)]
    machine: Option<MachineName>,
    /// Format another machine's dump partition too
    #[arg(long)]
    foreign: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Format even if an unsaved dump is there; the dump is lost
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// The owner of a new partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum MachineName {
    /// This machine's
    This,
    /// Nobody's
    None,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    held: String,
    uuid: uuid::Uuid,
    name: &'a str,
    /// The public key for encrypted dumps.
    recipient: Option<String>,
    blocks: u64,
    bytes: u64,
    /// Its owner.
    owner: Whose,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    if arguments.name.len() > 64 {
        bail!("a name has at most 64 bytes, this one has {}", arguments.name.len());
    }
    let recipient = arguments.recipient.as_deref().map(keys::recipient).transpose()?;
    let mut target = arguments.target.open(Access::Format)?;
    let shown = target.name().to_owned();
    let before = fingerprint(&target);
    let system = arguments.system.system();
    let owner = system.owner();
    super::refuse_foreign(&target, &owner, arguments.foreign, "format it")?;
    let content = recognise(&target);
    let (waiting, defect) = match partition::waiting(&target, owner.machine()) {
        Ok(waiting) => waiting,
        Err(_) if arguments.force => (0, None),
        Err(error) => bail!(
            "{shown} may hold a dump, but {error}: add --force to format it and discard what is there; nothing was changed"
        ),
    };
    if waiting > 0 && !arguments.force {
        let dumps = count(waiting, "dump", "dumps");
        match defect {
            None => bail!(
                "{shown} holds {dumps} that nobody has saved: save first (`savecore save`), or add --force to discard it"
            ),
            // A dump stays there even after it is saved, so without --force this refusal would come again.
            Some(defect) => bail!(
                "{shown} holds {dumps} that nobody has saved: save first (`savecore save --keep`), then add --force, because {defect}"
            ),
        }
    }
    if waiting > 0
        && let Ok(partition) = partition::salvage(&target, Search::Quick, &mut ())
        && partition::growing(&target, &partition).is_some()
    {
        bail!(
            "{shown} holds a dump that is still being written: format it when that is finished; nothing was changed"
        );
    }
    let encrypted_before = partition::read_label(&target).is_ok_and(|label| label.recipient().is_some());
    if encrypted_before && recipient.is_none() {
        warning(&format!("{shown}: dumps there were encrypted; without --recipient, new ones will not be"));
    }
    let bytes = target.blocks() * BLOCK_SIZE as u64;
    if !arguments.yes {
        let lost = match (&content, waiting) {
            (Content::Zeros, _) => "",
            (_, 0) => " All of it will be lost.",
            _ => " All of it, and an unsaved dump, will be lost.",
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
    let is_device = super::is_device(&system, &arguments.target, &target);
    let node = node_at(&system.roots, &arguments.target.target, arguments.target.partition.as_deref());
    let is_ours = arguments.machine.map_or(is_device, |machine| machine == MachineName::This);
    let machine = owner.machine().filter(|_| is_ours).map(|machine| machine.id);
    if arguments.machine == Some(MachineName::This) && machine.is_none() {
        bail!("{NO_ID}, so the label cannot name it; nothing was changed");
    }
    let plan = Plan { uuid: uuid.into_bytes(), name: arguments.name.clone(), created, recipient, machine };
    target.make_writable()?;
    if fingerprint(&target) != before {
        bail!("{shown} has changed since you were asked: nothing was changed; look again");
    }
    partition::format(&mut target, &plan, &mut Bar::new()).with_context(|| shown.clone())?;
    // Copies of the label are not our concern; this one may still be used here.
    if is_device
        && is_ours
        && let Err(error) = List::note(&system.root, plan.uuid)
    {
        warning(&error.to_string());
    }
    if node.is_ok_and(|node| node.is_some_and(|node| node.is_made)) {
        warning(&format!(
            "{shown} is made of other devices (LVM, RAID, dm-crypt, loop): this machine's kernel cannot dump there, only copies of dumps fit"
        ));
    }
    let blocks = target.blocks();
    let recipient = recipient.as_ref().map(public_text);
    printed(if arguments.json {
        json(&Result {
            target: &shown,
            held: content.to_string(),
            uuid,
            name: &arguments.name,
            recipient,
            blocks,
            bytes,
            owner: if is_ours { Whose::ThisMachine } else { Whose::Nobody },
        })
    } else {
        let verdict = paint(GOOD, "is a dump partition now");
        let encryption = recipient.map_or(String::new(), |key| format!("\n  dumps are encrypted to {key}"));
        writeln!(out(), "{shown} {verdict}: {}, {blocks} blocks, uuid {uuid}{encryption}", size(bytes))
            .map_err(anyhow::Error::from)
    })?;
    Ok(Finding::Good)
}

//! `savecore adopt`: makes a dump partition this machine's.

use std::io::Write;

use anyhow::{Context, bail};
use savecore::ownership::{List, Whose};
use savecore::partition::{self, read_label};
use savecore::source::Access;

use super::system::SystemArguments;
use super::{TargetArguments, ask};
use crate::finding::{Finding, printed};
use crate::output::{GOOD, count, json, out, paint, warning};

/// Why a label cannot name this machine.
pub(super) const NO_ID: &str =
    "this machine has no id in /etc/machine-id (`systemd-machine-id-setup` makes one)";

/// Make the dump partition TARGET this machine's (asks first); its dumps are then saved and freed at boot
///
/// The label then names this machine. Nothing else changes: waiting dumps stay. Use it for a disk that was moved here,
/// a machine with a new machine-id, a copy of a golden image, and partitions from before labels named machines.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    uuid: uuid::Uuid,
    /// The previous owner.
    was: Whose,
    /// Number of unsaved dumps.
    waiting: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let system = arguments.system.system();
    let owner = system.owner();
    let mut target = arguments.target.open(Access::Write)?;
    let shown = target.name().to_owned();
    let label = read_label(&target).with_context(|| shown.clone())?;
    let was = owner.of_label(&label);
    let (waiting, _) = partition::waiting(&target, owner.machine()).with_context(|| shown.clone())?;
    let is_device = super::is_device(&system, &arguments.target, &target);
    let Some(machine) = owner.machine() else {
        if label.machine().is_some() || !is_device {
            bail!("{NO_ID}, so no label can name it; nothing was changed");
        }
        // Only its uuid identifies it.
        List::note(&system.root, label.uuid)?;
        return told(
            arguments,
            &Result { target: &shown, uuid: uuid::Uuid::from_bytes(label.uuid), was, waiting },
        );
    };
    if was != Whose::ThisMachine && !arguments.yes {
        let dumps = match waiting {
            0 => "no dump waits there".to_owned(),
            waiting => count(waiting, "dump waits there", "dumps wait there"),
        };
        match ask(&format!("{shown} is {was}; {dumps}.\nMake it this machine's?"))? {
            Some(true) => {}
            Some(false) => {
                warning(&format!("{shown} was left as it is"));
                return Ok(Finding::Negative);
            }
            None => bail!(
                "{shown} is {was}, and there is no terminal to ask on: add --yes to make it this machine's; nothing was changed"
            ),
        }
    }
    target.make_writable()?;
    if read_label(&target).ok().is_none_or(|now| now.uuid != label.uuid) {
        bail!("{shown} has changed since you were asked: nothing was changed; look again");
    }
    partition::adopt(&mut target, &machine.id).with_context(|| shown.clone())?;
    if is_device {
        List::note(&system.root, label.uuid)?;
    }
    told(arguments, &Result { target: &shown, uuid: uuid::Uuid::from_bytes(label.uuid), was, waiting })
}

fn told(arguments: &Arguments, result: &Result<'_>) -> anyhow::Result<Finding> {
    printed(if arguments.json {
        json(result)
    } else {
        let verdict = paint(GOOD, "is this machine's now");
        let dumps = match result.waiting {
            0 => String::new(),
            waiting => {
                format!("; {}: `savecore save` saves what waits", count(waiting, "dump waits", "dumps wait"))
            }
        };
        writeln!(out(), "{} {verdict}{dumps}", result.target).map_err(anyhow::Error::from)
    })?;
    Ok(Finding::Good)
}

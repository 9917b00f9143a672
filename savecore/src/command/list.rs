//! `savecore list`: lists dump partitions and their contents.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use savecore::arming::{Held, KernelOn};
use savecore::keys::public_text;
use savecore::ownership::{Owner, Whose};
use savecore::partition::{Glance, Verdict, glance};
use savecore::source::{Access, Discovery, Labelled, discover_as, discover_in};
use savecore::targets::TargetName;
use savecore::text::harmless_line;

use super::system::SystemArguments;
use super::{ReadingArguments, kernel_on};
use crate::finding::{Finding, printed};
use crate::output::{BAD, GOOD, STRONG, WARNING, count, json, out, paint, size, warning};

/// List the dump partitions on all disks, or on the disks and images given, after a quick look at each
///
/// A partition is ready if a dump can be written there; whether the running kernel would do so is shown next to it, and
/// by `savecore armed`. The list also says whose each partition is: commands without a TARGET use only this machine's
/// own. `savecore check` reads every block.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    /// Block devices, image files, or disks to search [default: all devices]
    #[arg(value_name = "TARGET")]
    targets: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadingArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// A dump partition.
#[derive(serde::Serialize)]
struct Entry {
    path: PathBuf,
    /// The partition of the disk at `path`; missing if the whole device is the dump partition.
    partition: Option<String>,
    uuid: uuid::Uuid,
    name: String,
    blocks: u64,
    bytes: u64,
    /// "ready", "waiting", "damaged", or "unknown".
    state: &'static str,
    /// The running kernel's relation to it; missing for an image.
    kernel: Option<KernelOn>,
    /// Why it is damaged or unknown, in a clause.
    why: Option<String>,
    /// Number of unsaved dumps.
    waiting: u64,
    /// The public key for encrypted dumps.
    recipient: Option<String>,
    /// Another partition with the same uuid.
    same_as: Option<String>,
    /// Its owner.
    owner: Whose,
    /// Why it is used only if named; missing if it is used anyway.
    left_alone: Option<String>,
    #[serde(skip)]
    shown: String,
}

#[derive(serde::Serialize)]
struct OtherVersion<'a> {
    path: &'a Path,
    version: u32,
}

#[derive(serde::Serialize)]
struct Unreadable<'a> {
    path: &'a Path,
    error: String,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    partitions: &'a [Entry],
    other_versions: Vec<OtherVersion<'a>>,
    unreadable: Vec<Unreadable<'a>>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let system = arguments.system.system();
    let mut discovery = Discovery::default();
    let mut without = Vec::new();
    for target in &arguments.targets {
        let found = discover_as(target, &arguments.reading.reading())?;
        if found.found.is_empty() && found.other_versions.is_empty() && found.unreadable.is_empty() {
            without.push(target.display().to_string());
        }
        discovery.append(found);
    }
    if arguments.targets.is_empty() {
        discovery = discover_in(&system.roots).context("cannot list the system's disks")?;
    }
    let owner = system.owner();
    let held = kernel_on::held(&system);
    let look = |labelled| look(labelled, &arguments.reading, held.as_ref(), &owner);
    let mut entries: Vec<Entry> = discovery.found.iter().map(look).collect();
    for (first, index) in discovery.twins() {
        entries[index].same_as = Some(entries[first].shown.clone());
    }
    printed(if arguments.json {
        print_json(&discovery, &entries)
    } else {
        print_text(&entries).map_err(anyhow::Error::from)
    })?;
    warn(&discovery, &entries);
    for name in without {
        warning(&format!("{name}: no dump partition's label; `savecore check` shows what is there"));
    }
    Ok(if entries.is_empty() { Finding::Negative } else { Finding::Good })
}

/// A quick check of a partition.
fn look(labelled: &Labelled, reading: &ReadingArguments, held: Option<&Held>, owner: &Owner) -> Entry {
    let name = TargetName {
        path: labelled.path.clone(),
        partition: labelled.partition.clone(),
        reading: reading.reading(),
    };
    let glanced = name.open(Access::Read).and_then(|target| glance(&target, owner.machine()));
    let mut entry = Entry {
        path: labelled.path.clone(),
        partition: labelled.partition.clone(),
        uuid: labelled.uuid,
        name: labelled.name.clone(),
        blocks: labelled.blocks,
        bytes: labelled.blocks.saturating_mul(4096),
        state: "unknown",
        kernel: held.and_then(|held| held.on(&labelled.path, labelled.partition.as_deref(), labelled.uuid)),
        why: None,
        waiting: 0,
        recipient: None,
        same_as: None,
        owner: owner.of_found(labelled),
        left_alone: owner.leaves_alone(labelled).map(|why| why.to_string()),
        shown: labelled.to_string(),
    };
    match glanced {
        Ok(glance) => {
            entry.waiting = glance.partition.number_waiting();
            entry.recipient = glance.partition.label.recipient().map(public_text);
            entry.why = fault(&glance);
            entry.state = match (&entry.why, entry.waiting) {
                (Some(_), _) => "damaged",
                (None, 0) => "ready",
                (None, _) => "waiting",
            };
        }
        Err(error) => entry.why = Some(error.to_string()),
    }
    entry
}

/// What prevents a kernel from dumping there, as far as a quick check shows.
pub(super) fn fault(glance: &Glance) -> Option<String> {
    let partition = &glance.partition;
    if let Some(defect) = partition.defect {
        return Some(defect.to_string());
    }
    if let Some(other) = partition.other_version {
        return Some(other.to_string());
    }
    if let Some(range) = partition.foreign.first() {
        return Some(format!("blocks {} to {} belong to no dump", range.start, range.end - 1));
    }
    glance.bad.as_ref().map(|bad| format!("block {} holds {}", bad.block, bad.holds))
}

fn print_json(discovery: &Discovery, entries: &[Entry]) -> anyhow::Result<()> {
    let other_versions = discovery.other_versions.iter();
    let unreadable = discovery.unreadable.iter();
    json(&Result {
        partitions: entries,
        other_versions: other_versions
            .map(|(path, version)| OtherVersion { path, version: *version })
            .collect(),
        unreadable: unreadable.map(|(path, error)| Unreadable { path, error: error.to_string() }).collect(),
    })
}

fn print_text(entries: &[Entry]) -> io::Result<()> {
    let mut out = out();
    for entry in entries {
        let waiting = count(entry.waiting, "dump waits", "dumps wait");
        let verdict = match entry.state {
            "ready" => Verdict::Ready,
            "waiting" => Verdict::Waiting,
            _ => Verdict::Damaged,
        };
        let is_idle = entry.kernel.is_some_and(|on| on != KernelOn::Armed);
        let kernel = entry.kernel.map_or_else(String::new, |on| kernel_on::joined(verdict, on));
        let state = match (entry.state, entry.waiting) {
            ("ready", _) => paint(if is_idle { WARNING } else { GOOD }, "ready"),
            ("waiting", _) => paint(WARNING, waiting),
            ("damaged", 1..) => paint(BAD, format!("damaged, {waiting}")),
            (state, _) => paint(BAD, state),
        };
        let why = entry.why.as_ref().map_or(String::new(), |why| format!(": {}", harmless_line(why)));
        writeln!(out, "{}: {state}{kernel}{why}", paint(STRONG, &entry.shown))?;
        let name = match entry.name.as_str() {
            "" => String::new(),
            name => format!("\"{}\", ", name.escape_debug()),
        };
        let whose = match (entry.owner, &entry.left_alone) {
            (Whose::ThisMachine, Some(why)) => format!("{}, but {why}", entry.owner),
            (whose, _) => whose.to_string(),
        };
        let (bytes, blocks, uuid) = (size(entry.bytes), entry.blocks, entry.uuid);
        writeln!(out, "  {name}{bytes}, {blocks} blocks, uuid {uuid}, {whose}")?;
        if let Some(recipient) = &entry.recipient {
            writeln!(out, "  dumps are encrypted to {recipient}")?;
        }
    }
    out.flush()
}

/// Prints warnings for the user to standard error.
fn warn(discovery: &Discovery, entries: &[Entry]) {
    for (path, version) in &discovery.other_versions {
        warning(&format!(
            "{}: a dump partition of format version {version}: use the savecore that belongs to its kernel",
            path.display()
        ));
    }
    for entry in entries {
        if let Some(other) = &entry.same_as {
            warning(&format!(
                "{} has the uuid of {other}: one is a copy of the other, or both are the same disk",
                entry.shown
            ));
        }
    }
    if let Some(text) = unreadable(&discovery.unreadable) {
        warning(&text);
    }
    if entries.is_empty() && discovery.other_versions.is_empty() {
        warning("no dump partition found; `savecore format` makes one");
    }
}

/// A line about devices that could not be checked.
fn unreadable(devices: &[(PathBuf, io::Error)]) -> Option<String> {
    let (_, error) = devices.first()?;
    let names: Vec<String> = devices.iter().map(|(path, _)| path.display().to_string()).collect();
    let names = names.join(", ");
    let denied = error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error());
    let hint = if denied { "; root can read them" } else { "" };
    Some(format!("cannot look for dump partitions on {names}: {error}{hint}"))
}

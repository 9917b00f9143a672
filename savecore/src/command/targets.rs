//! Several targets, opened together: a dump may be striped over them.

use std::path::PathBuf;

use anyhow::{Context, bail};
use dumpcore::format::header::Status;
use savecore::Identity;
use savecore::dump::{Part, Report, gather};
use savecore::partition::{self, Defect, Ending, Found, Partition, Search};
use savecore::source::{Access, Target};

use super::keys::{self, public_text};
use super::{is_copy, search};
use crate::output::{Bar, warning};

/// Targets, as those subcommands take them that put stripes together.
#[derive(clap::Args)]
pub(crate) struct TargetsArguments {
    /// Block devices, image files, or disks; a dump that is striped over several needs all of them
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<PathBuf>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID")]
    partition: Option<String>,
}

/// The key to encrypted dumps.
#[derive(clap::Args)]
pub(crate) struct IdentityArguments {
    /// File of `savecore keygen` with the secret key to encrypted dumps
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// An identity and the file that it came from.
pub(crate) struct Opener {
    identity: Identity,
    file: String,
}

impl IdentityArguments {
    pub(crate) fn read(&self) -> anyhow::Result<Option<Opener>> {
        let Some(path) = &self.identity else { return Ok(None) };
        Ok(Some(Opener { identity: keys::identity(path)?, file: path.display().to_string() }))
    }
}

impl Opener {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The file, as messages name it.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Refuses an identity that is not the one to which the dumps of a partition are encrypted, before anything is read
    /// that takes long. Without a label that names the key, a dump tells only when it is opened.
    pub(crate) fn refuse_wrong(&self, target: &str, partition: &Partition) -> anyhow::Result<()> {
        let own = self.identity.public_key();
        let Some(recipient) = partition.label.recipient().filter(|recipient| **recipient != own) else {
            return Ok(());
        };
        // A kernel may have been given a key of its own for this partition.
        let closed = |found: &&Found| {
            let encrypted = found.header.is_sealed() || found.ending == Ending::BothLost;
            encrypted && found.header.status() != Status::Saved && self.identity.opens(found) != Some(true)
        };
        if let Some(found) = partition.dumps.iter().find(closed) {
            bail!(
                "{} does not open dump {} on {target}: it has the key to {}, but dumps there are encrypted to {}",
                self.file,
                found.header.sequence.get(),
                public_text(&own),
                public_text(recipient)
            );
        }
        Ok(())
    }
}

/// The identity alone, as the library takes it.
pub(crate) fn identity(opener: Option<&Opener>) -> Option<&Identity> {
    opener.map(Opener::identity)
}

/// Opened targets, and what was found on each.
pub(crate) struct Targets {
    pub(crate) targets: Vec<Target>,
    pub(crate) partitions: Vec<Partition>,
    /// Whether a target is a sealed copy of a dump: nothing is written on it.
    pub(crate) copies: Vec<bool>,
}

impl Targets {
    /// Opens all targets and finds their dumps, also behind labels that cannot be used. Sealed copies are only read.
    ///
    /// # Errors
    /// If one of them cannot be used, or is named twice, or if the identity is for another key.
    pub(crate) fn open(
        arguments: &TargetsArguments,
        access: Access,
        whole: bool,
        opener: Option<&Opener>,
        bar: &mut Bar,
    ) -> anyhow::Result<Targets> {
        let mut opened = Targets { targets: Vec::new(), partitions: Vec::new(), copies: Vec::new() };
        let mut seen = Vec::new();
        for path in &arguments.targets {
            // What is not there, or may not be looked at, is told when it is opened.
            if let Ok(real) = path.canonicalize() {
                if seen.contains(&real) {
                    bail!("{} was named twice: name each target once", path.display());
                }
                seen.push(real);
            }
            let copy = is_copy(path);
            let access = if copy { Access::Read } else { access };
            opened.targets.push(Target::open(path, arguments.partition.as_deref(), access)?);
            opened.copies.push(copy);
        }
        for (target, copy) in opened.targets.iter().zip(&opened.copies) {
            let partition = salvage(target, search(whole), *copy, bar)?;
            if let Some(opener) = opener {
                opener.refuse_wrong(target.name(), &partition)?;
            }
            opened.partitions.push(partition);
        }
        Ok(opened)
    }

    /// The dumps: each a list of (target, dump on it), stripes of one dump together.
    pub(crate) fn dumps(&self) -> Vec<Vec<(usize, usize)>> {
        gather(&self.partitions)
    }

    pub(crate) fn found(&self, place: (usize, usize)) -> &Found {
        &self.partitions[place.0].dumps[place.1]
    }

    /// A dump's parts, to be opened.
    pub(crate) fn parts(&self, places: &[(usize, usize)]) -> Vec<Part<'_>> {
        let part = |place: &(usize, usize)| Part {
            source: &self.targets[place.0],
            uuid: self.partitions[place.0].uuid(),
            found: self.found(*place).clone(),
        };
        places.iter().map(part).collect()
    }

    /// The names of the targets that a dump is on.
    pub(crate) fn names(&self, places: &[(usize, usize)]) -> Vec<&str> {
        places.iter().map(|place| self.targets[place.0].name()).collect()
    }

    /// Whether the label of a dump's partition demands that it be encrypted, and it is not.
    pub(crate) fn is_bare(&self, places: &[(usize, usize)]) -> bool {
        places.iter().any(|place| {
            let found = self.found(*place);
            let demanded = self.partitions[place.0].label.recipient().is_some();
            demanded && !found.header.is_sealed() && found.ending != Ending::BothLost
        })
    }
}

/// Finds the dumps to be read, also on a target whose label cannot be used; of such a one it warns.
fn salvage(target: &Target, search: Search, copy: bool, bar: &mut Bar) -> anyhow::Result<Partition> {
    let shown = target.name();
    let mut partition = partition::salvage(target, search, bar).with_context(|| shown.to_owned())?;
    if copy {
        // A copy ends where its dump ends, and holds nothing in front of it but the label.
        partition.foreign.clear();
    }
    match partition.defect {
        Some(Defect::Short { .. }) if copy => {}
        Some(defect) => {
            warning(&format!("{shown}: {defect}: what is there is read, and nothing is written on it"));
        }
        None => {}
    }
    if let Some(other) = &partition.other_version {
        warning(&format!("{shown}: {other}"));
    }
    Ok(partition)
}

/// Which stripes of a dump are not there, in a clause; `None` if none is missing.
pub(crate) fn missing_stripes(report: &Report) -> Option<String> {
    let numbers: Vec<String> = report.missing_stripes.iter().map(|stripe| (stripe + 1).to_string()).collect();
    let (last, others) = numbers.split_last()?;
    Some(match others {
        [] => format!("stripe {last} of {} was not given", report.stripes),
        others => format!("stripes {} and {last} of {} were not given", others.join(", "), report.stripes),
    })
}

/// Warns of a dump that anybody can read though its partition's label demands that it be encrypted.
pub(crate) fn warn_bare(names: &str, sequence: u32) {
    warning(&format!(
        "{names}: dump {sequence} is not encrypted, though the label demands it: it may not be from the kernel that was armed"
    ));
}

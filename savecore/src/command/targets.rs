//! Targets and keys for subcommands that assemble stripes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savecore::Identity;
use savecore::arming::System;
use savecore::ownership::Owner;
use savecore::source::{Discovery, discover_in};
use savecore::targets::{Opener, TargetName};

use super::system::SystemArguments;
use super::{ReadingArguments, keys};
use crate::output::{count, warning};

/// Several targets.
#[derive(clap::Args)]
pub(crate) struct TargetsArguments {
    /// Block devices, image files, disks, or - for standard input; a striped dump needs all of its targets [default: this
    /// machine's own dump partitions]
    #[arg(value_name = "TARGET")]
    targets: Vec<PathBuf>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID")]
    partition: Option<String>,
    #[command(flatten)]
    reading: ReadingArguments,
    #[command(flatten)]
    system: SystemArguments,
}

impl TargetsArguments {
    /// The rule that distinguishes this machine's partitions.
    pub(crate) fn owner(&self) -> Owner {
        self.system.owner()
    }

    /// The system to use.
    pub(crate) fn system(&self) -> System {
        self.system.system()
    }

    /// The targets given as arguments, or all of this machine's.
    ///
    /// # Errors
    /// If none was given, and there is none.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<TargetName>> {
        if self.targets.is_empty() {
            if self.partition.is_some() {
                bail!("--partition needs a TARGET: the disk that the partition is on");
            }
            return found(&self.system);
        }
        Ok(self.named())
    }

    /// The targets given as arguments.
    pub(crate) fn named(&self) -> Vec<TargetName> {
        let name = |path: &PathBuf| TargetName {
            path: path.clone(),
            partition: self.partition.clone(),
            reading: self.reading.reading(),
        };
        self.targets.iter().map(name).collect()
    }
}

/// This machine's own dump partitions; each once, even if it can be reached in two ways.
///
/// # Errors
/// If there is none.
fn found(system: &SystemArguments) -> anyhow::Result<Vec<TargetName>> {
    let discovery = discover_in(&system.system().roots).context("cannot look for dump partitions")?;
    let own = Own::of(&discovery, &system.owner());
    for (twin, _) in &own.twins {
        warning(&format!(
            "{twin} has the same uuid as another dump partition and is left out: name it to use it"
        ));
    }
    if own.names.is_empty() {
        let hidden = match discovery.unreadable.len() as u64 {
            0 => String::new(),
            number => format!(" ({} could not be looked at)", count(number, "device", "devices")),
        };
        if let Some(left_alone) = own.left_alone {
            bail!(
                "no dump partition of this machine was found{hidden}, and left alone were {left_alone}: name one as TARGET, or `savecore adopt` makes it this machine's"
            );
        }
        bail!("no dump partition was found{hidden}: name a TARGET, or make one with `savecore format`");
    }
    Ok(own.names)
}

/// This machine's own dump partitions among all that were found.
pub(super) struct Own {
    /// Without duplicates.
    pub(super) names: Vec<TargetName>,
    /// Pairs of partitions with the same uuid.
    pub(super) twins: Vec<(String, String)>,
    /// Partitions of others, in a clause.
    pub(super) left_alone: Option<String>,
}

impl Own {
    pub(super) fn of(discovery: &Discovery, owner: &Owner) -> Own {
        let sorted = owner.sort(discovery);
        let mut own = Own { names: Vec::new(), twins: Vec::new(), left_alone: sorted.left_alone() };
        for (index, found) in sorted.own.iter().enumerate() {
            match sorted.own.iter().take(index).find(|other| other.uuid == found.uuid) {
                Some(other) => own.twins.push((found.to_string(), other.to_string())),
                None => {
                    own.names.push(TargetName {
                        partition: found.partition.clone(),
                        ..TargetName::of(&found.path)
                    });
                }
            }
        }
        own
    }
}

/// The key to encrypted dumps.
#[derive(clap::Args)]
pub(crate) struct IdentityArguments {
    /// Secret key for encrypted dumps: the FILE of `savecore keygen`
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl IdentityArguments {
    /// The given file.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    pub(crate) fn read(&self) -> anyhow::Result<Option<Opener>> {
        let Some(path) = &self.identity else { return Ok(None) };
        Ok(Some(Opener { identity: keys::identity(path)?, file: path.display().to_string() }))
    }
}

/// Only the identity, for the library.
pub(crate) fn identity(opener: Option<&Opener>) -> Option<&Identity> {
    opener.map(|opener| &opener.identity)
}

/// Warns about a dump that is not encrypted although its partition's label demands it.
pub(crate) fn warn_bare(names: &str, sequence: u32) {
    warning(&format!(
        "{names}: dump {sequence} is not encrypted, though the label demands it: it may come from another kernel than the one that was armed"
    ));
}

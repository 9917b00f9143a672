//! Targets and keys, as those subcommands take them that put stripes together.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savecore::Identity;
use savecore::source::discover;
use savecore::targets::{Opener, TargetName};

use super::keys;
use crate::output::{count, warning};

/// Several targets.
#[derive(clap::Args)]
pub(crate) struct TargetsArguments {
    /// Block devices, image files, disks, or - for standard input; a dump that is striped over several needs all of them.
    /// All dump partitions of this machine if none is given
    #[arg(value_name = "TARGET")]
    targets: Vec<PathBuf>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID")]
    partition: Option<String>,
}

impl TargetsArguments {
    /// The targets that were named, or all that this machine has.
    ///
    /// # Errors
    /// If none was named, and there is none.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<TargetName>> {
        if self.targets.is_empty() {
            if self.partition.is_some() {
                bail!("--partition needs a TARGET: the disk that the partition is on");
            }
            return found();
        }
        Ok(self.named())
    }

    /// The targets that were named.
    pub(crate) fn named(&self) -> Vec<TargetName> {
        let name = |path: &PathBuf| TargetName { path: path.clone(), partition: self.partition.clone() };
        self.targets.iter().map(name).collect()
    }
}

/// All dump partitions of this machine; each once, though there be two ways to it.
///
/// # Errors
/// If there is none.
pub(crate) fn found() -> anyhow::Result<Vec<TargetName>> {
    let discovery = discover().context("cannot look for dump partitions")?;
    let twins: Vec<usize> = discovery.twins().into_iter().map(|(_, twin)| twin).collect();
    for twin in &twins {
        let twin = &discovery.found[*twin];
        warning(&format!(
            "{twin} has the same uuid as another dump partition and is left out: name it to use it"
        ));
    }
    let singles = discovery.found.iter().enumerate().filter(|(index, _)| !twins.contains(index));
    let names: Vec<TargetName> = singles
        .map(|(_, found)| TargetName { path: found.path.clone(), partition: found.partition.clone() })
        .collect();
    if names.is_empty() {
        let hidden = match discovery.unreadable.len() as u64 {
            0 => String::new(),
            number => format!(" ({} could not be looked at)", count(number, "device", "devices")),
        };
        bail!("no dump partition was found{hidden}: name a TARGET, or make one with `savecore format`");
    }
    Ok(names)
}

/// The key to encrypted dumps.
#[derive(clap::Args)]
pub(crate) struct IdentityArguments {
    /// File of `savecore keygen` with the secret key to encrypted dumps
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl IdentityArguments {
    /// The file that was named.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    pub(crate) fn read(&self) -> anyhow::Result<Option<Opener>> {
        let Some(path) = &self.identity else { return Ok(None) };
        Ok(Some(Opener { identity: keys::identity(path)?, file: path.display().to_string() }))
    }
}

/// The identity alone, as the library takes it.
pub(crate) fn identity(opener: Option<&Opener>) -> Option<&Identity> {
    opener.map(|opener| &opener.identity)
}

/// Warns of a dump that anybody can read though its partition's label demands that it be encrypted.
pub(crate) fn warn_bare(names: &str, sequence: u32) {
    warning(&format!(
        "{names}: dump {sequence} is not encrypted, though the label demands it: it may not be from the kernel that was armed"
    ));
}

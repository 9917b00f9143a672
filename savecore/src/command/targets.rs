//! Targets and keys, as those subcommands take them that put stripes together.

use std::path::PathBuf;

use savecore::Identity;
use savecore::targets::{Opener, TargetName};

use super::keys;
use crate::output::warning;

/// Several targets.
#[derive(clap::Args)]
pub(crate) struct TargetsArguments {
    /// Block devices, image files, or disks; a dump that is striped over several needs all of them
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<PathBuf>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID")]
    partition: Option<String>,
}

impl TargetsArguments {
    /// The targets that were named.
    pub(crate) fn names(&self) -> Vec<TargetName> {
        let name = |path: &PathBuf| TargetName { path: path.clone(), partition: self.partition.clone() };
        self.targets.iter().map(name).collect()
    }
}

/// The key to encrypted dumps.
#[derive(clap::Args)]
pub(crate) struct IdentityArguments {
    /// File of `savecore keygen` with the secret key to encrypted dumps
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl IdentityArguments {
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

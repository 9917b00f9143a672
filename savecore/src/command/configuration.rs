//! Access to the configuration: its file, the key, and the targets.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savecore::arming::{self, System};
use savecore::boot::config::{self, Config, Missing};
use savecore::source::discover_in;
use savecore::targets::{Opener, TargetName};

use super::keys;
use super::targets::Own;

/// The configuration given as an argument, or the usual one.
pub(super) fn configuration(argument: Option<&Path>) -> Result<Config, config::ConfigError> {
    match argument {
        Some(path) => Config::read(path, Missing::Error),
        None => Config::read(Path::new(config::PATH), Missing::Defaults),
    }
}

/// The key named in the configuration.
pub(super) fn opener(config: &Config) -> anyhow::Result<Option<Opener>> {
    let Some(path) = &config.identity else { return Ok(None) };
    Ok(Some(Opener { identity: keys::identity(&path.0)?, file: path.0.display().to_string() }))
}

/// The targets to harvest.
#[derive(Default)]
pub(super) struct Chosen {
    /// The targets.
    pub(super) names: Vec<TargetName>,
    /// Errors while searching for targets.
    pub(super) defects: Vec<String>,
    /// Targets that were found but are not this machine's, in a clause.
    pub(super) left_alone: Option<String>,
}

/// The targets named in the configuration, or this machine's own that are found.
pub(super) fn targets(config: &Config, system: &System) -> anyhow::Result<Chosen> {
    let name = |path: &Path| TargetName::of(path);
    if config.faults.no_targets {
        bail!("`targets` in the configuration cannot be understood: nothing is saved until it is corrected");
    }
    if !config.targets.is_empty() {
        let names = config.targets.iter().map(|path| name(&path.0)).collect();
        return Ok(Chosen { names, ..Chosen::default() });
    }
    let discovery = discover_in(&system.roots).context("cannot list the system's disks")?;
    let mut owner = system.owner();
    // Arming reports missing ones.
    let armed = config.arm.targets.iter().filter_map(|name| arming::named(system, name, None).ok());
    owner.take_named(armed.map(|node| node.path));
    let own = Own::of(&discovery, &owner);
    let mut defects = Vec::new();
    let may_be_own = |path: &PathBuf| !discovery.apart.contains(path);
    for (path, version) in discovery.other_versions.iter().filter(|(path, _)| may_be_own(path)) {
        defects.push(format!(
            "{}: a dump partition of format version {version}: use the savecore that belongs to its kernel",
            path.display()
        ));
    }
    for (path, error) in discovery.unreadable.iter().filter(|(path, _)| may_be_own(path)) {
        defects.push(format!("cannot look for a dump partition on {}: {error}", path.display()));
    }
    for (twin, _) in own.twins {
        defects.push(format!(
            "{twin} has the uuid of another dump partition and is left alone: name it in `targets` if it is a separate partition"
        ));
    }
    Ok(Chosen { names: own.names, defects, left_alone: own.left_alone })
}

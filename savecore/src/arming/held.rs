//! Whether the running kernel would dump to a device, according to its module.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use uuid::Uuid;

use super::{ArmError, Module, State, Status, System};
use crate::source::node_at;

/// The running kernel's relation to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelOn {
    /// It is armed on it.
    Armed,
    /// It was armed on it before the current label was written: it would refuse to dump there.
    OtherLabel,
    /// It has the module, but is not armed on this device.
    NotArmed,
    /// It does not have the module.
    NoModule,
    /// The device belongs to a layer (LVM, RAID, dm-crypt, loop) that a crashed kernel cannot write to.
    Cannot,
}

/// The targets that the running kernel is armed on.
#[derive(Clone, Debug)]
pub struct Held {
    system: System,
    /// The devices, each with the uuid of the label that it was armed with; `None` without the module.
    targets: Option<Vec<(String, Option<Uuid>)>>,
}

impl Held {
    /// Reads the module's status, if it is loaded.
    ///
    /// # Errors
    /// If it cannot be read, or reports something unknown.
    pub fn of(system: &System) -> Result<Held, ArmError> {
        let targets = match Module::of(system) {
            Err(ArmError::NotLoaded { .. }) => None,
            Err(error) => return Err(error),
            Ok(module) => Some(match module.state()? {
                State::Armed => module.status()?.targets(),
                State::Disarmed | State::Refused => Vec::new(),
            }),
        };
        Ok(Held { system: system.clone(), targets })
    }

    /// The kernel's relation to the dump partition at this path, or to this partition of the disk there,
    /// whose label has this uuid. `None` if it is an image, not a device of the running kernel.
    pub fn on(&self, path: &Path, partition: Option<&str>, uuid: Uuid) -> Option<KernelOn> {
        let node = node_at(&self.system.roots, path, partition).ok().flatten();
        let is_device = || fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        if node.is_none() && !is_device() {
            return None;
        }
        if node.as_ref().is_some_and(|node| node.is_made) {
            return Some(KernelOn::Cannot);
        }
        let Some(targets) = &self.targets else { return Some(KernelOn::NoModule) };
        // The kernel cannot be armed on a partition that it does not show.
        let held = node.and_then(|node| targets.iter().find(|(target, _)| *target == node.shown));
        Some(match held {
            None => KernelOn::NotArmed,
            Some((_, Some(other))) if *other != uuid => KernelOn::OtherLabel,
            Some(_) => KernelOn::Armed,
        })
    }
}

impl Status {
    /// The targets, each with its label's uuid if the module reports it.
    pub fn targets(&self) -> Vec<(String, Option<Uuid>)> {
        let mut targets: Vec<(String, Option<Uuid>)> = Vec::new();
        for (key, value) in &self.0 {
            match (key.as_str(), targets.last_mut()) {
                ("target", _) => targets.push((value.clone(), None)),
                ("uuid", Some((_, uuid))) => *uuid = value.parse().ok(),
                _ => {}
            }
        }
        targets
    }
}

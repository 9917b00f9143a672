//! The user's last `savecore arm` or `savecore disarm`, for the next boot to repeat; and the parameters used
//! in this boot.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::System;
use crate::source::discover_in;

/// The last command, kept across boots.
const TOLD: &str = "var/lib/savecore/told.json";

/// The parameters used in this boot: /run is empty after a boot.
const NOW: &str = "run/savecore/armed.json";

/// Maximum size of these files.
const MAX_FILE: u64 = 1 << 20;

/// The user's last command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Arm, or disarm.
    pub armed: bool,
    /// The named targets; if empty, those of the configuration, or those that are found.
    pub targets: Vec<ToldTarget>,
    /// Seconds since 1970.
    pub time: u64,
}

/// A target that was named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ToldTarget {
    /// As it was named.
    pub name: String,
    /// The uuid of its label, if readable. It stays the same when the disk's name changes.
    pub uuid: Option<Uuid>,
}

impl Told {
    /// The last command; `None` if there was none, or it cannot be read.
    pub fn read(system: &System) -> Option<Told> {
        read(&system.root.join(TOLD))
    }

    /// Saves it for the next boot.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, system: &System) -> io::Result<()> {
        write(&system.root.join(TOLD), self)
    }

    /// The current names of the targets: by their labels, or else by their names at the time.
    pub fn names(&self, system: &System) -> Vec<String> {
        let found = discover_in(&system.roots).map(|discovery| discovery.found).unwrap_or_default();
        let name = |target: &ToldTarget| match target.uuid {
            Some(uuid) if found.iter().filter(|at| at.uuid == uuid).count() == 1 => format!("UUID={uuid}"),
            _ => target.name.clone(),
        };
        self.targets.iter().map(name).collect()
    }
}

/// savecore's last arming in this boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArmedNow {
    /// The parameters.
    pub words: String,
    /// Whether the user chose targets or level; until the next boot, the configuration does not override
    /// that.
    pub by_hand: bool,
}

impl ArmedNow {
    /// Reads it; `None` if the kernel was not armed by savecore, but by a file in /etc/modprobe.d for
    /// example.
    pub fn read(system: &System) -> Option<ArmedNow> {
        read(&system.root.join(NOW))
    }

    /// Saves it until the next boot.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, system: &System) -> io::Result<()> {
        write(&system.root.join(NOW), self)
    }

    /// Removes it: the kernel is disarmed.
    pub fn forget(system: &System) {
        // If the file stays, its parameters are no longer in effect; the only consequence is one unnecessary
        // rearming.
        let _ = fs::remove_file(system.root.join(NOW));
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    // Without NONBLOCK, opening a FIFO would block for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes a file atomically, even in case of a power failure.
fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // Some file systems cannot sync folders: then the name is durable a little later.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_again_and_what_makes_no_sense_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        let system = System::below(root.path());
        assert_eq!((Told::read(&system), ArmedNow::read(&system)), (None, None));
        let target =
            ToldTarget { name: "PARTUUID=5f0e8a3c-05".to_owned(), uuid: Some(Uuid::from_bytes([3; 16])) };
        let told = Told { armed: true, targets: vec![target], time: 1_790_000_000 };
        for told in [told.clone(), Told { armed: false, ..told }] {
            told.keep(&system).unwrap();
            assert_eq!(Told::read(&system), Some(told));
        }
        let now = ArmedNow { words: "target=/dev/vda2".to_owned(), by_hand: true };
        now.keep(&system).unwrap();
        assert_eq!(ArmedNow::read(&system), Some(now));
        ArmedNow::forget(&system);
        assert_eq!(ArmedNow::read(&system), None);
        for text in ["", "{}", "\0\0\0"] {
            fs::write(root.path().join(TOLD), text).unwrap();
            assert_eq!(Told::read(&system), None);
        }
        fs::remove_file(root.path().join(TOLD)).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.path().join(TOLD)).unwrap();
        assert_eq!(Told::read(&system), None, "a link is not followed");
    }
}

//! What people told the kernel with `savecore arm` and `savecore disarm`, so that the next boot does the same; and what the kernel
//! was told in this boot.

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

/// What was told last, from one boot to the next.
const TOLD: &str = "var/lib/savecore/told.json";

/// What the kernel was told in this boot: /run is empty after each.
const NOW: &str = "run/savecore/armed.json";

/// Such a file is no larger.
const MAX_FILE: u64 = 1 << 20;

/// What the user asked for last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Whether to arm, or to disarm.
    pub armed: bool,
    /// The targets that were named; none: those of the configuration, or those that are found.
    pub targets: Vec<ToldTarget>,
    /// When, in seconds since 1970.
    pub time: u64,
}

/// A target that was named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ToldTarget {
    /// As it was named.
    pub name: String,
    /// The uuid of its label, if it could be read. It stays the same when disks change their names.
    pub uuid: Option<Uuid>,
}

impl Told {
    /// What was told last; `None` if nothing was, or nobody can read it now.
    pub fn read(system: &System) -> Option<Told> {
        read(&system.root.join(TOLD))
    }

    /// Keeps it for the next boot.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, system: &System) -> io::Result<()> {
        write(&system.root.join(TOLD), self)
    }

    /// The targets as they can be found today: by their labels, or else by what they were called.
    pub fn names(&self, system: &System) -> Vec<String> {
        let found = discover_in(&system.roots).map(|discovery| discovery.found).unwrap_or_default();
        let name = |target: &ToldTarget| match target.uuid {
            Some(uuid) if found.iter().filter(|at| at.uuid == uuid).count() == 1 => format!("UUID={uuid}"),
            _ => target.name.clone(),
        };
        self.targets.iter().map(name).collect()
    }
}

/// What savecore told the kernel in this boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArmedNow {
    /// The words.
    pub words: String,
    /// Whether the user chose targets or level, who is not overruled by the configuration until the next boot.
    pub by_hand: bool,
}

impl ArmedNow {
    /// What it was; `None` if somebody else than savecore has armed it, such as a file in /etc/modprobe.d.
    pub fn read(system: &System) -> Option<ArmedNow> {
        read(&system.root.join(NOW))
    }

    /// Keeps it until the next boot.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, system: &System) -> io::Result<()> {
        write(&system.root.join(NOW), self)
    }

    /// Forgets it: the kernel is disarmed.
    pub fn forget(system: &System) {
        // One that stays is of words that the kernel does not have; then it is armed anew once too often.
        let _ = fs::remove_file(system.root.join(NOW));
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    // Opening a FIFO would wait for ever without NONBLOCK.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes a file that is there whole or not at all, also when the power goes.
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
    // Some file systems do not sync folders: then the name is safe a little later.
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

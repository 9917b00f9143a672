//! The list of partitions that belong to this machine although their labels name no machine: a file of uuids,
//! one per line.
//!
//! A missing file counts as empty. The file is replaced atomically, so readers see either the old or the new
//! list.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dumpcore::format::Uuid;
use rustix::fs::{FlockOperation, OFlags, flock};

/// savecore's persistent state, below the root.
const DIRECTORY: &str = "var/lib/savecore";
/// The file's name there.
const NAME: &str = "partitions";
/// Maximum size to read: about 28,000 partitions.
const MAX_BYTES: u64 = 1 << 20;
/// The header of the file.
const HEAD: &str = "# Dump partitions of this machine whose labels name no machine, by uuid; kept by savecore format, arm and adopt.\n";

/// The path of the list in the system below `root`.
pub(super) fn path(root: &Path) -> PathBuf {
    root.join(DIRECTORY).join(NAME)
}

/// The list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct List(BTreeSet<Uuid>);

/// Why a partition could not be added.
#[derive(Debug, thiserror::Error)]
#[error("cannot note in {} that the partition is this machine's: {error}", path.display())]
pub struct ListError {
    path: PathBuf,
    error: io::Error,
}

impl List {
    /// Adds a partition to the list of the system below `root`.
    ///
    /// # Errors
    /// If the list cannot be read or written; then it is unchanged.
    pub fn note(root: &Path, uuid: Uuid) -> Result<(), ListError> {
        let path = path(root);
        note(&path, uuid).map_err(|error| ListError { path, error })
    }

    /// Reads a list; lines that are not uuids are ignored.
    pub(super) fn read(path: &Path) -> io::Result<List> {
        let mut text = Vec::new();
        // Without NONBLOCK, opening a FIFO would block for ever.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match File::options().read(true).custom_flags(flags.bits() as i32).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(List::default()),
            file => file?.take(MAX_BYTES + 1).read_to_end(&mut text)?,
        };
        if text.len() as u64 > MAX_BYTES {
            return Err(io::Error::other("it is too large to be such a list"));
        }
        let text = String::from_utf8_lossy(&text);
        let uuids = text.lines().filter_map(|line| line.trim().parse::<uuid::Uuid>().ok());
        Ok(List(uuids.map(uuid::Uuid::into_bytes).collect()))
    }

    /// Whether a partition is on the list.
    pub(super) fn has(&self, uuid: Uuid) -> bool {
        self.0.contains(&uuid)
    }

    /// Adds a partition.
    pub(super) fn insert(&mut self, uuid: Uuid) {
        self.0.insert(uuid);
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|uuid| format!("{}\n", uuid::Uuid::from_bytes(*uuid)));
        std::iter::once(HEAD.to_owned()).chain(lines).collect()
    }
}

fn note(path: &Path, uuid: Uuid) -> io::Result<()> {
    if List::read(path)?.has(uuid) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    let open = File::open(folder)?;
    // Concurrent updates would lose an entry. The lock is on the folder, since the file is replaced.
    flock(&open, FlockOperation::LockExclusive)?;
    let mut list = List::read(path)?;
    list.insert(uuid);
    let partial = folder.join(format!(".{NAME}.partial"));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(list.text().as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    open.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn what_is_noted_is_found_again_also_when_several_note_at_the_same_time() {
        let root = tempfile::tempdir().unwrap();
        let number = |number: u8| [number; 16];
        thread::scope(|scope| {
            for first in [1, 11, 21] {
                let root = root.path();
                scope.spawn(move || {
                    (first..first + 10).for_each(|one| List::note(root, number(one)).unwrap())
                });
            }
        });
        List::note(root.path(), number(1)).unwrap();
        let list = List::read(&path(root.path())).unwrap();
        assert_eq!(list.0.len(), 30);
        assert!(list.has(number(30)) && !list.has(number(31)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path(root.path())), 0o600);
        assert_eq!(mode(&root.path().join(DIRECTORY)), 0o700);
        assert_eq!(fs::read_dir(root.path().join(DIRECTORY)).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_list_names_nothing_and_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path());
        assert_eq!(List::read(&path).unwrap(), List::default());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let uuid = uuid::Uuid::from_u128(5);
        fs::write(&path, format!("\u{0}\n{uuid} and more\n\n  {uuid}  \n\u{ff}")).unwrap();
        assert_eq!(List::read(&path).unwrap(), List([uuid.into_bytes()].into()));
        fs::write(&path, vec![b'\n'; MAX_BYTES as usize + 1]).unwrap();
        assert!(List::read(&path).is_err());
        let error = List::note(root.path(), [1; 16]).unwrap_err().to_string();
        assert!(error.ends_with("too large to be such a list"), "{error}");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(List::read(&path).unwrap(), List::default());
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(List::read(&path).is_err());
    }
}

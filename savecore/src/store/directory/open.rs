//! The opened directory: features of its file system, ownership rules, and operations.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::super::error::{StoreError, failed};
use super::super::limits::Limits;
use super::room;
use super::safe::Safety;
use super::shelf::Shelf;
use crate::corefile::Room;

/// Maximum number of crashes with the same name.
pub(super) const MAX_ALIKE: u32 = 9999;

/// A directory with a folder for each crash.
pub(in crate::store) struct Directory {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) fd: OwnedFd,
    pub(super) limits: Limits,
    /// Whose folders count, besides root's: the user's, and those of the directory's owner, who has full
    /// control of it anyway. On CIFS, FAT and NFS the owner differs from the user who writes.
    pub(super) users: [u32; 2],
    pub(super) abilities: Abilities,
    pub(super) safety: Safety,
    /// The folders finished or found through this directory: none of them is removed.
    pub(super) settled: RefCell<BTreeSet<String>>,
    /// The existing folders, once read.
    pub(super) shelf: RefCell<Option<Shelf>>,
    /// Folders whose records were read.
    #[cfg(test)]
    pub(super) read: std::cell::Cell<u32>,
}

/// Assumed features of the file system. Missing ones are avoided after the first failure.
#[derive(Clone, Copy)]
pub(super) struct Abilities {
    /// Renaming without replacing.
    pub(super) no_replace: bool,
    /// Locks.
    pub(super) locks: bool,
}

/// The result of locking a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Held,
    /// Somebody else holds it.
    Busy,
    /// The file system does not support locks.
    Unsupported,
}

impl Directory {
    pub(in crate::store) fn open(path: &Path, limits: &Limits) -> Result<Directory, StoreError> {
        let name = path.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => StoreError::Missing { path: name.clone() },
            errno => failed("open", &name)(errno),
        })?;
        let owner = rustix::fs::fstat(&fd).map_err(failed("look at", &name))?.st_uid;
        let users = [rustix::process::geteuid().as_raw(), owner];
        let abilities = Abilities { no_replace: true, locks: true };
        Ok(Directory {
            path: path.to_owned(),
            name,
            fd,
            limits: limits.clone(),
            users,
            abilities,
            safety: Safety::default(),
            settled: RefCell::default(),
            shelf: RefCell::default(),
            #[cfg(test)]
            read: std::cell::Cell::default(),
        })
    }

    /// The name of an entry in messages.
    pub(super) fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// The names in the directory; names that cannot be savecore's may be left out.
    pub(super) fn entries(&self) -> Result<Vec<String>, StoreError> {
        entries(&self.fd).map_err(failed("list", &self.name))
    }

    pub(super) fn is_there(&self, name: &str) -> Result<bool, StoreError> {
        match stat(&self.fd, name) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("look at", self.shown(name))(errno)),
        }
    }

    /// Whether the user, root, or the directory's owner created it: other folders do not count.
    pub(super) fn is_ours(&self, stat: &Stat) -> bool {
        stat.st_uid == 0 || self.users.contains(&stat.st_uid)
    }

    pub(super) fn lock(&self, folder: &OwnedFd) -> Lock {
        if !self.abilities.locks {
            return Lock::Unsupported;
        }
        match retry_on_intr(|| rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Lock::Held,
            Err(Errno::WOULDBLOCK) => Lock::Busy,
            // For whatever reason, such as NFS, which locks only files opened for writing: without a lock
            // nothing is removed, which is safe.
            Err(_) => Lock::Unsupported,
        }
    }

    /// Renames a folder without replacing anything: [`Errno::EXIST`] if the name is taken.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        if self.abilities.no_replace {
            match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
                // Not supported, or not for this user.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM | Errno::NOTTY) => {}
                result => return result,
            }
        }
        // A folder created here is ours, and renaming replaces it only as long as it is empty.
        rustix::fs::mkdirat(&self.fd, to, Mode::RWXU)?;
        let Err(errno) = rustix::fs::renameat(&self.fd, from, &self.fd, to) else { return Ok(()) };
        let _ = rustix::fs::unlinkat(&self.fd, to, AtFlags::REMOVEDIR);
        match errno {
            Errno::NOTEMPTY => Err(Errno::EXIST),
            // Servers that never replace a target when renaming. Without a folder there, the rename can only
            // replace an empty folder that somebody creates at this moment.
            Errno::EXIST | Errno::ACCESS | Errno::PERM => {
                match rustix::fs::renameat(&self.fd, from, &self.fd, to) {
                    Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(Errno::EXIST),
                    result => result,
                }
            }
            errno => Err(errno),
        }
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.safety.sync(&self.fd, &self.name)
    }

    /// Checks that the folder is found at its path, and not in a directory that has been moved since it was
    /// opened.
    pub(super) fn check_place(&self, name: &str, folder: &OwnedFd) -> Result<(), StoreError> {
        let there = rustix::fs::statat(CWD, self.path.join(name), AtFlags::SYMLINK_NOFOLLOW);
        let here = rustix::fs::fstat(folder).map_err(failed("look at", self.shown(name)))?;
        if there.is_ok_and(|there| is_same(&there, &here)) {
            return Ok(());
        }
        Err(StoreError::Moved { path: self.name.clone() })
    }

    /// Rejects a crash that certainly does not fit. Whether there is enough room shows only when it is
    /// written.
    pub(super) fn check_room(&self, room: Option<Room>) -> Result<(), StoreError> {
        let least = room.filter(|_| room::is_literal(&self.fd)).map_or(0, |room| room.least);
        let min_free = self.limits.min_free;
        match room::free(&self.fd) {
            Some(free) if free < least.saturating_add(min_free) => {
                Err(StoreError::NoRoom { path: self.name.clone(), free, least, min_free })
            }
            _ => Ok(()),
        }
    }
}

/// The names in a directory, except those that are not UTF-8: savecore uses none of that kind.
pub(super) fn entries(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if let Ok(name) = name.to_str()
            && ![".", ".."].contains(&name)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a directory in another; never through a link.
pub(super) fn open_folder(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// An entry's metadata; for a link, the link's own.
pub(super) fn stat(at: impl AsFd, name: &str) -> Result<Stat, Errno> {
    rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

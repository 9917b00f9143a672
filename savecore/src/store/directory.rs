//! A directory with a folder for each crash.
//!
//! A folder is filled as `.NAME.partial`, locked, and renamed when it and all in it are safe. Everything goes through the
//! directory as it was opened once and by single names that are never followed if they are links: nothing is written
//! elsewhere, even if others may write there too. Such others are kept from handing over folders of their own: only what
//! belongs to the user or to root counts.

mod folder;
mod kept;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use self::folder::Partial;
pub(crate) use self::kept::LATEST;
use super::error::{StoreError, failed};
use super::{Begun, Crash, Limits, Store, names};

/// Crashes of one name that there can be.
const MAX_ALIKE: u32 = 9999;

/// A directory with a folder for each crash.
pub(super) struct Directory {
    path: PathBuf,
    name: String,
    fd: OwnedFd,
    limits: Limits,
    /// The user whose folders count.
    user: u32,
    abilities: Abilities,
    /// The folders that were finished or found again through this: none of them is removed.
    settled: RefCell<Vec<String>>,
}

/// What the file system is taken to offer. What it says that it lacks is done without.
#[derive(Clone, Copy)]
struct Abilities {
    /// Renaming that never replaces.
    no_replace: bool,
    /// Locks.
    locks: bool,
}

/// What became of trying to lock a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Held,
    /// Somebody else holds it.
    Busy,
    /// The file system has none.
    Unsupported,
}

impl Directory {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Directory, StoreError> {
        let name = path.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => StoreError::Missing { path: name.clone() },
            errno => failed("open", &name)(errno),
        })?;
        let user = rustix::process::geteuid().as_raw();
        let abilities = Abilities { no_replace: true, locks: true };
        Ok(Directory {
            path: path.to_owned(),
            name,
            fd,
            limits: limits.clone(),
            user,
            abilities,
            settled: RefCell::default(),
        })
    }

    /// What stands in the directory under `name`, as messages name it.
    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// The names in the directory; those that no folder of savecore's has may be left out.
    fn entries(&self) -> Result<Vec<String>, StoreError> {
        entries(&self.fd).map_err(failed("list", &self.name))
    }

    fn is_there(&self, name: &str) -> Result<bool, StoreError> {
        match stat(&self.fd, name) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("look at", self.shown(name))(errno)),
        }
    }

    /// Whether the user, or root, made it: nobody else's folder counts.
    fn is_ours(&self, stat: &Stat) -> bool {
        [self.user, 0].contains(&stat.st_uid)
    }

    fn lock(&self, folder: &OwnedFd) -> Result<Lock, Errno> {
        if !self.abilities.locks {
            return Ok(Lock::Unsupported);
        }
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock::Held),
            Err(Errno::WOULDBLOCK) => Ok(Lock::Busy),
            // NFS locks only what is open for writing, which a directory never is.
            Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS | Errno::BADF) => Ok(Lock::Unsupported),
            Err(errno) => Err(errno),
        }
    }

    /// Renames a folder, but never over something: [`Errno::EXIST`] if the name is taken.
    fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        if self.abilities.no_replace {
            match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                result => return result,
            }
        }
        // A folder that is made here is nobody else's, and renaming replaces it only as long as it is empty.
        rustix::fs::mkdirat(&self.fd, to, Mode::RWXU)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(|errno| {
            let _ = rustix::fs::unlinkat(&self.fd, to, AtFlags::REMOVEDIR);
            if errno == Errno::NOTEMPTY { Errno::EXIST } else { errno }
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd).map_err(failed("make safe", &self.name))
    }

    /// Whether the folder is found where it is said to be, and not in a directory that has left its place since it was
    /// opened.
    fn check_place(&self, name: &str, folder: &OwnedFd) -> Result<(), StoreError> {
        let there = rustix::fs::statat(CWD, self.path.join(name), AtFlags::SYMLINK_NOFOLLOW);
        let here = rustix::fs::fstat(folder).map_err(failed("look at", self.shown(name)))?;
        if there.is_ok_and(|there| is_same(&there, &here)) {
            return Ok(());
        }
        Err(StoreError::Moved { path: self.name.clone() })
    }

    /// Refuses a crash for which there is not enough room.
    fn check_room(&self, room: Option<u64>) -> Result<(), StoreError> {
        let (room, min_free) = (room.unwrap_or(0), self.limits.min_free);
        let free = free(&self.fd).map_err(failed("look at", &self.name))?;
        if free < room.saturating_add(min_free) {
            return Err(StoreError::NoRoom { path: self.name.clone(), free, room, min_free });
        }
        Ok(())
    }
}

impl Store for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self, crash: &Crash, core: &str, room: Option<u64>) -> Result<Begun<'_>, StoreError> {
        let mut remarks = Vec::new();
        self.remove_leftovers(&mut remarks)?;
        let base = names::folder(crash);
        for name in self.entries()? {
            if names::is_numbered(&name, &base)
                && let Some(place) = self.whole(&name, crash, core)?
            {
                return Ok(Begun::AlreadyThere(place));
            }
        }
        self.check_room(room)?;
        for number in 1..=MAX_ALIKE {
            let name = names::numbered(&base, number);
            if !self.is_there(&name)?
                && let Some(partial) = Partial::create(self, names::partial(&name))?
            {
                return Ok(Begun::New(Box::new(folder::Filling::new(partial, base, crash.clone(), remarks))));
            }
        }
        Err(StoreError::Taken { path: self.shown(&base) })
    }
}

/// The names in a directory, but for those that are not UTF-8: savecore gives none of that kind.
fn entries(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
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

/// Opens a directory in another; never a link to one.
fn open_folder(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// What stands there; of a link, the link.
fn stat(at: impl AsFd, name: &str) -> Result<Stat, Errno> {
    rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Bytes that the user may still fill.
fn free(at: impl AsFd) -> io::Result<u64> {
    let system = rustix::fs::fstatvfs(at)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

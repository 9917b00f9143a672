//! The folders that are in a directory already: finished ones, and what killed runs left behind.

use std::fs::File;
use std::io::Read;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::error::{StoreError, failed};
use super::super::record::{self, Record};
use super::super::{Crash, Place, names};
use super::{Directory, Lock, entries, is_same, open_folder, stat};

/// The link to the crash that was saved last.
pub(crate) const LATEST: &str = "latest";
/// A link that is about to become it.
const NEXT_LATEST: &str = ".latest.partial";

/// A finished folder. There may be more of them than files that a process may have open.
struct Kept {
    name: String,
    order: u64,
    record: Record,
    stat: Stat,
}

impl Directory {
    /// The place of a crash that an earlier run finished in the folder `name`, made safe; `None` if it is not that crash with
    /// that core, or not whole.
    pub(super) fn whole(&self, name: &str, crash: &Crash, core: &str) -> Result<Option<Place>, StoreError> {
        let Some((fd, record, length)) = self.finished(name) else { return Ok(None) };
        if !record.is_of(crash, core) {
            return Ok(None);
        }
        let is_whole = record.files.iter().all(|file| {
            names::is_file(&file.name)
                && stat(&fd, &file.name).is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size as u64 == file.bytes
                })
        });
        if !is_whole {
            return Ok(None);
        }
        // Its files were made safe before it got its name; the name itself may not be yet.
        rustix::fs::fsync(&fd).map_err(failed("make safe", self.shown(name)))?;
        self.sync()?;
        self.check_place(name, &fd)?;
        let mut remarks = Vec::new();
        self.settle(name, crash.stays, &mut remarks);
        Ok(Some(Place { folder: self.shown(name), files: record.files_with(length), remarks }))
    }

    /// A folder of ours with what its `info.json` says, and how long that is; `None` if it is something else.
    fn finished(&self, name: &str) -> Option<(OwnedFd, Record, u64)> {
        if !names::is_folder(name) {
            return None;
        }
        let fd = open_folder(&self.fd, name).ok()?;
        if !self.is_ours(&rustix::fs::fstat(&fd).ok()?) {
            return None;
        }
        // Opening a FIFO would wait for ever without NONBLOCK.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&fd, record::FILE, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        file.take(record::MAX_BYTES).read_to_end(&mut text).ok()?;
        Some((fd, Record::parse(&text)?, text.len() as u64))
    }

    /// All finished folders, the one saved first at the beginning.
    fn kept(&self) -> Result<Vec<Kept>, StoreError> {
        let mut kept = Vec::new();
        for name in self.entries()? {
            if let Some((fd, record, _)) = self.finished(&name) {
                let stat = rustix::fs::fstat(&fd).map_err(failed("look at", self.shown(&name)))?;
                kept.push(Kept { order: record.order.unwrap_or(0), name, record, stat });
            }
        }
        kept.sort_by(|one, other| (one.order, &one.name).cmp(&(other.order, &other.name)));
        Ok(kept)
    }

    /// The number for the next crash, higher than all that are there.
    pub(super) fn next_order(&self) -> Result<u64, StoreError> {
        Ok(self.kept()?.last().map_or(1, |last| last.order.saturating_add(1)))
    }

    /// What is to be done when a crash is safe in the folder `name`: the link, and old crashes. None of it can lose the new
    /// one, so what goes wrong is only remarked. For a crash that stays on its partition, nothing is removed: it would be stored
    /// again and again, each time at the cost of one that is nowhere else.
    pub(super) fn settle(&self, name: &str, stays: bool, remarks: &mut Vec<String>) {
        self.settled.borrow_mut().push(name.to_owned());
        let kept = match self.kept() {
            Ok(kept) => kept,
            Err(error) => return remarks.push(error.to_string()),
        };
        if kept.last().is_some_and(|last| last.name == name)
            && let Err(errno) = self.point_to(name)
        {
            let error = std::io::Error::from(errno);
            remarks.push(format!("cannot point {} to the crash: {error}", self.shown(LATEST)));
        }
        let Some(max_kept) = self.limits.max_kept.filter(|_| !stays) else { return };
        let settled = self.settled.borrow();
        // Who put files of their own into a crash's folder keeps it.
        let only_ours: Vec<&Kept> = kept.iter().filter(|kept| self.holds_only_ours(kept)).collect();
        let excess = only_ours.len().saturating_sub(max_kept.max(1) as usize);
        for old in only_ours.into_iter().filter(|old| !settled.contains(&old.name)).take(excess) {
            if let Err(errno) = self.discard(old) {
                let error = std::io::Error::from(errno);
                remarks.push(format!("cannot remove the old crash {}: {error}", self.shown(&old.name)));
            }
        }
    }

    /// Makes the link `latest` point to the folder, at once.
    fn point_to(&self, name: &str) -> Result<(), Errno> {
        match stat(&self.fd, LATEST) {
            Err(Errno::NOENT) => {}
            there if FileType::from_raw_mode(there?.st_mode).is_symlink() => {}
            // Somebody's own.
            _ => return Err(Errno::EXIST),
        }
        // One that a killed run left behind.
        match rustix::fs::unlinkat(&self.fd, NEXT_LATEST, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        rustix::fs::symlinkat(name, &self.fd, NEXT_LATEST)?;
        rustix::fs::renameat(&self.fd, NEXT_LATEST, &self.fd, LATEST)?;
        rustix::fs::fsync(&self.fd)
    }

    /// Removes a finished folder; its name is the first to go, so that it is never there in part.
    fn discard(&self, old: &Kept) -> Result<(), Errno> {
        let partial = names::partial(&old.name);
        let fd = self.reopen(old)?;
        if self.lock(&fd)? == Lock::Busy {
            return Err(Errno::BUSY);
        }
        self.rename(&old.name, &partial)?;
        self.remove(&partial, &fd)
    }

    /// Opens a finished folder once more.
    fn reopen(&self, kept: &Kept) -> Result<OwnedFd, Errno> {
        let fd = open_folder(&self.fd, &kept.name)?;
        // Someone may have put another in its place.
        if !is_same(&rustix::fs::fstat(&fd)?, &kept.stat) {
            return Err(Errno::BUSY);
        }
        Ok(fd)
    }

    fn holds_only_ours(&self, kept: &Kept) -> bool {
        let is_ours =
            |name: &String| name == record::FILE || kept.record.files.iter().any(|file| file.name == *name);
        let names = self.reopen(kept).and_then(|fd| entries(&fd));
        names.is_ok_and(|names| names.iter().all(is_ours))
    }

    /// Removes what killed runs left behind, unless somebody is still at it.
    pub(super) fn remove_leftovers(&self, remarks: &mut Vec<String>) -> Result<(), StoreError> {
        for name in self.entries()?.iter().filter(|name| names::is_partial(name)) {
            let shown = || self.shown(name);
            let fd = match open_folder(&self.fd, name) {
                Ok(fd) => fd,
                // Gone by now, a link, or not a folder: not ours.
                Err(_) => continue,
            };
            let here = rustix::fs::fstat(&fd).map_err(failed("look at", shown()))?;
            if !self.is_ours(&here) || !stat(&self.fd, name).is_ok_and(|there| is_same(&there, &here)) {
                continue;
            }
            let removed = match self.lock(&fd).map_err(failed("lock", shown()))? {
                Lock::Held => self.remove(name, &fd),
                Lock::Busy => Ok(()),
                Lock::Unsupported => {
                    remarks.push(format!(
                        "{} may be left over from a run that was killed, but this file system has no locks to tell: remove it if no savecore is at work",
                        shown()
                    ));
                    Ok(())
                }
            };
            if let Err(errno) = removed {
                let error = std::io::Error::from(errno);
                remarks.push(format!(
                    "cannot remove {}, left over from a run that was killed: {error}",
                    shown()
                ));
            }
        }
        Ok(())
    }

    /// Removes a folder and the files in it; not one that holds other folders, for none of savecore's does.
    pub(super) fn remove(&self, name: &str, fd: &OwnedFd) -> Result<(), Errno> {
        // Someone may have put another in its place.
        if !is_same(&stat(&self.fd, name)?, &rustix::fs::fstat(fd)?) {
            return Err(Errno::BUSY);
        }
        for file in entries(fd)? {
            rustix::fs::unlinkat(fd, &*file, AtFlags::empty())?;
        }
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }
}

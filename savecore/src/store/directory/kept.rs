//! The existing folders of a directory: finished ones, and leftovers of killed runs.

use std::cell::RefMut;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::error::{StoreError, failed};
use super::super::limits::MaxKept;
use super::super::names;
use super::super::record::{self, Record};
use super::super::types::{Crash, INFO, Place};
use super::open::{Directory, Lock, entries, is_same, open_folder, stat};
use super::retire::{Old, going, is_one_row};
use super::room;
use super::shelf::{Kept, Shelf};

/// The link to the crash saved last.
pub(crate) const LATEST: &str = "latest";
/// A link that will replace it.
const NEXT_LATEST: &str = ".latest.partial";

impl Directory {
    /// The place of a crash that an earlier run finished in the folder `name`, made durable; `None` if it is
    /// not that crash with that core, or incomplete.
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
        // Its files were made durable before it got its name; the name itself may not be durable yet.
        self.safety.sync(&fd, self.shown(name))?;
        self.sync()?;
        self.check_place(name, &fd)?;
        Ok(Some(self.settled(name, record.files_with(length), crash.stays, Vec::new())))
    }

    /// The place of a crash that is durable in the folder `name`, or as durable as the file system allows,
    /// after the final work.
    pub(super) fn settled(
        &self,
        name: &str,
        files: Vec<(String, u64)>,
        stays: bool,
        mut remarks: Vec<String>,
    ) -> Place {
        let doubt = self.safety.doubt(&self.name);
        self.settle(name, stays || doubt.is_some(), &mut remarks);
        remarks.extend(self.safety.remark(&self.name));
        Place { folder: self.shown(name), files, remarks, doubt }
    }

    /// One of our folders with its `info.json`, and that file's length; `None` if it is something else.
    fn finished(&self, name: &str) -> Option<(OwnedFd, Record, u64)> {
        if !names::is_folder(name) {
            return None;
        }
        #[cfg(test)]
        self.read.set(self.read.get() + 1);
        let fd = open_folder(&self.fd, name).ok()?;
        if !self.is_ours(&rustix::fs::fstat(&fd).ok()?) {
            return None;
        }
        // Without NONBLOCK, opening a FIFO would block for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&fd, INFO, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        file.take(record::MAX_BYTES).read_to_end(&mut text).ok()?;
        Some((fd, Record::parse(&text)?, text.len() as u64))
    }

    /// Whether the folder `name` may be that crash with that core, by its record as read earlier, if it was.
    pub(super) fn may_be(&self, name: &str, crash: &Crash, core: &str) -> Result<bool, StoreError> {
        let shelf = self.shelf()?;
        Ok(shelf.get(name).is_none_or(|kept| kept.record.is_of(crash, core)))
    }

    /// All finished folders, read on first use; later changes through this directory are recorded.
    fn shelf(&self) -> Result<RefMut<'_, Shelf>, StoreError> {
        let mut shelf = self.shelf.borrow_mut();
        if shelf.is_none() {
            let mut read = Shelf::default();
            for name in self.entries()? {
                self.put_on(&mut read, &name)?;
            }
            *shelf = Some(read);
        }
        Ok(RefMut::map(shelf, |shelf| shelf.get_or_insert_default()))
    }

    /// Adds a folder's record, if it is one of ours.
    fn put_on(&self, shelf: &mut Shelf, name: &str) -> Result<(), StoreError> {
        if let Some((fd, record, _)) = self.finished(name) {
            let stat = rustix::fs::fstat(&fd).map_err(failed("look at", self.shown(name)))?;
            let bytes = own_bytes(&fd, &record);
            shelf.insert(name.to_owned(), Kept { record, stat, bytes });
        }
        Ok(())
    }

    /// The number for the next crash, higher than all existing ones.
    pub(super) fn next_order(&self) -> Result<u64, StoreError> {
        let shelf = self.shelf()?;
        Ok(shelf.folders.last_key_value().map_or(1, |((last, _), _)| last.saturating_add(1)))
    }

    /// Whether the crash that will get this name is in one row with its host's last one; `None` if there
    /// is none.
    pub(super) fn follows(&self, name: &str) -> Result<Option<bool>, StoreError> {
        let Some((host, seconds)) = names::told(name) else { return Ok(None) };
        let shelf = self.shelf()?;
        let of_host = shelf.folders.keys().rev().filter_map(|(_, name)| names::told(name));
        let before = of_host.into_iter().find(|(of, _)| *of == host);
        Ok(before.map(|(_, before)| is_one_row(before, seconds)))
    }

    /// The final work when a crash is durable in the folder `name`: the link, and removal of old crashes. It
    /// cannot lose the new crash, so errors are only remarks. For a crash that stays on its partition,
    /// nothing is removed: it would be stored again and again, each time at the cost of one that exists
    /// nowhere else.
    fn settle(&self, name: &str, stays: bool, remarks: &mut Vec<String>) {
        self.settled.borrow_mut().insert(name.to_owned());
        let shelf = self.shelf().and_then(|mut shelf| {
            self.put_on(&mut shelf, name)?;
            Ok(shelf)
        });
        let mut shelf = match shelf {
            Ok(shelf) => shelf,
            Err(error) => return remarks.push(error.to_string()),
        };
        if shelf.last() == Some(name)
            && let Err(errno) = self.point_to(name)
        {
            let error = std::io::Error::from(errno);
            match errno {
                // A file system without links: report that only with the first crash.
                Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL if shelf.folders.len() > 1 => {}
                _ => remarks.push(format!("cannot point {} to the crash: {error}", self.shown(LATEST))),
            }
        }
        if !stays {
            self.retire(name, &mut shelf, remarks);
        }
    }

    /// Removes crashes beyond the limits, only of the same host as `name`. Other hosts may store in the same
    /// directory.
    fn retire(&self, name: &str, shelf: &mut Shelf, remarks: &mut Vec<String>) {
        let number = match self.limits.max_kept {
            MaxKept::All => None,
            MaxKept::Number(number) => Some(number),
        };
        // If the file system's size is unknown, a share of it is no limit.
        let bytes = self.limits.max_used.bytes(room::all(&self.fd).unwrap_or(u64::MAX));
        if number.is_none() && bytes.is_none() {
            return;
        }
        let mut stuck = BTreeSet::new();
        // A user who puts files into a crash's folder keeps it, and it no longer counts.
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for old in self.beyond(name, shelf, number, bytes) {
                let Some(kept) = shelf.get(&old).filter(|_| !stuck.contains(&old)) else { continue };
                match self.discard(&old, kept) {
                    Ok(true) => shelf.remove(&old),
                    Ok(false) => {
                        shelf.is_not_only_ours(&old);
                        has_changed = true;
                    }
                    Err(errno) => {
                        let error = std::io::Error::from(errno);
                        remarks.push(format!("cannot remove the old crash {}: {error}", self.shown(&old)));
                        stuck.insert(old);
                    }
                }
            }
        }
    }

    /// The folders beyond the limits of the same host as `name`.
    fn beyond(&self, name: &str, shelf: &Shelf, number: Option<u32>, bytes: Option<u64>) -> Vec<String> {
        let settled = self.settled.borrow();
        let host = names::told(name).map(|(host, _)| host);
        let of_host = shelf.folders.iter().filter_map(|((_, name), kept)| {
            let (of, seconds) = names::told(name)?;
            let bytes = kept.bytes.filter(|_| Some(of) == host)?;
            let follows = kept.record.follows;
            Some((name, Old { seconds, follows, bytes, is_new: settled.contains(name) }))
        });
        let (of_host, olds): (Vec<&String>, Vec<Old>) = of_host.unzip();
        let going = going(&olds, number, bytes).into_iter();
        going.filter_map(|place| of_host.get(place).map(|name| (*name).clone())).collect()
    }

    /// Atomically makes the link `latest` point to the folder.
    fn point_to(&self, name: &str) -> Result<(), Errno> {
        match stat(&self.fd, LATEST) {
            Err(Errno::NOENT) => {}
            there if FileType::from_raw_mode(there?.st_mode).is_symlink() => {}
            // Not our link.
            _ => return Err(Errno::EXIST),
        }
        // A leftover of a killed run.
        match rustix::fs::unlinkat(&self.fd, NEXT_LATEST, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        rustix::fs::symlinkat(name, &self.fd, NEXT_LATEST)?;
        rustix::fs::renameat(&self.fd, NEXT_LATEST, &self.fd, LATEST)?;
        // If the link is the old one after a power failure, no harm is done.
        let _ = rustix::fs::fsync(&self.fd);
        Ok(())
    }

    /// Removes a finished folder, unless somebody has put files into it; returns whether it is gone. Its name
    /// goes first, so that it is never incomplete under its name.
    fn discard(&self, name: &str, old: &Kept) -> Result<bool, Errno> {
        let fd = match open_folder(&self.fd, name) {
            // Somebody else removed it.
            Err(Errno::NOENT) => return Ok(true),
            fd => fd?,
        };
        // Somebody may have replaced it.
        if !is_same(&rustix::fs::fstat(&fd)?, &old.stat) {
            return Err(Errno::BUSY);
        }
        if own_bytes(&fd, &old.record).is_none() {
            return Ok(false);
        }
        if self.lock(&fd) == Lock::Busy {
            return Err(Errno::BUSY);
        }
        let partial = names::partial(name);
        self.rename(name, &partial)?;
        self.remove(&partial, &fd)?;
        Ok(true)
    }

    /// Removes leftovers of killed runs, unless they are still in use.
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
            let removed = match self.lock(&fd) {
                Lock::Held => self.remove(name, &fd),
                Lock::Busy => Ok(()),
                Lock::Unsupported => {
                    remarks.push(format!(
                        "{} may be left over from a killed run, but this file system has no locks to tell: remove it if no savecore is running",
                        shown()
                    ));
                    Ok(())
                }
            };
            if let Err(errno) = removed {
                let error = std::io::Error::from(errno);
                remarks.push(format!("cannot remove {}, left over from a killed run: {error}", shown()));
            }
        }
        Ok(())
    }

    /// Removes a folder and its files; but not if it contains folders, since savecore's never do.
    pub(super) fn remove(&self, name: &str, fd: &OwnedFd) -> Result<(), Errno> {
        // Somebody may have replaced it.
        if !is_same(&stat(&self.fd, name)?, &rustix::fs::fstat(fd)?) {
            return Err(Errno::BUSY);
        }
        for file in entries(fd)? {
            rustix::fs::unlinkat(fd, &*file, AtFlags::empty())?;
        }
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }
}

/// Disk usage of a folder's files; `None` if it has files that are not in its record.
fn own_bytes(fd: &OwnedFd, record: &Record) -> Option<u64> {
    let is_ours = |name: &String| name == INFO || record.files.iter().any(|file| file.name == *name);
    let names = entries(fd).ok()?;
    let taken = |name: &String| stat(fd, name).map_or(0, |stat| (stat.st_blocks as u64).saturating_mul(512));
    names.iter().all(is_ours).then(|| names.iter().map(taken).fold(0, u64::saturating_add))
}

//! The folders that are in a directory already: finished ones, and what killed runs left behind.

use std::fs::File;
use std::io::Read;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::error::{StoreError, failed};
use super::super::record::{self, Record};
use super::super::{Crash, MaxKept, Place, names};
use super::retire::{Old, going};
use super::{Directory, Lock, entries, is_same, open_folder, room, stat};

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
        self.safety.sync(&fd, self.shown(name))?;
        self.sync()?;
        self.check_place(name, &fd)?;
        Ok(Some(self.settled(name, record.files_with(length), crash.stays, Vec::new())))
    }

    /// The place of a crash that is safe in the folder `name`, or as safe as the file system allows, when what is to be done then
    /// is done.
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
    fn settle(&self, name: &str, stays: bool, remarks: &mut Vec<String>) {
        self.settled.borrow_mut().push(name.to_owned());
        let kept = match self.kept() {
            Ok(kept) => kept,
            Err(error) => return remarks.push(error.to_string()),
        };
        if kept.last().is_some_and(|last| last.name == name)
            && let Err(errno) = self.point_to(name)
        {
            let error = std::io::Error::from(errno);
            match errno {
                // A file system without links: that is said with the first crash there, and then it is known.
                Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL if kept.len() > 1 => {}
                _ => remarks.push(format!("cannot point {} to the crash: {error}", self.shown(LATEST))),
            }
        }
        if !stays {
            self.retire(name, &kept, remarks);
        }
    }

    /// Removes what is beyond the limits of the crashes of the host that `name` is of. Other hosts may have theirs in the same
    /// directory.
    fn retire(&self, name: &str, kept: &[Kept], remarks: &mut Vec<String>) {
        let number = match self.limits.max_kept {
            MaxKept::All => None,
            MaxKept::Number(number) => Some(number),
        };
        // Where a file system does not say how large it is, a share of it is no limit.
        let bytes = self.limits.max_used.bytes(room::all(&self.fd).unwrap_or(u64::MAX));
        if number.is_none() && bytes.is_none() {
            return;
        }
        let settled = self.settled.borrow();
        let host = names::told(name).map(|(host, _)| host);
        let of_host = kept.iter().filter_map(|kept| {
            let (of, seconds) = names::told(&kept.name)?;
            // Who put files of their own into a crash's folder keeps it.
            let bytes = self.own_bytes(kept).filter(|_| Some(of) == host)?;
            Some((kept, Old { seconds, bytes, is_new: settled.contains(&kept.name) }))
        });
        let (of_host, olds): (Vec<&Kept>, Vec<Old>) = of_host.unzip();
        for old in going(&olds, number, bytes).into_iter().filter_map(|place| of_host.get(place)) {
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
        // That the link may be the old one after a power failure harms nobody.
        let _ = rustix::fs::fsync(&self.fd);
        Ok(())
    }

    /// Removes a finished folder; its name is the first to go, so that it is never there in part.
    fn discard(&self, old: &Kept) -> Result<(), Errno> {
        let partial = names::partial(&old.name);
        let fd = self.reopen(old)?;
        if self.lock(&fd) == Lock::Busy {
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

    /// What a folder's files take on the disk; `None` if there are others than savecore's in it.
    fn own_bytes(&self, kept: &Kept) -> Option<u64> {
        let is_ours =
            |name: &String| name == record::FILE || kept.record.files.iter().any(|file| file.name == *name);
        let fd = self.reopen(kept).ok()?;
        let names = entries(&fd).ok()?;
        let taken =
            |name: &String| stat(&fd, name).map_or(0, |stat| (stat.st_blocks as u64).saturating_mul(512));
        names.iter().all(is_ours).then(|| names.iter().map(taken).fold(0, u64::saturating_add))
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
            let removed = match self.lock(&fd) {
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

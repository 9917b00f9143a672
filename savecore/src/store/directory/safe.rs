//! How what was written is made safe, and what is done on a file system that cannot sync everything.
//!
//! Directories cannot be synced on CIFS before Linux 4.17, on virtiofs, and on many file systems in user space. That says nothing
//! about the disk, so it must not keep a dump from being saved. The whole file system is synced instead; only if that is
//! refused too, the dump stays on its partition besides.

use std::cell::Cell;
use std::fmt::Display;
use std::io;

use rustix::fd::AsFd;
use rustix::io::{Errno, retry_on_intr};

use super::super::error::{StoreError, failed};

/// What stood in for syncs that the file system does not have.
#[derive(Default)]
pub(super) struct Safety {
    /// The whole file system was synced instead.
    whole: Cell<Option<Errno>>,
    /// Nothing could be synced.
    none: Cell<Option<Errno>>,
    /// The user was told.
    told: Cell<bool>,
}

impl Safety {
    /// Forgets what was noted of another crash.
    pub(super) fn begin(&self) {
        self.whole.set(None);
        self.none.set(None);
    }

    /// Makes a file or a directory safe.
    ///
    /// # Errors
    /// What the medium says. That the file system has no such sync is only noted.
    pub(super) fn sync(&self, what: impl AsFd, shown: impl Display) -> Result<(), StoreError> {
        let Err(errno) = retry_on_intr(|| rustix::fs::fsync(&what)) else { return Ok(()) };
        if !is_not_offered(errno) {
            return Err(failed("make safe", shown)(errno));
        }
        match retry_on_intr(|| rustix::fs::syncfs(&what)) {
            Ok(()) => self.whole.set(Some(errno)),
            Err(_) => self.none.set(Some(errno)),
        }
        Ok(())
    }

    /// Why a crash that was just stored may be lost if the power goes; `None` if it is safe.
    pub(super) fn doubt(&self, store: &str) -> Option<String> {
        let error = io::Error::from(self.none.get()?);
        Some(format!(
            "{store} cannot be synced ({error}), so a power failure may lose what was just saved there; `savecore clear` frees the dump"
        ))
    }

    /// What the user should know, once.
    pub(super) fn remark(&self, store: &str) -> Option<String> {
        let error = io::Error::from(self.whole.get()?);
        let is_new = !self.told.replace(true);
        is_new.then(|| {
            format!("{store} cannot sync a file or directory by itself ({error}): the whole file system was synced instead")
        })
    }
}

/// Whether a file system that lacks a sync says so in that way: EINVAL CIFS, EBADF virtiofs, ENOSYS and EOPNOTSUPP those in
/// user space. Anything else is about the medium.
fn is_not_offered(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::NOSYS | Errno::BADF | Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOTTY
    )
}

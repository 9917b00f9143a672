//! Durability, including file systems that cannot sync everything.
//!
//! Directories cannot be synced on CIFS before Linux 4.17, on virtiofs, and on many file systems in user
//! space. That says nothing about the disk, so it must not prevent saving a dump. Instead the whole file
//! system is synced; only if that fails too, the dump also stays on its partition.

use std::cell::Cell;
use std::fmt::Display;
use std::io;

use rustix::fd::AsFd;
use rustix::io::{Errno, retry_on_intr};

use super::super::error::{StoreError, failed};

/// Replacements for unsupported syncs.
#[derive(Default)]
pub(super) struct Safety {
    /// The whole file system was synced instead.
    whole: Cell<Option<Errno>>,
    /// No sync was possible.
    none: Cell<Option<Errno>>,
    /// The user was told.
    told: Cell<bool>,
}

impl Safety {
    /// Forgets the results for another crash.
    pub(super) fn begin(&self) {
        self.whole.set(None);
        self.none.set(None);
    }

    /// Makes a file or a directory durable.
    ///
    /// # Errors
    /// Errors of the medium. An unsupported sync is only recorded.
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

    /// Why a power failure may lose the crash that was just stored; `None` if it is durable.
    pub(super) fn doubt(&self, store: &str) -> Option<String> {
        let error = io::Error::from(self.none.get()?);
        Some(format!(
            "{store} cannot be synced ({error}), so a power failure may lose what was just saved there; `savecore clear` frees the dump"
        ))
    }

    /// A remark for the user, once.
    pub(super) fn remark(&self, store: &str) -> Option<String> {
        let error = io::Error::from(self.whole.get()?);
        let is_new = !self.told.replace(true);
        is_new.then(|| {
            format!("{store} cannot sync a file or directory by itself ({error}): the whole file system was synced instead")
        })
    }
}

/// Whether this error means that a file system does not support a sync: EINVAL on CIFS, EBADF on virtiofs,
/// ENOSYS and EOPNOTSUPP in user space. Any other error is about the medium.
fn is_not_offered(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::NOSYS | Errno::BADF | Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOTTY
    )
}

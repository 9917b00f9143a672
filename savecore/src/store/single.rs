//! One file in a directory.
//!
//! A file is written under a temporary name, made safe, and only then gets its name, which it never takes from
//! another file. When [`store`] returns, file and name outlive a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::error::{StoreError, failed};
use crate::dump::{Dump, utc};

/// How a file came to its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It was written.
    Written,
    /// A file with the same bytes was there already.
    AlreadyThere,
}

/// The name of a dump's files without an ending: it tells partition, number, time, and the dump itself.
pub fn stem(dump: &Dump<'_>) -> String {
    let header = &dump.found().header;
    let when = match utc(header.wall_clock.get()) {
        Some(time) => time.strftime("%Y%m%dT%H%M%SZ").to_string(),
        None => format!("up{}s", header.uptime.get() / 1_000_000_000),
    };
    let uuid = uuid::Uuid::from_bytes(dump.uuid()).simple().to_string();
    let (sequence, nonce) = (header.sequence.get(), header.nonce.get());
    format!("vmcore-{}-{sequence}-{when}-{nonce:016x}", &uuid[..8])
}

/// A temporary file that vanishes unless it gets its name.
struct Partial {
    file: File,
    path: PathBuf,
    /// Whether it got its name; another run may use the temporary one by now.
    named: bool,
}

impl Partial {
    /// Makes the temporary file, or takes one over that an interrupted run left behind.
    fn create(path: PathBuf) -> Result<Partial, StoreError> {
        // Memory holds secrets, so nobody else may read the file.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(failed("create", path.display()))?;
        let busy = || StoreError::Busy { path: path.display().to_string() };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(errno) => return Err(failed("lock", path.display())(errno)),
        }
        // Between opening and locking, another run may have given the file its name.
        let here = file.metadata().map_err(failed("look at", path.display()))?;
        let there = std::fs::symlink_metadata(&path).map_err(|_| busy())?;
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            return Err(busy());
        }
        file.set_len(0).map_err(failed("empty", path.display()))?;
        Ok(Partial { file, path, named: false })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed is taken over by the next run.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Stores what `write` writes as `name` in `directory`.
///
/// # Errors
/// If anything fails; then no file of that name was made, and none was changed.
pub fn store<T>(
    directory: &Path,
    name: &str,
    write: &mut dyn FnMut(&File) -> Result<T, crate::Error>,
) -> Result<(Stored, T), StoreError> {
    let path = directory.join(name);
    let mut partial = Partial::create(directory.join(format!(".{name}.partial")))?;
    let written = write(&partial.file).map_err(StoreError::Content)?;
    let stored = if std::fs::symlink_metadata(&path).is_ok() {
        if !same(&partial.path, &path).map_err(failed("compare with", path.display()))? {
            return Err(StoreError::Taken { path: path.display().to_string() });
        }
        let there = File::open(&path).map_err(failed("open", path.display()))?;
        there.sync_all().map_err(failed("make safe", path.display()))?;
        Stored::AlreadyThere
    } else {
        partial.file.sync_all().map_err(failed("make safe", partial.path.display()))?;
        match rename(&partial.path, &path) {
            Ok(()) => partial.named = true,
            // It came up just now, so it is not ours.
            Err(Errno::EXIST) => return Err(StoreError::Taken { path: path.display().to_string() }),
            Err(errno) => return Err(failed("name", path.display())(errno)),
        }
        Stored::Written
    };
    let opened = File::open(directory).map_err(failed("open", directory.display()))?;
    opened.sync_all().map_err(failed("make safe", directory.display()))?;
    Ok((stored, written))
}

/// Renames, but never over another file.
fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do that at once gives a second name, which must be new too, and takes the first.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        result => result,
    }
}

/// Whether two files hold the same bytes.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    // Looked at before it is opened: opening a FIFO waits for ever.
    let there = std::fs::metadata(other)?;
    if !there.is_file() || there.len() != std::fs::metadata(one)?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}

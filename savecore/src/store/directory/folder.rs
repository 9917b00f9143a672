//! A folder being filled.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::super::error::{StoreError, failed};
use super::super::names;
use super::super::record::Record;
use super::super::types::{Crash, Folder, INFO, Place};
use super::open::{Directory, Lock, MAX_ALIKE, is_same, open_folder, stat};
use super::room;
use crate::corefile::Sink;
use crate::writeback::Writeback;

/// Number of attempts to create a new folder, and the pause: a cleanup of leftovers locks it for a moment.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes after which the free space is checked again.
const LOOK_EVERY: u64 = 8 << 20;

/// A folder under its temporary name, locked if possible. It is deleted unless it is renamed.
pub(super) struct Partial<'d> {
    directory: &'d Directory,
    name: String,
    fd: OwnedFd,
    named: bool,
}

impl<'d> Partial<'d> {
    /// Creates the folder; `None` if the name is taken.
    pub(super) fn create(directory: &'d Directory, name: String) -> Result<Option<Partial<'d>>, StoreError> {
        for _ in 0..TRIES {
            match rustix::fs::mkdirat(&directory.fd, &*name, Mode::RWXU) {
                Ok(()) => {}
                // A leftover that nobody held was removed before.
                Err(Errno::EXIST) => return Ok(None),
                Err(errno) => return Err(failed("create", directory.shown(&name))(errno)),
            }
            if let Some(fd) = hold(directory, &name).map_err(failed("lock", directory.shown(&name)))? {
                return Ok(Some(Partial { directory, name, fd, named: false }));
            }
            sleep(PAUSE);
        }
        Ok(None)
    }

    fn shown(&self, file: &str) -> String {
        self.directory.shown(&format!("{}/{file}", self.name))
    }

    /// Creates a file in it, writes it, and makes it durable. Returns its length.
    fn write(
        &self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<u64, StoreError> {
        let shown = self.shown(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Memory contains secrets, so nobody else may read the file.
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.fd, name, flags, mode).map_err(failed("create", &shown))?;
        let file = File::from(file);
        let min_free = self.directory.limits.min_free;
        let mut sink = FileSink {
            file: &file,
            min_free,
            unseen: LOOK_EVERY,
            writeback: Writeback::default(),
            refused: Cell::new(None),
        };
        write(&mut sink).map_err(|error| match sink.refused.take() {
            Some(Refused::NoRoom(free)) => {
                StoreError::RoomEnded { path: self.directory.name.clone(), free, min_free }
            }
            Some(Refused::Io(error)) => failed("write", &shown)(error),
            None => StoreError::Content(error),
        })?;
        self.directory.safety.sync(&file, &shown)?;
        Ok(file.metadata().map_err(failed("look at", &shown))?.len())
    }
}

/// Locks a new folder; `None` if somebody removed it in between, or is about to.
fn hold(directory: &Directory, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let fd = match open_folder(&directory.fd, name) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    for _ in 0..TRIES {
        if directory.lock(&fd) != Lock::Busy {
            let still_there = match stat(&directory.fd, name) {
                Err(Errno::NOENT) => false,
                there => is_same(&there?, &rustix::fs::fstat(&fd)?),
            };
            return Ok(still_there.then_some(fd));
        }
        sleep(PAUSE);
    }
    Ok(None)
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.named {
            // If it cannot be removed now, it is a leftover for the next run.
            let _ = self.directory.remove(&self.name, &self.fd);
        }
    }
}

/// Why a write to a file failed.
enum Refused {
    Io(io::Error),
    /// Only this many bytes are free.
    NoRoom(u64),
}

/// A file that checks the free space, and remembers failures for the message.
struct FileSink<'f> {
    file: &'f File,
    min_free: u64,
    /// Bytes written since the last check; initially enough to force a check.
    unseen: u64,
    writeback: Writeback,
    refused: Cell<Option<Refused>>,
}

impl FileSink<'_> {
    fn told<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let copy = match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => error.kind().into(),
            };
            self.refused.set(Some(Refused::Io(copy)));
        })
    }
}

impl Sink for FileSink<'_> {
    fn begin(&mut self, _head: u64, _length: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.unseen >= LOOK_EVERY {
            self.unseen = 0;
            if let Some(free) = room::free(self.file).filter(|free| *free < self.min_free) {
                self.refused.set(Some(Refused::NoRoom(free)));
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.unseen += bytes.len() as u64;
        self.told(self.file.write_all_at(bytes, offset))?;
        self.writeback.wrote(self.file, offset, bytes.len());
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let Err(error) = self.file.set_len(length) else { return Ok(()) };
        // If a file cannot be extended, write its last byte.
        let there = self.told(self.file.metadata())?.len();
        let may_write =
            !matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::FBIG | Errno::NOSPC));
        match length.checked_sub(1).filter(|_| there < length && may_write) {
            Some(last) => self.told(self.file.write_all_at(&[0], last)),
            None if there == length => Ok(()),
            None => self.told(Err(error)),
        }
    }
}

/// A new crash's folder.
pub(super) struct Filling<'d> {
    partial: Partial<'d>,
    /// Its final name, if that is free when it is finished.
    base: String,
    crash: Crash,
    files: Vec<(String, u64)>,
    remarks: Vec<String>,
}

impl<'d> Filling<'d> {
    pub(super) fn new(partial: Partial<'d>, base: String, crash: Crash, remarks: Vec<String>) -> Filling<'d> {
        Filling { partial, base, crash, files: Vec::new(), remarks }
    }

    /// Gives the folder its first free name.
    fn name(&mut self) -> Result<String, StoreError> {
        let directory = self.partial.directory;
        for number in 1..=MAX_ALIKE {
            let name = names::numbered(&self.base, number);
            match directory.rename(&self.partial.name, &name) {
                Ok(()) => {
                    self.partial.named = true;
                    return Ok(name);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("name", directory.shown(&name))(errno)),
            }
        }
        Err(StoreError::Taken { path: directory.shown(&self.base) })
    }
}

impl Folder for Filling<'_> {
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<(), StoreError> {
        if !names::is_file(name) {
            let error = io::Error::from(io::ErrorKind::InvalidFilename);
            return Err(failed("create", self.partial.shown(&names::harmless(name)))(error));
        }
        let length = match self.partial.write(name, write) {
            Ok(length) => length,
            Err(error) => {
                // Unless it existed before, a partial file must not end up in a finished folder.
                if !self.files.iter().any(|(there, _)| there == name) {
                    let _ = rustix::fs::unlinkat(&self.partial.fd, name, AtFlags::empty());
                }
                return Err(error);
            }
        };
        self.files.push((name.to_owned(), length));
        Ok(())
    }

    fn finish(mut self: Box<Self>, info: &Value) -> Result<Place, StoreError> {
        let directory = self.partial.directory;
        let mut record = Record::new(&self.crash, Some(directory.next_order()?), &self.files);
        record.follows = directory.follows(&self.base)?;
        let text = record.text(&self.crash.host, info);
        let length =
            self.partial.write(INFO, &mut |sink| sink.write_at(0, &text).map_err(crate::Error::Core))?;
        directory.safety.sync(&self.partial.fd, self.partial.shown(""))?;
        let name = self.name()?;
        directory.sync()?;
        directory.check_place(&name, &self.partial.fd)?;
        let remarks = std::mem::take(&mut self.remarks);
        Ok(directory.settled(&name, record.files_with(length), self.crash.stays, remarks))
    }
}

//! A dump partition in a file: a block device, an image of a partition, or a partition inside a disk or its image.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use dumpcore::format::label::MIN_BLOCKS;
use dumpcore::format::{BLOCK_SIZE, Block};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::{Source, gpt, in_use, within};
use crate::Error;

/// What a target is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading; others may read too.
    Read,
    /// Writing; nobody else may use it, neither the system nor another savecore.
    Write,
}

/// How often and how long a lock is tried for: udev, too, holds locks on disks for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// An opened and locked dump partition. The lock lasts as long as this lives.
#[derive(Debug)]
pub struct Target {
    file: File,
    name: String,
    start: u64,
    blocks: u64,
}

impl Target {
    /// Opens a block device or image file, or the partition of it that `partition` names (number, name or GUID).
    ///
    /// # Errors
    /// If it cannot be opened, is neither file nor block device, is in use, holds a partition table and no partition
    /// is named, is too small, or does not start on a multiple of 4096 bytes.
    pub fn open(path: &Path, partition: Option<&str>, access: Access) -> Result<Target, Error> {
        let shown = path.display().to_string();
        let name = match partition {
            Some(partition) => format!("{shown}, partition {partition}"),
            None => shown.clone(),
        };
        let failed = |error: io::Error| Error::Open { target: shown.clone(), error };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(Error::NotAFile { target: shown });
        }
        let mut options = OpenOptions::new();
        options.read(true);
        if access == Access::Write {
            if let Some(user) = in_use::user_of(path, &metadata) {
                return Err(Error::InUse { target: shown, user });
            }
            options.write(true);
            if is_device {
                // On a block device O_EXCL without O_CREAT means: fail if the system uses it (open(2)).
                options.custom_flags(OFlags::EXCL.bits() as i32);
            }
        }
        let file = options.open(path).map_err(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
                let user = match partition {
                    Some(_) => "in use by the system; name the partition's own device".to_owned(),
                    None => "in use by the system".to_owned(),
                };
                Error::InUse { target: shown.clone(), user }
            } else {
                Error::Open { target: shown.clone(), error }
            }
        })?;
        lock(&file, access, &shown)?;

        let size = gpt::file_size(&file).map_err(failed)?;
        let (start, length) = match partition {
            Some(wanted) => {
                let slot = gpt::find(&file, &shown, wanted)?;
                (slot.start, slot.length)
            }
            None if gpt::present(&file) => return Err(gpt::partition_missing(&file, &shown)),
            None => (0, size),
        };
        if is_device && let Some(offset) = in_use::start_on_disk(&metadata) {
            let begin = offset.saturating_add(start);
            if begin % BLOCK_SIZE as u64 != 0 {
                return Err(Error::Unaligned { target: name, start: begin });
            }
        }
        let blocks = length / BLOCK_SIZE as u64;
        if blocks < MIN_BLOCKS {
            return Err(Error::TooSmall { target: name, bytes: length });
        }
        Ok(Target { file, name, start, blocks })
    }

    /// The target as messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it possible to write on it.
    ///
    /// # Errors
    /// If it was opened for reading only.
    pub fn make_writable(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn offset(&self, first: u64, count: usize) -> io::Result<u64> {
        within(self.blocks, first, count)?;
        Ok(self.start + first * BLOCK_SIZE as u64)
    }
}

fn lock(file: &File, access: Access, target: &str) -> Result<(), Error> {
    let operation = match access {
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::Write => FlockOperation::NonBlockingLockExclusive,
    };
    for _ in 0..LOCK_TRIES {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
            // A medium that knows no locks is no reason not to harvest a dump.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK) => return Ok(()),
            Err(errno) => return Err(Error::Open { target: target.to_owned(), error: errno.into() }),
        }
    }
    Err(Error::Locked { target: target.to_owned() })
}

impl Source for Target {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        let offset = self.offset(first, into.len())?;
        self.file.read_exact_at(into.as_flattened_mut(), offset)
    }

    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()> {
        let offset = self.offset(first, from.len())?;
        self.file.write_all_at(from.as_flattened(), offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

//! A dump partition in a file: a block device, an image of a partition, or a partition inside a disk or its
//! image.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use dumpcore::format::label::MIN_BLOCKS;
use dumpcore::format::{BLOCK_SIZE, Block};
use rustix::fs::{Advice, FlockOperation, OFlags, fadvise, flock};

use super::access::Access;
use super::armed::is_armed_on;
use super::holder::holder_of;
use super::node::partition_at;
use super::spool::{SHOWN, STANDARD_INPUT, standard_input};
use super::sysfs::{Device, Roots};
use super::table::{self, Slot};
use super::view::{Choice, Reading, View};
use super::{Source, in_use, shown, users, within};
use crate::Error;
use crate::text::harmless_line;
use crate::writeback::Writeback;

/// Number of attempts to lock, and the pause between them: udev, too, locks disks for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// An opened and locked dump partition, locked as long as the value exists.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// The path at which it was opened.
    path: PathBuf,
    name: String,
    access: Access,
    /// Whether an armed kernel had claimed it when it was opened.
    is_beside_kernel: bool,
    is_writable: bool,
    start: u64,
    blocks: u64,
    writeback: Writeback,
    /// Its place when it was chosen.
    chosen: Chosen,
    /// A remark for the user about how it was chosen.
    remark: Option<String>,
    /// Another user, which makes it read-only.
    user: Option<String>,
    /// Other files with locks: for a partition's device its disk, and the file that was open before writing.
    locked: Vec<File>,
}

/// How a target was chosen, and its place at that time.
#[derive(Debug)]
struct Chosen {
    /// The partition of an image, or of a disk without partitions from the kernel, and the reading of its
    /// table.
    within: Option<Within>,
    /// For a device: its start on its disk, if it is a partition, and its length.
    device: Option<(Option<u64>, u64)>,
    /// Bytes of the whole file or device.
    size: u64,
}

/// A partition without a device of its own.
#[derive(Debug)]
struct Within {
    partition: Option<String>,
    reading: Reading,
    slot: Slot,
}

impl Target {
    /// Opens a block device or image file, or the partition of it named `partition` (number, name or GUID).
    /// For a disk without a named partition, the only one with our label is used. [`STANDARD_INPUT`] is read
    /// to its end and kept in an unnamed file; it is never written.
    ///
    /// # Errors
    /// If it cannot be opened, is neither file nor block device, is in use, has a partition table but no
    /// partition was named or found, is too small, or does not start at a multiple of 4096 bytes.
    pub fn open(path: &Path, partition: Option<&str>, access: Access) -> Result<Target, Error> {
        Target::open_as(path, partition, &Reading::default(), access)
    }

    /// As [`open`](Target::open), with a specific reading of an image's table.
    ///
    /// # Errors
    /// As [`open`](Target::open), and [`Error::TwoReadings`].
    pub fn open_as(
        path: &Path,
        partition: Option<&str>,
        reading: &Reading,
        access: Access,
    ) -> Result<Target, Error> {
        if path == Path::new(STANDARD_INPUT) {
            return Target::carried(partition, reading, access);
        }
        let looked = open_path(path, false, access.on_the_way())?;
        let Some(Choice { slot, .. }) = looked.choose(partition, reading, access)? else {
            drop(looked);
            return open_path(path, false, access)?.whole(shown(path), path, access);
        };
        let name = |slot: &Slot| {
            let which = partition.map_or(slot.number.to_string(), str::to_owned);
            format!("{}, partition {}", shown(path), harmless_line(&which))
        };
        let node = looked.node_of(&slot)?;
        drop(looked);
        if let Some(node) = node {
            // Through its own device, a partition is the same file and has the same lock, however it was
            // named.
            let opened = open_path(&node, false, access)?;
            let place = opened.device.as_ref().map(|device| (device.start(), device.size));
            if place != Some((Some(slot.start), slot.length)) {
                return Err(Error::Changed { target: name(&slot) });
            }
            return opened.whole(name(&slot), &node, access);
        }
        let opened = open_path(path, true, access)?;
        let choice = opened.choose(partition, reading, access)?;
        let Some(Choice { slot, remark }) = choice else {
            return Err(Error::Changed { target: shown(path) });
        };
        let within = Within { partition: partition.map(str::to_owned), reading: *reading, slot };
        let mut target = opened.part(name(&within.slot), path, access, Some(within))?;
        target.remark = remark;
        Ok(target)
    }

    /// The range of bytes of the file or device that are its blocks.
    pub fn place(&self) -> std::ops::Range<u64> {
        self.start..self.start + self.blocks * BLOCK_SIZE as u64
    }

    /// A remark for the user about how its partition was chosen, in a sentence.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// A dump from standard input.
    fn carried(partition: Option<&str>, reading: &Reading, access: Access) -> Result<Target, Error> {
        if access.writes_at_once() {
            return Err(Error::StandardInput { why: "it can only be read".to_owned() });
        }
        let file = standard_input()?;
        lock(&file, Access::Read, SHOWN)?;
        let opened = Opened {
            file,
            device: None,
            is_beside_kernel: false,
            locked: Vec::new(),
            user: None,
            shown: SHOWN.to_owned(),
        };
        let path = Path::new(STANDARD_INPUT);
        match opened.choose(partition, reading, Access::Read)? {
            None => opened.whole(SHOWN.to_owned(), path, Access::Read),
            Some(Choice { slot, remark }) => {
                let name = format!("{SHOWN}, partition {}", slot.number);
                let within = Within { partition: partition.map(str::to_owned), reading: *reading, slot };
                let mut target = opened.part(name, path, Access::Read, Some(within))?;
                target.remark = remark;
                Ok(target)
            }
        }
    }

    /// Whether it came from standard input.
    pub fn is_carried(&self) -> bool {
        self.path == Path::new(STANDARD_INPUT)
    }

    /// Whether it is a device of this machine, not a file.
    pub fn is_device(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
    }

    /// Its name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Call this before the first write: reopens a target of [`Access::Harvest`] for writing, and checks that
    /// it is still the same as when it was chosen.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if it is read-only, [`Error::InUse`] if it is in use, [`Error::Changed`] if its
    /// path leads to something else: another disk, a replaced file, another label, another size, another
    /// place on its disk.
    pub fn make_writable(&mut self) -> Result<(), Error> {
        self.reopen()?;
        // Read from the medium from now on: a disk and its partitions have separate caches.
        self.forget(0);
        self.confirm()
    }

    /// Checks that it is still where it was when it was chosen.
    fn confirm(&self) -> Result<(), Error> {
        let changed = || Error::Changed { target: self.name.clone() };
        let failed = |error| Error::Open { target: self.name.clone(), error };
        let metadata = self.file.metadata().map_err(failed)?;
        let at_path = std::fs::metadata(&self.path).map_err(failed)?;
        if identity(&at_path) != identity(&metadata)
            || table::file_size(&self.file).map_err(failed)? != self.chosen.size
        {
            return Err(changed());
        }
        let is_device = metadata.file_type().is_block_device();
        let device = if is_device { Roots::system().device(metadata.rdev()) } else { None };
        if device.as_ref().map(place_of) != self.chosen.device {
            return Err(changed());
        }
        let Some(within) = &self.chosen.within else { return Ok(()) };
        let view = View::new(&self.file, device.as_ref(), &within.reading, &self.name)?;
        match view.choose(&self.file, within.partition.as_deref(), self.access) {
            Ok(Some(now)) if now.slot.is_at(&within.slot) && now.slot.number == within.slot.number => Ok(()),
            _ => Err(changed()),
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        if self.is_writable {
            return Ok(());
        }
        let read_only = |error| Error::ReadOnly { target: self.name.clone(), error };
        let in_use = |user: &str| Error::InUse { target: self.name.clone(), user: user.to_owned() };
        if let Some(user) = &self.user {
            return Err(in_use(user));
        }
        if !self.access.is_exclusive() {
            return Err(read_only(io::ErrorKind::PermissionDenied.into()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        // Without O_EXCL, if our own open file or an armed kernel already has the exclusive claim.
        if self.is_beside_kernel && !self.file.metadata().is_ok_and(|metadata| is_armed_here(&metadata)) {
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = options.open(&self.path).map_err(read_only)?;
        let failed = |error| Error::Open { target: self.name.clone(), error };
        let same_file =
            identity(&file.metadata().map_err(failed)?) == identity(&self.file.metadata().map_err(failed)?);
        let label = |file: &File| {
            let mut block: Block = [0; BLOCK_SIZE];
            file.read_exact_at(&mut block, self.start).ok().map(|()| block)
        };
        // Reading it may have taken long.
        if let Some(user) = users::writer_of(&file.metadata().map_err(failed)?) {
            return Err(in_use(&user));
        }
        let (before, now) = (label(&self.file), label(&file));
        if !same_file || now.is_none() || before != now {
            return Err(Error::Changed { target: self.name.clone() });
        }
        self.locked.push(std::mem::replace(&mut self.file, file));
        self.is_writable = true;
        Ok(())
    }

    /// Another user, in words that follow "is", which makes it read-only; `None` if there is none.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    fn offset(&self, first: u64, count: usize) -> io::Result<u64> {
        within(self.blocks, first, count)?;
        Ok(self.start + first * BLOCK_SIZE as u64)
    }
}

/// The identity of an opened file.
fn identity(metadata: &Metadata) -> (u64, u64, u64) {
    (metadata.dev(), metadata.ino(), metadata.rdev())
}

/// A device's start on its disk, if it is a partition, and its length.
fn place_of(device: &Device) -> (Option<u64>, u64) {
    (device.start(), device.size)
}

/// An opened and locked file.
struct Opened {
    file: File,
    /// The kernel's facts, if it is a device.
    device: Option<Device>,
    is_beside_kernel: bool,
    locked: Vec<File>,
    /// Another user, which makes it read-only.
    user: Option<String>,
    shown: String,
}

/// Whether the running kernel is armed on a device, and has claimed it.
fn is_armed_here(metadata: &Metadata) -> bool {
    is_armed_on(Path::new("/sys"), metadata)
}

/// Opens and locks a file or a device, and for a partition its disk too. For a harvest, one in use by others
/// is opened for reading.
fn open_path(path: &Path, is_disk: bool, access: Access) -> Result<Opened, Error> {
    match open_as(path, is_disk, access) {
        Err(Error::InUse { user, .. }) if access == Access::Harvest => {
            Ok(Opened { user: Some(user), ..open_as(path, is_disk, Access::Read)? })
        }
        opened => opened,
    }
}

fn open_as(path: &Path, is_disk: bool, access: Access) -> Result<Opened, Error> {
    let shown = shown(path);
    let failed = |error: io::Error| Error::Open { target: shown.clone(), error };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let is_device = metadata.file_type().is_block_device();
    if !is_device && !metadata.is_file() {
        return Err(Error::NotAFile { target: shown });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(access.writes_at_once());
    let is_beside_kernel = access == Access::Harvest && is_device && is_armed_here(&metadata);
    if access.is_exclusive() && !is_beside_kernel {
        if let Some(user) = in_use::user_of(path, &metadata) {
            return Err(Error::InUse { target: shown, user });
        }
        if is_device {
            // On a block device O_EXCL without O_CREAT means: fail if the system uses it (open(2)).
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
    }
    let file = options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            let hint = if is_disk { "; name the partition's own device" } else { "" };
            Error::InUse { target: shown.clone(), user: format!("in use by the system{hint}") }
        } else {
            failed(error)
        }
    })?;
    let was_locked = access.is_exclusive() && users::is_locked(&file);
    lock(&file, access, &shown)?;
    if access.is_exclusive() {
        let metadata = file.metadata().map_err(failed)?;
        users::claim(&file, &metadata, was_locked)
            .map_err(|user| Error::InUse { target: shown.clone(), user })?;
    }
    let roots = Roots::system();
    let device = if is_device { roots.device(metadata.rdev()) } else { None };
    let mut locked = Vec::new();
    // A writer of the whole disk excludes us. A failure to open the disk is no obstacle.
    let disk = device.as_ref().and_then(Device::disk).and_then(|disk| roots.node(&disk).ok());
    if let Some(disk) = disk.and_then(|node| File::open(node).ok()) {
        lock(&disk, access.on_the_way(), &shown)?;
        locked.push(disk);
    }
    Ok(Opened { file, device, is_beside_kernel, locked, user: None, shown })
}

impl Opened {
    /// The partition of a disk that is meant; `None` if it is not a disk with partitions.
    fn choose(
        &self,
        partition: Option<&str>,
        reading: &Reading,
        access: Access,
    ) -> Result<Option<Choice>, Error> {
        View::new(&self.file, self.device.as_ref(), reading, &self.shown)?
            .choose(&self.file, partition, access)
    }

    /// The device of a partition of this disk; `None` if the kernel shows none.
    ///
    /// # Errors
    /// If it has no node: writing through the whole disk would bypass the check that the partition is in use.
    fn node_of(&self, slot: &Slot) -> Result<Option<PathBuf>, Error> {
        let Some(partition) = self.device.as_ref().and_then(|disk| partition_at(disk, slot)) else {
            return Ok(None);
        };
        let node = Roots::system().node(&partition);
        node.map(Some).map_err(|error| Error::Open { target: format!("/dev/{}", partition.name), error })
    }

    fn whole(self, name: String, path: &Path, access: Access) -> Result<Target, Error> {
        self.part(name, path, access, None)
    }

    fn part(
        self,
        name: String,
        path: &Path,
        access: Access,
        within: Option<Within>,
    ) -> Result<Target, Error> {
        let size = table::file_size(&self.file);
        let size = size.map_err(|error| Error::Open { target: self.shown.clone(), error })?;
        let (start, length) = within.as_ref().map_or((0, size), |at| (at.slot.start, at.slot.length));
        // A partition's own device may start anywhere on its disk.
        let offset = self.device.as_ref().and_then(Device::start).unwrap_or(0);
        let begin = offset.saturating_add(start);
        if !begin.is_multiple_of(BLOCK_SIZE as u64) {
            return Err(Error::Unaligned { target: name, start: begin });
        }
        let blocks = length / BLOCK_SIZE as u64;
        if blocks < MIN_BLOCKS {
            return Err(Error::TooSmall { target: name, bytes: length });
        }
        Ok(Target {
            file: self.file,
            path: path.to_owned(),
            name,
            access,
            is_beside_kernel: self.is_beside_kernel,
            is_writable: access.writes_at_once(),
            start,
            blocks,
            writeback: Writeback::default(),
            chosen: Chosen { within, device: self.device.as_ref().map(place_of), size },
            remark: None,
            user: self.user,
            locked: self.locked,
        })
    }
}

fn lock(file: &File, access: Access, target: &str) -> Result<(), Error> {
    if access == Access::Glance {
        return Ok(());
    }
    let operation = if access.is_exclusive() {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    for _ in 0..LOCK_TRIES {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
            // A file system without locks, or without locks on files opened read-only, is no reason not to
            // harvest a dump.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK | rustix::io::Errno::BADF) => {
                return Ok(());
            }
            Err(errno) => return Err(Error::Open { target: target.to_owned(), error: errno.into() }),
        }
    }
    let holder = file.metadata().ok().and_then(|metadata| holder_of(&metadata, Path::new("/proc")));
    Err(Error::Locked { target: target.to_owned(), holder: holder.map(Box::new) })
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
        self.file.write_all_at(from.as_flattened(), offset)?;
        self.writeback.wrote(&self.file, offset, from.as_flattened().len());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn forget(&self, first: u64) {
        // Without an end, up to the end of the file; if the system keeps the cache anyway, a change is only
        // seen later.
        let _ = fadvise(&self.file, self.start + first * BLOCK_SIZE as u64, None, Advice::DontNeed);
    }
}

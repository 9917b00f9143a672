//! Finds dump partitions by their labels, so that users need not name them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dumpcore::format::frame::Malformed;
use dumpcore::format::label::{Label, MIN_BLOCKS};
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};

use super::node::partition_at;
use super::sysfs::{Device, Roots};
use super::table::Slot;
use super::view::{Reading, View};
use super::{shown, table};
use crate::Error;

/// The GPT type of a partition for dumps, for whichever machine the disk is in.
pub const PARTITION_TYPE: uuid::Uuid = uuid::uuid!("8a4a6fa0-0d7d-4384-9017-0e003e5281b4");

/// A partition or disk with our label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Labelled {
    /// Its device; if the kernel does not show the disk's partitions, the disk's device.
    pub path: PathBuf,
    /// Its number on that disk; `None` if it is the whole device.
    pub partition: Option<String>,
    /// Its identity, from the label.
    pub uuid: uuid::Uuid,
    /// Its name, from the label; may be empty, and may contain any characters.
    pub name: String,
    /// Its size in blocks.
    pub blocks: u64,
    /// Its owner, from the label.
    pub machine: Option<Uuid>,
    /// Whether its GPT type is that for dumps.
    pub is_for_dumps: bool,
    /// The kind of its device, if devices of this kind are used only when named.
    pub apart: Option<&'static str>,
}

/// The result of the search.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The dump partitions, ordered by device name. Two with the same uuid are a copied disk, or two paths to
    /// the same one.
    pub found: Vec<Labelled>,
    /// Devices with a label of another version of the format, and that version.
    pub other_versions: Vec<(PathBuf, u32)>,
    /// Devices that could not be read: there may be dump partitions among them.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Devices among `other_versions` and `unreadable` of a kind that is used only when named.
    pub apart: Vec<PathBuf>,
}

impl Discovery {
    /// Adds another result.
    pub fn append(&mut self, other: Discovery) {
        self.found.extend(other.found);
        self.other_versions.extend(other.other_versions);
        self.unreadable.extend(other.unreadable);
        self.apart.extend(other.apart);
    }

    fn is_empty(&self) -> bool {
        self.found.is_empty() && self.other_versions.is_empty() && self.unreadable.is_empty()
    }

    /// Adds partitions of the disk at `path`.
    fn add(&mut self, path: &Path, partitions: Vec<(Slot, Box<Label>)>) {
        let labelled =
            |(slot, label): (Slot, Box<Label>)| Labelled::new(path, Some(&slot), &label, slot.length);
        self.found.extend(partitions.into_iter().map(labelled));
    }

    /// Pairs of partitions with the same uuid, by their indexes in `found`: each with the first one.
    pub fn twins(&self) -> Vec<(usize, usize)> {
        let first = |uuid| self.found.iter().position(|other| other.uuid == uuid);
        let pairs = self.found.iter().enumerate().map(|(index, at)| (first(at.uuid).unwrap_or(index), index));
        pairs.filter(|(first, index)| first != index).collect()
    }
}

impl Labelled {
    fn new(path: &Path, slot: Option<&Slot>, label: &Label, bytes: u64) -> Labelled {
        Labelled {
            path: path.to_owned(),
            partition: slot.map(|slot| slot.number.to_string()),
            uuid: uuid::Uuid::from_bytes(label.uuid),
            name: label.name().to_owned(),
            blocks: bytes / BLOCK_SIZE as u64,
            machine: label.machine().copied(),
            is_for_dumps: slot.and_then(Slot::type_guid) == Some(PARTITION_TYPE),
            apart: None,
        }
    }
}

impl fmt::Display for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.path))?;
        match &self.partition {
            Some(partition) => write!(f, ", partition {partition}"),
            None => Ok(()),
        }
    }
}

/// Reads the first block of every disk and partition of this machine.
///
/// # Errors
/// If the system's devices cannot be listed.
pub fn discover() -> io::Result<Discovery> {
    discover_in(&Roots::system())
}

/// As [`discover`], for a system with its file systems elsewhere.
///
/// # Errors
/// As [`discover`].
pub fn discover_in(roots: &Roots) -> io::Result<Discovery> {
    let mut discovery = Discovery::default();
    for device in roots.devices()? {
        if !is_worth_a_look(&device) {
            continue;
        }
        let path = roots.dev.join(&device.name);
        let mut found = Discovery::default();
        match look_at_device(roots, &device, &path, &mut found) {
            Ok(()) => {}
            // The drive is empty.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOMEDIUM.raw_os_error()) => {}
            Err(error) => found.unreadable.push((path.clone(), error)),
        }
        if let Some(kind) = device.apart() {
            found.found.iter_mut().for_each(|found| found.apart = Some(kind));
            found.apart.push(path);
        }
        discovery.append(found);
    }
    Ok(discovery)
}

/// Finds dump partitions in one file or device: it may be one itself, or a disk or image of a disk with some.
///
/// # Errors
/// If it cannot be opened or read, or is neither file nor block device.
pub fn discover_at(path: &Path) -> Result<Discovery, Error> {
    discover_as(path, &Reading::default())
}

/// As [`discover_at`], for an image with a specific reading of its table.
///
/// # Errors
/// As [`discover_at`]; and if the table has two different readings.
pub fn discover_as(path: &Path, reading: &Reading) -> Result<Discovery, Error> {
    let failed = |error| Error::Open { target: shown(path), error };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(Error::NotAFile { target: shown(path) });
    }
    let file = File::open(path).map_err(failed)?;
    let size = table::file_size(&file).map_err(failed)?;
    let device = Roots::system().device(metadata.rdev()).filter(|_| metadata.file_type().is_block_device());
    let mut discovery = Discovery::default();
    let view = View::new(&file, device.as_ref(), reading, &shown(path))?;
    look(&file, path, size, &mut discovery).map_err(failed)?;
    if discovery.is_empty() {
        discovery.add(path, view.labelled(&file)?);
    }
    Ok(discovery)
}

/// Major numbers of floppy and optical drives (Linux, admin-guide/devices.txt): reading them takes seconds,
/// and no kernel dumps there.
const SLOW: [u32; 2] = [2, 11];

fn is_worth_a_look(device: &Device) -> bool {
    let holds_a_dump = device.size / BLOCK_SIZE as u64 >= MIN_BLOCKS;
    holds_a_dump && !SLOW.contains(&rustix::fs::major(device.number)) && !device.is_held()
}

fn look_at_device(roots: &Roots, device: &Device, path: &Path, discovery: &mut Discovery) -> io::Result<()> {
    let file = File::open(roots.node(device)?)?;
    let known = discovery.found.len();
    look(&file, path, device.size, discovery)?;
    // The kernel's own partitions are checked separately.
    if known == discovery.found.len() && !device.is_partition && device.partitions().is_empty() {
        // An inconsistent table has no usable partitions.
        let view = View::new(&file, Some(device), &Reading::default(), "");
        discovery.add(path, view.and_then(|view| view.labelled(&file)).unwrap_or_default());
    }
    if !discovery.found.is_empty() && device.is_partition {
        let is_for_dumps = type_of(roots, device) == Some(PARTITION_TYPE);
        discovery.found.iter_mut().for_each(|found| found.is_for_dumps = is_for_dumps);
    }
    Ok(())
}

/// The type of a partition shown by the kernel, from its disk's table.
fn type_of(roots: &Roots, device: &Device) -> Option<uuid::Uuid> {
    let disk = device.disk()?;
    let file = File::open(roots.node(&disk).ok()?).ok()?;
    let view = View::new(&file, Some(&disk), &Reading::default(), "").ok()?;
    let is_its = |slot: &&Slot| partition_at(&disk, slot).is_some_and(|other| other.number == device.number);
    view.slots().iter().find(is_its)?.type_guid()
}

/// Checks the first block.
fn look(file: &File, path: &Path, size: u64, discovery: &mut Discovery) -> io::Result<()> {
    let mut block: Block = [0; BLOCK_SIZE];
    match file.read_exact_at(&mut block, 0) {
        // It is smaller than a block.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        read => read?,
    }
    match Label::parse(&block) {
        Ok(label) => discovery.found.push(Labelled::new(path, None, label, size)),
        Err(Malformed::Version { found }) => discovery.other_versions.push((path.to_owned(), found)),
        Err(_) => {}
    }
    Ok(())
}

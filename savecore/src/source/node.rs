//! The device node of what the user names: a kernel dumps to nodes only, and knows neither links of udev nor partitions that it
//! does not show.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::access::Access;
use super::sysfs::{Device, Roots};
use super::table::Slot;
use super::view::{Reading, View};
use crate::Error;

/// A block device under the kernel's own name for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The path from the root, as the kernel opens it.
    pub shown: String,
    /// Where it is opened from here.
    pub path: PathBuf,
    /// Whether the kernel makes it of other devices, as it does for device-mapper, RAID and loop devices.
    pub is_made: bool,
    /// Whether the kernel joins several ways to it, as NVMe multipath does: then it is on no bus, and nothing says which way works.
    pub is_joined: bool,
    /// Whether another device is made of it.
    pub is_held: bool,
}

impl Node {
    fn new(roots: &Roots, device: &Device) -> io::Result<Node> {
        Ok(Node {
            shown: format!("/dev/{}", device.name),
            path: roots.node(device)?,
            is_made: device.is_made(),
            is_joined: device.is_joined(),
            is_held: device.is_held(),
        })
    }
}

/// The node of a device, or of the partition of it that `partition` names (number, name or GUID). Of a disk without a partition
/// named, the only one with our label is meant. `None` if there is no such device, though there may be a file of that name,
/// or if the kernel shows no device for the partition.
///
/// # Errors
/// If there is nothing at the path, or of a disk if its table does not say which partition is meant.
pub fn node_at(roots: &Roots, path: &Path, partition: Option<&str>) -> Result<Option<Node>, Error> {
    let shown = path.display().to_string();
    let failed = |error| Error::Open { target: shown.clone(), error };
    // What people call /dev may be elsewhere.
    let path = path.strip_prefix("/dev").map_or(path.to_owned(), |name| roots.dev.join(name));
    let path = fs::canonicalize(path).map_err(failed)?;
    let Some(device) = device_of(roots, &path).map_err(failed)? else { return Ok(None) };
    let file = File::open(roots.node(&device).map_err(failed)?).map_err(failed)?;
    let view = View::new(&file, Some(&device), &Reading::default(), &shown)?;
    let choice = match partition {
        None if device.is_partition => None,
        _ => view.choose(&file, partition, Access::Read)?,
    };
    let Some(choice) = choice else { return Node::new(roots, &device).map(Some).map_err(failed) };
    let partition = partition_at(&device, &choice.slot);
    partition.map(|partition| Node::new(roots, &partition)).transpose().map_err(failed)
}

/// The nodes of all partitions with this identity, as Linux writes PARTUUID, in small letters.
///
/// # Errors
/// If the system does not say which devices there are.
pub fn nodes_of(roots: &Roots, id: &str) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for disk in roots.devices()?.iter().filter(|device| !device.is_partition) {
        // What cannot be read, or has no table, has no partitions either.
        let Ok(file) = roots.node(disk).and_then(File::open) else { continue };
        let Ok(view) = View::new(&file, Some(disk), &Reading::default(), &disk.name) else { continue };
        let meant = view.slots().iter().filter(|slot| slot.id == id && slot.fault.is_none());
        nodes.extend(meant.filter_map(|slot| Node::new(roots, &partition_at(disk, slot)?).ok()));
    }
    Ok(nodes)
}

/// The device whose node this is.
fn device_of(roots: &Roots, path: &Path) -> io::Result<Option<Device>> {
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_block_device() {
        return Ok(roots.device(metadata.rdev()));
    }
    let Ok(dev) = fs::canonicalize(&roots.dev) else { return Ok(None) };
    let Ok(name) = path.strip_prefix(dev) else { return Ok(None) };
    let found = roots.devices()?.into_iter().find(|device| Path::new(&device.name) == name);
    Ok(found.filter(|device| (roots.is_node)(&metadata, device.number)))
}

/// The device of a disk's partition, if the kernel has one of this number at the very same place.
pub(super) fn partition_at(disk: &Device, slot: &Slot) -> Option<Device> {
    let same = |device: &Device| {
        device.partition_number() == Some(slot.number)
            && device.start() == Some(slot.start)
            && device.size == slot.length
    };
    disk.partitions().into_iter().find(same)
}

//! The device node for a user's name: a kernel dumps only to nodes, and knows neither udev's links nor
//! partitions that it does not show.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::access::Access;
use super::sysfs::{Device, Roots};
use super::table::Slot;
use super::view::{Reading, View};
use crate::Error;

/// A block device under the kernel's own name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The path from the root, for the kernel.
    pub shown: String,
    /// The path for opening it here.
    pub path: PathBuf,
    /// Whether it is a virtual device on top of others, such as device-mapper, RAID and loop devices.
    pub is_made: bool,
    /// Whether it combines several paths, as NVMe multipath does: then it is on no bus, and the working path
    /// is unknown.
    pub is_joined: bool,
    /// Whether another device is built on it.
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

/// The node of a device, or of its partition named `partition` (number, name or GUID). For a disk without a
/// named partition, the only one with our label. `None` if there is no such device (there may be a file of
/// that name), or if the kernel shows no device for the partition.
///
/// # Errors
/// If there is nothing at the path, or if a disk's table does not identify the partition.
pub fn node_at(roots: &Roots, path: &Path, partition: Option<&str>) -> Result<Option<Node>, Error> {
    let shown = path.display().to_string();
    let failed = |error| Error::Open { target: shown.clone(), error };
    // /dev may be elsewhere.
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

/// The nodes of all partitions with this identity, in Linux's PARTUUID format, in lower case.
///
/// # Errors
/// If the system's devices cannot be listed.
pub fn nodes_of(roots: &Roots, id: &str) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for disk in roots.devices()?.iter().filter(|device| !device.is_partition) {
        // A disk that cannot be read, or has no table, has no such partitions.
        let Ok(file) = roots.node(disk).and_then(File::open) else { continue };
        let Ok(view) = View::new(&file, Some(disk), &Reading::default(), &disk.name) else { continue };
        let meant = view.slots().iter().filter(|slot| slot.id == id && slot.fault.is_none());
        nodes.extend(meant.filter_map(|slot| Node::new(roots, &partition_at(disk, slot)?).ok()));
    }
    Ok(nodes)
}

/// The device of this node.
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

/// The device of a disk's partition, if the kernel has one with this number at exactly the same place.
pub(super) fn partition_at(disk: &Device, slot: &Slot) -> Option<Device> {
    let same = |device: &Device| {
        device.partition_number() == Some(slot.number)
            && device.start() == Some(slot.start)
            && device.size == slot.length
    };
    disk.partitions().into_iter().find(same)
}

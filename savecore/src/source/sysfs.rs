//! Block devices in Linux's /sys, and their nodes in /dev.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, major, makedev, minor};

/// The paths of the system's own file systems.
#[derive(Clone, Debug)]
pub struct Roots {
    /// sysfs, in /sys.
    pub sys: PathBuf,
    /// The nodes of devices, in /dev.
    pub dev: PathBuf,
    /// Whether the file at a node's path is the device with this number, and not a regular file.
    pub is_node: fn(&Metadata, Dev) -> bool,
}

impl Roots {
    /// The paths of the running system.
    pub fn system() -> Roots {
        Roots {
            sys: "/sys".into(),
            dev: "/dev".into(),
            is_node: |metadata, device| metadata.file_type().is_block_device() && metadata.rdev() == device,
        }
    }

    /// All block devices, disks and their partitions, in natural order of names, `sda2` before `sda10`.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub(super) fn devices(&self) -> io::Result<Vec<Device>> {
        let folder = self.sys.join("class/block");
        let mut devices = Vec::new();
        for entry in fs::read_dir(folder)? {
            // Skip a device that vanishes meanwhile, such as a USB stick.
            devices.extend(Device::at(&entry?.path()));
        }
        devices.sort_by_key(|device| natural(&device.name));
        Ok(devices)
    }

    /// The paths of a system with its own file systems below another root. Regular files serve as devices
    /// there.
    pub fn below(root: &Path) -> Roots {
        Roots { sys: root.join("sys"), dev: root.join("dev"), is_node: |metadata, _| metadata.is_file() }
    }

    /// The device with this number.
    pub(super) fn device(&self, number: Dev) -> Option<Device> {
        Device::at(&self.sys.join(format!("dev/block/{}:{}", major(number), minor(number))))
    }

    /// The path of a device's node.
    ///
    /// # Errors
    /// If there is none, or something else is there.
    pub(super) fn node(&self, device: &Device) -> io::Result<PathBuf> {
        let path = self.dev.join(&device.name);
        if (self.is_node)(&fs::metadata(&path)?, device.number) {
            Ok(path)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "that is not the device of this name"))
        }
    }
}

/// A block device, as sysfs describes it.
#[derive(Debug)]
pub(super) struct Device {
    /// Its folder in sysfs.
    folder: PathBuf,
    /// The name of its node, relative to /dev; may contain slashes.
    pub(super) name: String,
    pub(super) number: Dev,
    /// Its size in bytes.
    pub(super) size: u64,
    /// Whether it is a partition.
    pub(super) is_partition: bool,
}

impl Device {
    fn at(folder: &Path) -> Option<Device> {
        // The folders of its disk and of its partitions are next to a device's real folder, not next to links
        // to it.
        let folder = fs::canonicalize(folder).ok()?;
        let uevent = fs::read_to_string(folder.join("uevent")).ok()?;
        let value = |key: &str| {
            uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
        };
        let part = |key| value(key)?.parse().ok();
        Some(Device {
            name: value("DEVNAME")?,
            number: makedev(part("MAJOR")?, part("MINOR")?),
            size: sectors(&folder.join("size"))?,
            is_partition: folder.join("partition").exists(),
            folder,
        })
    }

    /// A partition's number.
    pub(super) fn partition_number(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("partition")).ok()?.trim().parse().ok()
    }

    /// Logical sector size of the disk in bytes, the unit of its table. Linux's default is 512.
    pub(super) fn sector_size(&self) -> u32 {
        let disk = if self.is_partition { self.folder.parent() } else { Some(self.folder.as_path()) };
        let said = disk.and_then(|disk| fs::read_to_string(disk.join("queue/logical_block_size")).ok());
        said.and_then(|said| said.trim().parse().ok()).unwrap_or(512)
    }

    /// A partition's start on its disk, in bytes.
    pub(super) fn start(&self) -> Option<u64> {
        sectors(&self.folder.join("start"))
    }

    /// Whether another device is built on this one, such as a RAID or a multipath device: use that one
    /// instead.
    pub(super) fn is_held(&self) -> bool {
        fs::read_dir(self.folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some())
    }

    /// Whether it is a virtual device, which is on no bus. Disks of an NVMe subsystem with multipath are on
    /// no bus either, but are disks.
    pub(super) fn is_made(&self) -> bool {
        self.is_on_no_bus() && !self.is_joined()
    }

    /// Whether it is a disk of such a subsystem, to which the kernel chooses the path (NVMe multipath).
    pub(super) fn is_joined(&self) -> bool {
        self.is_on_no_bus() && self.folder.to_string_lossy().contains("/nvme-subsystem/")
    }

    fn is_on_no_bus(&self) -> bool {
        self.folder.to_string_lossy().contains("/devices/virtual/")
    }

    /// The kind of the device or its disk, if it may belong to another machine: virtual devices may be a
    /// guest's or come over a network; removable ones may be anyone's.
    pub(super) fn apart(&self) -> Option<&'static str> {
        let disk = self.disk();
        let disk = disk.as_ref().unwrap_or(self);
        let is_called = |(front, _): &&(&str, &str)| {
            let rest = disk.name.strip_prefix(front);
            rest.is_some_and(|rest| rest.starts_with(|character: char| character.is_ascii_digit()))
        };
        if let Some((_, kind)) = APART.iter().find(is_called) {
            return Some(kind);
        }
        if disk.is_made() {
            return Some("a device made of others");
        }
        // eMMC has two additional small disks for the board's boot code, and one for keys.
        let of_emmc = disk
            .name
            .strip_prefix("mmcblk")
            .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        if of_emmc.is_some_and(|rest| rest.starts_with("boot") || rest.starts_with("rpmb")) {
            return Some("a boot partition of an eMMC");
        }
        disk.is_removable().then_some("removable")
    }

    /// Whether it, or a device above it, can be removed while the machine runs (Linux,
    /// ABI/stable/sysfs-block, ABI/testing/sysfs-devices-removable). USB devices can, unless marked as fixed.
    fn is_removable(&self) -> bool {
        if fs::read_to_string(self.folder.join("device/type")).is_ok_and(|kind| kind.trim() == "SD") {
            return true;
        }
        let on_usb = self.folder.iter().any(|name| {
            let number = name.to_str().and_then(|name| name.strip_prefix("usb")).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        // The device closest to the disk decides.
        for folder in self.folder.ancestors() {
            match fs::read_to_string(folder.join("removable")).as_deref().map(str::trim) {
                Ok("1" | "removable") => return true,
                Ok("fixed") => return false,
                Ok("unknown") if on_usb => return true,
                _ => {}
            }
        }
        on_usb
    }

    /// The backing file of a loop device.
    pub(super) fn backing_file(&self) -> Option<String> {
        let path = fs::read_to_string(self.folder.join("loop/backing_file")).ok()?;
        Some(path.trim_end_matches('\n').to_owned())
    }

    /// A disk's partitions that the kernel shows.
    pub(super) fn partitions(&self) -> Vec<Device> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path()).filter(|folder| folder.join("partition").exists());
        folders.filter_map(|folder| Device::at(&folder)).collect()
    }

    /// A partition's disk.
    pub(super) fn disk(&self) -> Option<Device> {
        self.is_partition.then(|| Device::at(self.folder.parent()?)).flatten()
    }
}

/// Name prefixes, before a number, of disks that are used only when named (Linux, admin-guide/devices.txt,
/// and the drivers).
const APART: [(&str, &str); 13] = [
    ("dm-", "a device-mapper device"),
    ("loop", "a loop device"),
    ("md", "a RAID device"),
    ("md_d", "a RAID device"),
    ("zd", "a ZFS volume"),
    ("nbd", "a network disk"),
    ("rbd", "a network disk"),
    ("drbd", "a network disk"),
    ("etherd/e", "a network disk"),
    ("ublkb", "a disk made by a program"),
    ("ram", "memory"),
    ("zram", "memory"),
    ("mtdblock", "raw flash"),
];

/// A number of sectors in a sysfs file, in bytes: sysfs always uses sectors of 512 bytes.
fn sectors(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// A name split into text and numbers, for natural sorting.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut in_number = false;
    for character in name.chars() {
        let digit = character.to_digit(10);
        if digit.is_none() && in_number {
            parts.push((String::new(), 0));
        }
        in_number = digit.is_some();
        let Some((text, number)) = parts.last_mut() else { continue };
        match digit {
            Some(digit) => *number = number.saturating_mul(10).saturating_add(digit.into()),
            None => text.push(character),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_sort_as_people_count() {
        let mut names = ["sdb", "sda10", "nvme0n1p2", "sda2", "sda", "nvme0n1", "nvme0n1p10"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["nvme0n1", "nvme0n1p2", "nvme0n1p10", "sda", "sda2", "sda10", "sdb"]);
    }
}

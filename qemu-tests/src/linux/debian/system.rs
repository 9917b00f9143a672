//! A complete Debian on a disk: created once from Debian's archive, and kept outside the source tree.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize;
use xxhash_rust::xxh3::xxh3_64;

use super::release::Debian;
use crate::linux::cache::{Scratch, cache};
use crate::process;

/// Creates its root file system.
const SCRIPT: &str = include_str!("system.sh");

/// Offset of the root partition on the disk, in bytes.
const ROOT_AT: u64 = 1 << 20;

/// Size of the root partition: the system takes a third; the rest is for cores and another kernel.
const ROOT_BYTES: u64 = 6 << 30;

/// Free space after it, for the guide's dump partition.
const FREE_BYTES: u64 = 3 << 29;

/// Anything slower hangs; the archive may be slow.
const MAKE_LIMIT: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(300);

/// A Debian in the cache.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// The folder with its disk, its first kernel, and its description.
    folder: PathBuf,
    /// The release of the other kernel that can be installed.
    pub(super) next: String,
    /// The kernels' versions, and the date of the archive.
    pub(super) about: String,
}

impl System {
    /// Gets it from the cache, or creates it, which needs root; calls `say` before that. A cached system no
    /// longer needs the archive, however much that has changed.
    ///
    /// # Errors
    /// If that fails; the error names the log.
    pub(super) fn get(debian: Debian, say: &mut dyn FnMut(&str)) -> Result<System> {
        let cache = cache()?;
        let recipe = format!("{SCRIPT}{debian:?}{ROOT_AT}{ROOT_BYTES}{FREE_BYTES}");
        let folder = cache.join(format!("{}-{:016x}", debian.name(), xxh3_64(recipe.as_bytes())));
        if !folder.is_dir() {
            fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
            make(debian, &cache, &folder, say)
                .with_context(|| format!("cannot make a Debian {}", debian.release))?;
            remove_older(debian, &cache, &folder)?;
        }
        let word = |name: &str| {
            let path = folder.join(name);
            let text = fs::read_to_string(&path);
            text.map(|text| text.trim().to_owned()).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(System { next: word("next")?, about: word("about")?, folder })
    }

    /// A copy of its disk.
    pub(super) fn disk(&self, path: &Path) -> Result<SystemDisk> {
        let mut command = Command::new("cp");
        command.args(["--sparse=always", "--reflink=auto"]).arg(self.folder.join("disk.raw")).arg(path);
        process::run(&mut command, LIMIT, &path.with_extension("cp.log"))?.success("cp")?;
        Ok(SystemDisk { path: path.to_path_buf() })
    }

    /// Its first kernel, and its initramfs.
    pub(super) fn kernel(&self) -> [PathBuf; 2] {
        ["vmlinuz", "initrd.img"].map(|name| self.folder.join(name))
    }
}

/// The disk of one machine.
#[derive(Debug)]
pub(super) struct SystemDisk {
    pub(super) path: PathBuf,
}

impl SystemDisk {
    /// Copies a file into its root file system, while no machine uses it.
    pub(super) fn put(&self, file: &Path, path: &str) -> Result<()> {
        self.debugfs(&["-w", "-R", &format!("write \"{}\" {path}", file.display())])?;
        // debugfs always exits with 0.
        let said = self.debugfs(&["-R", &format!("stat {path}")])?;
        ensure!(
            said.contains("Type: regular"),
            "{} did not get into {}",
            file.display(),
            self.path.display()
        );
        Ok(())
    }

    /// Copies a file out of its root file system, while no machine uses it.
    pub(super) fn get(&self, path: &str, file: &Path) -> Result<()> {
        let _ = fs::remove_file(file);
        self.debugfs(&["-R", &format!("dump {path} \"{}\"", file.display())])?;
        let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
        ensure!(length > 0, "{} has no {path}", self.path.display());
        Ok(())
    }

    fn debugfs(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("/usr/sbin/debugfs");
        command.args(arguments).arg(format!("{}?offset={ROOT_AT}", self.path.display()));
        let output = process::run(&mut command, LIMIT, &self.path.with_extension("debugfs.log"))?;
        Ok(output.success("debugfs")?.stdout)
    }
}

/// Creates the system at `folder`; leaves no files if that fails.
fn make(debian: Debian, cache: &Path, folder: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    say(&format!(
        "making a Debian {} in {}: some 700 MB to download, 3 GB while it is made, 2 GB that stay; it takes some 10 minutes, once",
        debian.release,
        cache.display()
    ));
    let begin = Instant::now();
    let scratch = Scratch::new(cache)?;
    let script = scratch.path.join("system.sh");
    fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
    let root = scratch.path.join("root");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh"]).arg(&script);
    command.args([debian.suite]).arg(&root).args([debian.first, debian.second]);
    let log = |name: &str| cache.join(format!("{}-{name}.log", debian.name()));
    process::run(&mut command, MAKE_LIMIT, &log("system"))?.success("making its root")?;

    let made = scratch.path.join("made");
    fs::create_dir(&made).with_context(|| format!("cannot create {}", made.display()))?;
    let built = root.join("built");
    for name in ["next", "about"] {
        copy(&built.join(name), &made.join(name))?;
    }
    let release = fs::read_to_string(built.join("release")).context("the script did not name the kernel")?;
    for (from, to) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")] {
        copy(&root.join("boot").join(format!("{from}-{}", release.trim())), &made.join(to))?;
    }
    fs::remove_dir_all(&built).context("cannot remove /built of the new system")?;
    let disk = made.join("disk.raw");
    partition(&disk)?;
    let mut command = Command::new("/usr/sbin/mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={ROOT_AT}"), "-d"]).arg(&root).arg(&disk);
    command.arg(format!("{}k", ROOT_BYTES >> 10));
    process::run(&mut command, LIMIT, &log("mke2fs"))?.success("mke2fs")?;
    fs::rename(&made, folder).with_context(|| format!("cannot create {}", folder.display()))?;
    say(&format!("made a Debian {} in {} s", debian.release, begin.elapsed().as_secs()));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// An image with a root partition, and free space after it.
fn partition(path: &Path) -> Result<()> {
    let name = || format!("cannot make the disk image {}", path.display());
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(path).with_context(name)?;
    let bytes = ROOT_AT + ROOT_BYTES + FREE_BYTES;
    file.set_len(bytes).with_context(name)?;
    let sectors = u32::try_from(bytes / 512 - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file).with_context(name)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(&mut file, None)
        .with_context(name)?;
    let (first, length) = (ROOT_AT / 512, ROOT_BYTES / 512);
    table.add_partition_at("root", 1, first, length, gpt::partition_types::LINUX_FS, 0).with_context(name)?;
    table.write().map(|_| ()).with_context(name)
}

/// Removes systems made by an older recipe, which are not used any more.
fn remove_older(debian: Debian, cache: &Path, newest: &Path) -> Result<()> {
    let prefix = format!("{}-", debian.name());
    for entry in fs::read_dir(cache).with_context(|| format!("cannot read {}", cache.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() && path != newest && entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_one_partition_and_room_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        partition(&path).unwrap();
        let table = gpt::GptConfig::new().open(&path).unwrap();
        let root = table.partitions().get(&1).unwrap();
        assert_eq!((root.first_lba * 512, (root.last_lba + 1) * 512), (ROOT_AT, ROOT_AT + ROOT_BYTES));
        let free = table.find_free_sectors();
        assert!(free.iter().any(|(_, sectors)| sectors * 512 > 1 << 30), "{free:?}");
    }

    #[test]
    fn only_older_systems_of_the_same_debian_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let [old, new, other] = ["debian-12-1", "debian-12-2", "debian-13-1"].map(make);
        fs::write(folder.path().join("debian-12-system.log"), "").unwrap();
        remove_older(super::super::DEBIANS[0], folder.path(), &new).unwrap();
        assert!(!old.exists() && new.exists() && other.exists());
        assert!(folder.path().join("debian-12-system.log").exists());
    }
}

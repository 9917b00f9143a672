//! Whether the kernel's diskdump module has claimed a device for its dumps, from sysfs.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The module's folder in sysfs.
pub(crate) const MODULE: &str = "kernel/diskdump";

/// Maximum size of a sysfs file: real ones have at most a page.
const MAX_FILE: u64 = 64 << 10;

/// Reads a file of sysfs or procfs.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes an existing sysfs file, in one write as required.
pub(crate) fn write_text(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    match file.write(text.as_bytes())? {
        written if written == text.len() => Ok(()),
        written => Err(io::Error::other(format!("{written} of {} bytes were taken", text.len()))),
    }
}

/// Whether the kernel with this sysfs has claimed the device with this metadata for its dumps.
pub(super) fn is_armed_on(sys: &Path, metadata: &Metadata) -> bool {
    let read = |name: &str| read_text(&sys.join(MODULE).join(name)).unwrap_or_default();
    if read("state").trim() != "armed" {
        return false;
    }
    let status = read("status");
    let held = status.lines().filter_map(|line| line.strip_prefix("target=")).map(str::trim);
    held.filter_map(|path| fs::metadata(path).ok()).any(|other| is_same(metadata, &other))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    match (is_device(one), is_device(other)) {
        (true, true) => one.rdev() == other.rdev(),
        (false, false) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_as_held_while_the_module_is_armed_on_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(MODULE);
        let (device, other) = (root.path().join("vdb1"), root.path().join("vdb2"));
        fs::write(&device, "").unwrap();
        fs::write(&other, "").unwrap();
        let is_held = |path: &Path| is_armed_on(root.path(), &fs::metadata(path).unwrap());
        assert!(!is_held(&device), "there is no module");
        fs::create_dir_all(&folder).unwrap();
        assert!(!is_held(&device), "it says nothing");
        fs::write(folder.join("status"), format!("level=31\ntarget={}\n", device.display())).unwrap();
        for (state, held) in
            [("armed\n", true), ("disarmed\n", false), ("refused\n", false), ("asleep\n", false)]
        {
            fs::write(folder.join("state"), state).unwrap();
            assert_eq!((is_held(&device), is_held(&other)), (held, false), "{state}");
        }
    }
}

//! Whether the system already uses a disk, a partition or an image.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::armed::is_armed_on;

/// The user, in words that follow "is"; `None` if none is known.
pub(super) fn user_of(path: &Path, metadata: &Metadata) -> Option<String> {
    if metadata.file_type().is_block_device() {
        if is_armed_on(Path::new("/sys"), metadata) {
            return Some(
                "armed by the kernel's diskdump module, which uses it exclusively; `savecore disarm` releases it"
                    .to_owned(),
            );
        }
        let device = metadata.rdev();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if let Some(place) = listed(&mounts, device, Some(1)) {
            return Some(format!("mounted on {place}"));
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        if listed(&swaps, device, None).is_some() {
            return Some("used as swap".to_owned());
        }
        return None;
    }
    loop_device_of(path).map(|device| format!("attached to {device}; name that device instead"))
}

/// The line of a table in /proc whose first field is the block device `device`; returns that line's `field`.
fn listed(table: &str, device: u64, field: Option<usize>) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let metadata = fs::metadata(unescape(name)).ok()?;
        if !metadata.file_type().is_block_device() || metadata.rdev() != device {
            return None;
        }
        match field {
            None => Some(String::new()),
            Some(index) => fields.nth(index - 1).map(unescape),
        }
    })
}

/// Decodes the octal escapes of /proc/mounts (fstab(5)). The caller must handle control characters when
/// printing.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escape, character);
    }
    text
}

/// The loop device that an image file is attached to.
fn loop_device_of(path: &Path) -> Option<String> {
    let wanted = fs::canonicalize(path).ok()?;
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if wanted == Path::new(backing.trim_end_matches('\n')) {
            return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_of_mount_tables_are_taken_back() {
        assert_eq!(super::unescape("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
    }
}

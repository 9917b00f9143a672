//! A kernel without the module: not loaded, not built for this kernel, or not installed?

use std::fs;
use std::path::Path;

use super::system::System;
use crate::source::read_text;
use crate::text::harmless_line;

/// What is missing, and how to get it.
pub(super) fn help(system: &System) -> String {
    let release = read_text(&system.proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let release = harmless_line(release.trim());
    let modules = system.root.join("lib/modules");
    // A unit without access to the kernel's modules sees an empty folder.
    if release.is_empty() || is_empty(&modules) {
        return "the kernel's diskdump module is not loaded: `modprobe diskdump`; if there is none, `dkms status` says whether it was built for this kernel".to_owned();
    }
    // As in modprobe (modules.dep(5)).
    let known = fs::read_to_string(modules.join(&release).join("modules.dep")).unwrap_or_default();
    let is_built = known.lines().filter_map(|line| line.split(':').next()).any(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name == "diskdump.ko" || name.starts_with("diskdump.ko.")
    });
    if is_built {
        return "the kernel's diskdump module is not loaded: `modprobe diskdump`".to_owned();
    }
    if has_sources(&system.root) {
        return format!(
            "the diskdump module is not built for this kernel, {release}: `apt install linux-headers-{release} && dkms autoinstall && modprobe diskdump`; `dkms status` shows what is built"
        );
    }
    "the kernel's diskdump module is not installed: its package is diskdump-dkms".to_owned()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// Whether DKMS has the sources of the module.
fn has_sources(root: &Path) -> bool {
    let entries = fs::read_dir(root.join("usr/src")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("diskdump-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_is_one_that_works() {
        let root = tempfile::tempdir().unwrap();
        let system = System::below(root.path());
        let file = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(help(&system).contains("if there is none"));
        file("proc/sys/kernel/osrelease", "6.12.1-amd64\n");
        assert!(help(&system).contains("if there is none"), "there are no modules at all");
        file("lib/modules/6.12.1-amd64/modules.dep", "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko\n");
        assert!(help(&system).ends_with("its package is diskdump-dkms"));
        file("usr/src/diskdump-0.1.0/dkms.conf", "");
        assert!(help(&system).contains("linux-headers-6.12.1-amd64"), "{}", help(&system));
        // A module for another kernel does not help.
        file("lib/modules/6.1.0/modules.dep", "updates/dkms/diskdump.ko:\n");
        assert!(help(&system).contains("not built for this kernel"));
        file("lib/modules/6.12.1-amd64/modules.dep", "kernel/a.ko:\nupdates/dkms/diskdump.ko.xz:\n");
        assert!(help(&system).ends_with("`modprobe diskdump`"));
    }
}

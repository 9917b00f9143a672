//! A Linux made of files: sysfs and procfs as a kernel lays them out, files in place of devices, and the
//! diskdump module's folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The module's status when it is armed.
pub(crate) const STATUS: &str = "\
target=/dev/vdb2
device=virtio-blk 0000:00:05.0
level=31
level_asked=31
verify=all
cpus=2
";

/// Its machine-id.
pub(crate) const MACHINE: &str = "00112233445566778899aabbccddeeff";

/// Its root.
pub(crate) struct Linux(pub(crate) PathBuf);

impl Linux {
    /// One without devices, whose module is loaded and disarmed, on two CPUs with a serial console.
    pub(crate) fn new(root: &Path) -> Linux {
        let linux = Linux(root.to_owned());
        for folder in ["sys/class/block", "sys/kernel/diskdump", "dev"] {
            fs::create_dir_all(linux.path(folder)).unwrap();
        }
        linux.module("disarmed", "", "");
        linux.file("sys/kernel/diskdump/last", "result=none\n");
        for name in ["arm", "disarm"] {
            linux.file(&format!("sys/kernel/diskdump/{name}"), "");
        }
        linux.kdump(false, "N");
        linux.file("etc/machine-id", format!("{MACHINE}\n"));
        linux.file("sys/devices/system/cpu/cpu0/crash_notes", "7fc12000\n");
        linux.file("sys/devices/system/cpu/cpu1/crash_notes", "7fd12000\n");
        linux.file("sys/class/tty/console/active", "tty0 ttyS0\n");
        linux.file("sys/class/tty/ttyS0/port", "0x3F8\n");
        linux.file("sys/class/tty/ttyS0/io_type", "0\n");
        linux.file("proc/sys/kernel/panic_on_oops", "1\n");
        linux.file("proc/sys/kernel/panic", "10\n");
        linux
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Adds a device as the folder `place` of sysfs; a partition's folder is inside its disk's.
    pub(crate) fn device(&self, place: &str, number: (u32, u32), bytes: &[u8]) {
        let name = place.rsplit('/').next().unwrap();
        let at = |file: &str| format!("sys/devices/{place}/{file}");
        let node = name.replace('!', "/");
        self.file(
            &at("uevent"),
            format!("MAJOR={}\nMINOR={}\nDEVNAME={node}\nDEVTYPE=disk\n", number.0, number.1),
        );
        self.file(&at("size"), format!("{}\n", bytes.len() / 512));
        self.file(&format!("dev/{node}"), bytes);
        symlink(
            fs::canonicalize(self.path("sys/devices")).unwrap().join(place),
            self.path("sys/class/block").join(name),
        )
        .unwrap();
    }

    /// Adds a partition of a disk that was added before; it begins at byte `start` of the disk.
    pub(crate) fn partition(&self, place: &str, number: (u32, u32), start: usize, bytes: &[u8]) {
        let index = place.rsplit(|character: char| !character.is_ascii_digit()).next().unwrap();
        self.file(&format!("sys/devices/{place}/partition"), format!("{index}\n"));
        self.file(&format!("sys/devices/{place}/start"), format!("{}\n", start / 512));
        self.device(place, number, bytes);
    }

    /// Makes the partitions with this uuid this machine's own.
    pub(crate) fn owns(&self, uuid: uuid::Uuid) {
        self.file("var/lib/savecore/partitions", format!("{uuid}\n"));
    }

    /// Sets the module's state, reason and status.
    pub(crate) fn module(&self, state: &str, reason: &str, status: &str) {
        for (name, text) in [
            ("state", format!("{state}\n")),
            ("reason", format!("{reason}\n")),
            ("status", status.to_owned()),
        ] {
            self.file(&format!("sys/kernel/diskdump/{name}"), text);
        }
    }

    /// From now on the kernel rejects writes to this file.
    pub(crate) fn refuses(&self, name: &str) {
        let path = self.path(name);
        fs::remove_file(&path).unwrap();
        // Every write to it fails with "No space left on device".
        symlink("/dev/full", path).unwrap();
    }

    /// Sets whether a crash kernel is loaded, and whether it lets the panic notifiers run first.
    pub(crate) fn kdump(&self, loaded: bool, waits: &str) {
        self.file("sys/kernel/kexec_crash_loaded", format!("{}\n", u8::from(loaded)));
        self.file("sys/module/kernel/parameters/crash_kexec_post_notifiers", format!("{waits}\n"));
    }
}

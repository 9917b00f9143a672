//! Where the running kernel shows itself.

use std::path::{Path, PathBuf};

use crate::source::Roots;

/// Where the running kernel shows itself.
#[derive(Clone, Debug)]
pub struct System {
    /// sysfs and the devices' nodes.
    pub roots: Roots,
    /// procfs, in /proc.
    pub proc: PathBuf,
    /// The root of all file systems.
    pub root: PathBuf,
}

impl System {
    /// The running one.
    pub fn running() -> System {
        System { roots: Roots::system(), proc: "/proc".into(), root: "/".into() }
    }

    /// Where a device is opened that the kernel calls so.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        name.strip_prefix("/dev/").map_or_else(|| name.into(), |name| self.roots.dev.join(name))
    }

    /// One whose file systems are below another root, with files in place of devices.
    pub fn below(root: &Path) -> System {
        System { roots: Roots::below(root), proc: root.join("proc"), root: root.to_owned() }
    }
}

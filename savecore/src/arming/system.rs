//! The file systems that show the running kernel.

use std::path::{Path, PathBuf};

use crate::source::Roots;

/// The file systems that show the running kernel.
#[derive(Clone, Debug)]
pub struct System {
    /// sysfs and the device nodes.
    pub roots: Roots,
    /// procfs, in /proc.
    pub proc: PathBuf,
    /// The root of all file systems.
    pub root: PathBuf,
}

impl System {
    /// The running system.
    pub fn running() -> System {
        System { roots: Roots::system(), proc: "/proc".into(), root: "/".into() }
    }

    /// The device node for one of the kernel's names.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        name.strip_prefix("/dev/").map_or_else(|| name.into(), |name| self.roots.dev.join(name))
    }

    /// A system with its file systems below another root, and with files instead of devices.
    pub fn below(root: &Path) -> System {
        System { roots: Roots::below(root), proc: root.join("proc"), root: root.to_owned() }
    }
}

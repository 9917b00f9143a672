//! The guide in linux/README.md, walked on whole Debians: systems made of Debian's archive, with systemd, on which both packages are
//! installed by apt. Every command of the guide is typed at the serial console, as it is written; then the machine crashes, harvests by
//! its own units, and goes through what happens to machines later: a dead disk, a late one, another kernel, and the packages' end.

mod console;
mod guide;
mod stores;
mod system;
mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// A release of Debian that is walked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Debian {
    /// Its number.
    pub release: u32,
    /// Its name in the archive.
    suite: &'static str,
    /// The releases of its kernel, as a pattern of grep's.
    first: &'static str,
    /// Those of the kernel to which it is upgraded.
    second: &'static str,
}

/// All of them. Debian 12 goes on to its newer kernel, Debian 13 from the kernel for virtual machines to the usual one.
pub const DEBIANS: [Debian; 2] = [
    Debian {
        release: 12,
        suite: "bookworm",
        first: r"6\.1\.0-[0-9]*-cloud-amd64",
        second: r"6\.12\..*-cloud-amd64",
    },
    Debian { release: 13, suite: "trixie", first: r"6\.12\..*-cloud-amd64", second: r"6\.12\.[^-]*-amd64" },
];

/// What is installed.
#[derive(Clone, Debug)]
pub struct Packages {
    /// savecore's package.
    pub savecore: PathBuf,
    /// The module's package for DKMS.
    pub dkms: PathBuf,
}

/// A step that was done, or that failed.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is.
    pub what: String,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

impl Debian {
    /// The row's name: `debian-12`.
    pub fn name(self) -> String {
        format!("debian-{}", self.release)
    }

    /// The row in one sentence.
    pub fn about(self) -> String {
        format!(
            "the guide, walked on a whole Debian {}: packages, crash, harvest, late disk, upgrade, stores (NFS, CIFS, FAT and others), purge",
            self.release
        )
    }

    /// Makes the system, if it is not in the cache; `say` is told before.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn prepare(self, say: &mut dyn FnMut(&str)) -> Result<()> {
        system::System::get(self, say).map(|_| ())
    }

    /// Walks; `done` is told of each step. All is in `folder`, with the log of each start of the machine. Gives facts.
    ///
    /// # Errors
    /// If a step failed; the error names the log. Steps that do not depend on it are done all the same.
    pub fn walk(self, packages: &Packages, folder: &Path, done: &mut dyn FnMut(&Step)) -> Result<String> {
        let system = system::System::get(self, &mut |_| ())?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        walk::walk(&system, packages, folder, done)
    }
}

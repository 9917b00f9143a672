//! The programs under test.

use std::path::{Path, PathBuf};

use crate::bed::Architecture;

/// The programs under test, and the folder for files of scenarios.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The test kernels that were built.
    pub kernels: Vec<Kernel>,
    /// The savecore command.
    pub savecore: PathBuf,
    /// Each row has a folder of its name in it, with serial logs, images and outputs, kept until the next
    /// run.
    pub folder: PathBuf,
}

impl Programs {
    /// The test kernel of this build; a meaningless path if there is none.
    pub fn kernel(&self, build: Build) -> &Path {
        let of = self.kernels.iter().find(|kernel| kernel.build == build);
        of.map_or(Path::new("test-kernel"), |kernel| &kernel.path)
    }
}

/// A test kernel that was built.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its build.
    pub build: Build,
    /// Its ELF file.
    pub path: PathBuf,
}

/// The build of a test kernel.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Its architecture.
    pub architecture: &'static Architecture,
    /// Its profile.
    pub profile: Profile,
}

impl Build {
    /// A release build.
    pub fn release(architecture: &'static Architecture) -> Build {
        Build { architecture, profile: Profile::Release }
    }
}

impl PartialEq for Build {
    fn eq(&self, other: &Build) -> bool {
        self.architecture.name == other.architecture.name && self.profile == other.profile
    }
}

impl Eq for Build {}

/// Cargo's profile of a test kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// `release`.
    Release,
    /// `kernel-dev`: unoptimised, with debug assertions.
    Dev,
}

impl Profile {
    /// Cargo's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "kernel-dev",
        }
    }
}

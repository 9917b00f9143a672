//! The programs under test.

use std::path::{Path, PathBuf};

use crate::bed::Architecture;

/// The programs under test, and where scenarios keep their files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The test kernels that were built.
    pub kernels: Vec<Kernel>,
    /// The savecore command.
    pub savecore: PathBuf,
    /// Each row has a folder of its name in it, with serial logs, images and outputs, kept until the next run.
    pub folder: PathBuf,
}

impl Programs {
    /// The test kernel that was built so; a path that names nothing, if none was.
    pub fn kernel(&self, build: Build) -> &Path {
        let of = self.kernels.iter().find(|kernel| kernel.build == build);
        of.map_or(Path::new("test-kernel"), |kernel| &kernel.path)
    }
}

/// A test kernel that was built.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// How.
    pub build: Build,
    /// Its ELF file.
    pub path: PathBuf,
}

/// How a test kernel is built.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// For what.
    pub architecture: &'static Architecture,
    /// In which profile.
    pub profile: Profile,
}

impl Build {
    /// As a release.
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
    /// `kernel-dev`: not optimised, and with debug assertions.
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

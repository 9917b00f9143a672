//! The Debian releases on which the guide is followed.

/// A Debian release on which the guide is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Debian {
    /// Its number.
    pub release: u32,
    /// Its name in the archive.
    pub(super) suite: &'static str,
    /// Releases of its kernel, as a grep pattern.
    pub(super) first: &'static str,
    /// Releases of the kernel that it is upgraded to.
    pub(super) second: &'static str,
}

/// All of them. Debian 12 is upgraded to its newer kernel, Debian 13 from the cloud kernel to the usual one.
pub const DEBIANS: [Debian; 2] = [
    Debian {
        release: 12,
        suite: "bookworm",
        first: r"6\.1\.0-[0-9]*-cloud-amd64",
        second: r"6\.12\..*-cloud-amd64",
    },
    Debian { release: 13, suite: "trixie", first: r"6\.12\..*-cloud-amd64", second: r"6\.12\.[^-]*-amd64" },
];

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
}

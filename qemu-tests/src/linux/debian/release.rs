//! The releases of Debian that are walked on.

/// A release of Debian that is walked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Debian {
    /// Its number.
    pub release: u32,
    /// Its name in the archive.
    pub(super) suite: &'static str,
    /// The releases of its kernel, as a pattern of grep's.
    pub(super) first: &'static str,
    /// Those of the kernel to which it is upgraded.
    pub(super) second: &'static str,
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

//! Debian's kernels, and the names of their packages.

/// One of Debian's kernels, in any version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The beginning of its release: `6.1`.
    pub series: &'static str,
    /// What it is built for.
    pub flavour: Flavour,
}

/// A kernel's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Virtual machines. Its symbols are a third of the size of the generic one's.
    Cloud,
    /// Any machine.
    Generic,
    /// With support for modules in Rust. Only Debian's newest kernels have that; this one is built from
    /// Debian's source ([`Stock::with_rust`](super::Stock::with_rust)).
    Rust,
}

/// The kernels of Debian 12 used in tests: its own, and the newer one for newer hardware.
pub static KERNELS: [Kernel; 4] = [
    Kernel { series: "6.1", flavour: Flavour::Cloud },
    Kernel { series: "6.1", flavour: Flavour::Generic },
    Kernel { series: "6.12", flavour: Flavour::Cloud },
    Kernel { series: "6.12", flavour: Flavour::Generic },
];

impl Kernel {
    /// Debian's usual kernel.
    pub const USUAL: Kernel = KERNELS[1];
    /// The same for virtual machines.
    pub const CLOUD: Kernel = KERNELS[0];
    /// The newest kernel, from the backports of the next Debian release. Only the cache has apt's lists for
    /// those.
    pub const NEWEST: Kernel = Kernel { series: "7", flavour: Flavour::Cloud };
    /// The kernel with CONFIG_RUST.
    pub const RUST: Kernel = Kernel { series: "6.12", flavour: Flavour::Rust };

    /// Its name in tables: `6.1-cloud`.
    pub fn name(self) -> String {
        let Kernel { series, flavour } = self;
        let flavour = match flavour {
            Flavour::Cloud => "cloud",
            Flavour::Generic => "generic",
            Flavour::Rust => "rust",
        };
        format!("{series}-{flavour}")
    }

    /// The module that provides ext2.
    pub(super) fn ext2(self) -> &'static str {
        if self.flavour == Flavour::Rust { "ext2" } else { "ext4" }
    }

    /// The suffix of its release.
    fn suffix(self) -> &'static str {
        match self.flavour {
            Flavour::Cloud => "-cloud-amd64",
            Flavour::Generic => "-amd64",
            Flavour::Rust => "-rust",
        }
    }

    /// The part of a release before the flavour, if it is a release of this kernel: `6.1.0-56` of
    /// `6.1.0-56-cloud-amd64`.
    pub(super) fn version(self, release: &str) -> Option<&str> {
        let version = release.strip_suffix(self.suffix())?;
        let ours = version.strip_prefix(self.series)?.starts_with('.');
        // Special-purpose kernels lack common hardware drivers.
        (ours && !version.ends_with("-cloud") && !version.ends_with("-rt")).then_some(version)
    }

    /// The same for a release of any of them.
    pub(super) fn version_of(release: &str) -> Option<&str> {
        KERNELS.iter().chain([&Kernel::NEWEST]).find_map(|kernel| kernel.version(release))
    }

    /// Whether it comes from backports, for which only the cache has apt's lists.
    pub(super) fn is_backported(self) -> bool {
        self == Kernel::NEWEST
    }

    /// The packages with the kernel of this release and its modules, if the image package only depends on
    /// them.
    pub(super) fn pieces(self, release: &str) -> Vec<String> {
        let pieces: &[&str] = if self.is_backported() { &["base", "binary", "modules"] } else { &[] };
        pieces.iter().map(|piece| format!("linux-{piece}-{release}")).collect()
    }

    /// The pattern of file names with an image of it.
    pub(super) fn pattern(self) -> String {
        format!("linux-image-{}.*{}_*.deb", self.series, self.suffix())
    }

    /// The package with its source code.
    pub(super) fn source(self) -> String {
        format!("linux-source-{}", self.series)
    }
}

/// The wanted parts of a kernel; each includes the previous ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Parts {
    /// The kernel with its modules.
    Image,
    /// The files that modules are built against: some 15 MB more.
    Headers,
    /// The same kernel as an ELF file with DWARF: some 310 MB more for cloud kernels, three times as much for
    /// generic ones.
    Symbols,
}

//! Debian's kernels: which there are, and what their packages are called.

/// One of Debian's kernels, of whichever version its archive has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The beginning of its release: `6.1`.
    pub series: &'static str,
    /// What it is built for.
    pub flavour: Flavour,
}

/// What a kernel is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Virtual machines. Its symbols are a third of the other one's.
    Cloud,
    /// Any machine.
    Generic,
    /// Modules in Rust. Of its own, only Debian's newest have that; this one is built of Debian's source ([`Stock::with_rust`](super::Stock::with_rust)).
    Rust,
}

/// All kernels of Debian 12 that tests know: its own, and the newer one for newer hardware.
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
    /// The newest that there is, from the backports to the Debian after this one. apt's lists of those are in the cache alone.
    pub const NEWEST: Kernel = Kernel { series: "7", flavour: Flavour::Cloud };
    /// The one with CONFIG_RUST.
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

    /// The module in which it has ext2.
    pub(super) fn ext2(self) -> &'static str {
        if self.flavour == Flavour::Rust { "ext2" } else { "ext4" }
    }

    /// What its release ends with.
    fn suffix(self) -> &'static str {
        match self.flavour {
            Flavour::Cloud => "-cloud-amd64",
            Flavour::Generic => "-amd64",
            Flavour::Rust => "-rust",
        }
    }

    /// The part of a release without the flavour, if it is a release of this kernel: `6.1.0-56` of `6.1.0-56-cloud-amd64`.
    pub(super) fn version(self, release: &str) -> Option<&str> {
        let version = release.strip_suffix(self.suffix())?;
        let ours = version.strip_prefix(self.series)?.starts_with('.');
        // Kernels for special purposes leave out drivers of hardware that there is.
        (ours && !version.ends_with("-cloud") && !version.ends_with("-rt")).then_some(version)
    }

    /// The same of a release of any of them.
    pub(super) fn version_of(release: &str) -> Option<&str> {
        KERNELS.iter().chain([&Kernel::NEWEST]).find_map(|kernel| kernel.version(release))
    }

    /// Whether it comes from backports that apt is not told of outside of the cache.
    pub(super) fn is_backported(self) -> bool {
        self == Kernel::NEWEST
    }

    /// The packages that hold the kernel of this release and its modules, if the image's only asks for them.
    pub(super) fn pieces(self, release: &str) -> Vec<String> {
        let pieces: &[&str] = if self.is_backported() { &["base", "binary", "modules"] } else { &[] };
        pieces.iter().map(|piece| format!("linux-{piece}-{release}")).collect()
    }

    /// What files with an image of it are called.
    pub(super) fn pattern(self) -> String {
        format!("linux-image-{}.*{}_*.deb", self.series, self.suffix())
    }

    /// The package with its source.
    pub(super) fn source(self) -> String {
        format!("linux-source-{}", self.series)
    }
}

/// How much of a kernel is wanted; each has what comes before it, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Parts {
    /// The kernel with its modules.
    Image,
    /// What modules for it are built against: some 15 MB more.
    Headers,
    /// The same kernel as an ELF file with DWARF: some 310 MB more for virtual machines, the triple for any machine.
    Symbols,
}

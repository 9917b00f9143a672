//! Debian's kernels and busybox: downloaded once, checked, unpacked, and kept outside of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::rust_kernel::RustTools;
use crate::process::{self, Output};

/// The environment variable that says where downloads are kept; else it is `diskdump` in the user's cache folder
/// (`$XDG_CACHE_HOME`, or `~/.cache`).
pub const CACHE: &str = "DISKDUMP_CACHE";

/// Where in the package with a kernel's symbols the kernel itself is; the rest of it is the modules'.
const SYMBOLS: &str = "usr/lib/debug/boot";

/// What takes longer hangs; a download may be slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// One of Debian's kernels, as it stands in its archive today.
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
    /// Modules in Rust. Debian has none; it is built of Debian's source ([`Stock::with_rust`]).
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
    fn version(self, release: &str) -> Option<&str> {
        let version = release.strip_suffix(self.suffix())?;
        let ours = version.strip_prefix(self.series)?.starts_with('.');
        // Kernels for special purposes leave out drivers of hardware that there is.
        (ours && !version.ends_with("-cloud") && !version.ends_with("-rt")).then_some(version)
    }

    /// The packages that depend on whichever kernel of this kind is current. A release of Debian whose own kernel is of the series
    /// has no name with the series in it.
    fn current(self, end: &str) -> [String; 2] {
        let suffix = self.suffix();
        [format!("linux-image-{}{suffix}{end}", self.series), format!("linux-image{suffix}{end}")]
    }
}

/// A package that is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Package {
    /// A kernel with its modules.
    Image(Kernel),
    /// The same kernel with its symbols.
    Symbols(Kernel),
    /// What modules for the kernel of this release are built against.
    Headers(Kernel, String),
    /// The part of it that all flavours share.
    Common(Kernel, String),
    /// Programs for the same purpose.
    Kbuild(Kernel, String),
    /// What a kernel is built of.
    Source(Kernel),
    /// One program that is all of a small system, linked statically.
    Busybox,
}

/// Where the name of a package comes from.
enum Name {
    /// It is always this.
    Is(String),
    /// One of these, if there is one, depends on it.
    BehindOneOf(Vec<String>),
}

impl Package {
    /// Whether this is its name, or that of its file: `NAME_VERSION_ARCHITECTURE.deb`.
    fn is(&self, name: &str) -> bool {
        let name = name.split('_').next().unwrap_or_default();
        match self {
            Package::Busybox => name == "busybox-static",
            Package::Source(kernel) => name.strip_prefix("linux-source-") == Some(kernel.series),
            Package::Image(kernel) => {
                name.strip_prefix("linux-image-").is_some_and(|release| kernel.version(release).is_some())
            }
            Package::Symbols(kernel) => {
                let release = name.strip_prefix("linux-image-").and_then(|name| name.strip_suffix("-dbg"));
                release.is_some_and(|release| kernel.version(release).is_some())
            }
            Package::Headers(_, release) => name.strip_prefix("linux-headers-") == Some(release),
            Package::Common(kernel, release) => {
                let version =
                    name.strip_prefix("linux-headers-").and_then(|name| name.strip_suffix("-common"));
                version.is_some() && version == kernel.version(release)
            }
            Package::Kbuild(kernel, release) => {
                let version = name.strip_prefix("linux-kbuild-");
                version == Some(kernel.series) || version.is_some() && version == kernel.version(release)
            }
        }
    }

    /// How its name is found out.
    fn name(&self) -> Name {
        match self {
            Package::Busybox => Name::Is("busybox-static".to_owned()),
            Package::Source(kernel) => Name::Is(format!("linux-source-{}", kernel.series)),
            Package::Image(kernel) => Name::BehindOneOf(kernel.current("").into()),
            Package::Symbols(kernel) => Name::BehindOneOf(kernel.current("-dbg").into()),
            Package::Headers(_, release) => Name::Is(format!("linux-headers-{release}")),
            Package::Common(_, release) | Package::Kbuild(_, release) => {
                Name::BehindOneOf(vec![format!("linux-headers-{release}")])
            }
        }
    }
}

/// A stock kernel, and what makes a system of it.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Which one.
    pub which: Kernel,
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its modules.
    pub(super) modules: PathBuf,
    /// busybox.
    pub(super) busybox: PathBuf,
    /// The package's name with its version, which those that belong to it have too.
    pub(super) package: String,
    /// Of a kernel with Rust: what modules for it are built against, and with which tools.
    pub(super) rust: Option<(PathBuf, RustTools)>,
}

/// A stock kernel whose symbols are there too.
#[derive(Clone, Debug)]
pub struct Symbolised {
    /// The kernel.
    pub stock: Stock,
    /// The same as an ELF file with DWARF, `vmlinux`: up to 600 MB.
    pub vmlinux: PathBuf,
}

impl Stock {
    /// Takes a kernel from the cache; what is not there yet is downloaded with apt first, which needs no root. `say` is told
    /// what is downloaded, before it is. Nothing outside of the cache is changed.
    ///
    /// # Errors
    /// If it is not there and cannot be had; the error says in one line what a person can do.
    pub fn get(which: Kernel, say: &mut dyn FnMut(&str)) -> Result<Stock> {
        let cache = Cache::find()?;
        let [kernel, busybox] = cache.folders([Package::Image(which), Package::Busybox], say)?;
        Stock::of(which, &kernel, &busybox)
    }

    /// The same with its symbols: some 310 MB more to download for a kernel for virtual machines, once; the
    /// triple for the other.
    ///
    /// # Errors
    /// As [`Stock::get`], and if kernel and symbols are not of one version.
    pub fn symbolised(which: Kernel, say: &mut dyn FnMut(&str)) -> Result<Symbolised> {
        let cache = Cache::find()?;
        let packages = [Package::Image(which), Package::Symbols(which), Package::Busybox];
        let [kernel, symbols, busybox] = cache.folders(packages, say)?;
        let stock = Stock::of(which, &kernel, &busybox)?;
        let name = file_name(&symbols);
        ensure!(
            name == stock.package.replacen('_', "-dbg_", 1),
            "{} and {name} in {} are not of one version; remove the older one",
            stock.package,
            cache.folder.display()
        );
        let vmlinux = symbols.join(SYMBOLS).join(format!("vmlinux-{}", stock.release));
        ensure!(vmlinux.is_file(), "{} has no vmlinux; remove it", symbols.display());
        Ok(Symbolised { stock, vmlinux })
    }

    /// The folder against which modules for this kernel are built (`make -C FOLDER M=…`): some 15 MB to download, once.
    ///
    /// # Errors
    /// As [`Stock::get`], and if kernel and headers are not of one version.
    pub fn headers(&self, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        match &self.rust {
            Some((headers, _)) => Ok(headers.clone()),
            None => Cache::find()?.headers(self, say),
        }
    }

    /// What modules in Rust are built with, if it takes some.
    pub fn rust_tools(&self) -> Option<&RustTools> {
        self.rust.as_ref().map(|(_, tools)| tools)
    }

    /// What is in two unpacked packages.
    fn of(which: Kernel, kernel: &Path, busybox: &Path) -> Result<Stock> {
        let boot = kernel.join("boot");
        let image = last(&boot, |name| name.starts_with("vmlinuz-"))?
            .with_context(|| format!("{} has no kernel; remove it", kernel.display()))?;
        let release = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
        // Where /lib is a link to /usr/lib, packages may say either.
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|folder| kernel.join(folder).join(&release))
            .into_iter()
            .find(|folder| folder.is_dir())
            .with_context(|| format!("{} has no modules; remove it", kernel.display()))?;
        let (busybox, package) = (self::busybox(busybox)?, file_name(kernel));
        Ok(Stock { which, release, kernel: image, modules, busybox, package, rust: None })
    }
}

/// The program in its unpacked package.
pub(super) fn busybox(package: &Path) -> Result<PathBuf> {
    ["bin/busybox", "usr/bin/busybox"]
        .map(|program| package.join(program))
        .into_iter()
        .find(|program| program.is_file())
        .with_context(|| format!("{} has no busybox; remove it", package.display()))
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folder where packages are kept.
///
/// # Errors
/// If the environment does not say where that may be.
pub fn cache() -> Result<PathBuf> {
    location(|name| std::env::var_os(name).map(PathBuf::from))
}

/// Where downloads are kept, by the environment's variables.
fn location(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    // A relative path in XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
    let user = set("XDG_CACHE_HOME")
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .map(|folder| folder.join("diskdump"));
    let folder = set(CACHE).or(user);
    let folder =
        folder.with_context(|| format!("neither {CACHE} nor HOME says where downloads may be kept"))?;
    Ok(std::path::absolute(folder)?.join("linux"))
}

/// What apt would download.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Download {
    file: String,
    bytes: u64,
}

/// Reads what `apt-get --print-uris download` says: `'URI' FILE BYTES SUM`, a line for each.
fn downloads(said: &str) -> Vec<Download> {
    let line = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_once('\'')?.1.split_whitespace();
        Some(Download { file: words.next()?.to_owned(), bytes: words.next()?.parse().ok()? })
    };
    said.lines().filter_map(line).collect()
}

/// The folder with archives as they were downloaded, and what was unpacked from each, under the same name without
/// `.deb`. What is there under that name is whole.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) folder: PathBuf,
}

impl Cache {
    /// The one that the environment names.
    pub(super) fn find() -> Result<Cache> {
        Ok(Cache { folder: cache()? })
    }

    /// What a person can do who has not got these packages.
    fn advice(&self, packages: &[Package]) -> String {
        let file = |package: &Package| match package.name() {
            Name::Is(name) => format!("{name}_*.deb"),
            Name::BehindOneOf(names) => {
                format!("what {} depends on", names.first().map_or("", String::as_str))
            }
        };
        let files: Vec<String> = packages.iter().map(file).collect();
        let folder = self.folder.display();
        format!(
            "a part of a stock Linux is not there; let apt reach Debian (`apt-get update` as root), or put into {folder}: {}",
            files.join(", ")
        )
    }

    /// Packages, unpacked.
    pub(super) fn folders<const N: usize>(
        &self,
        packages: [Package; N],
        say: &mut dyn FnMut(&str),
    ) -> Result<[PathBuf; N]> {
        let mut absent = Vec::new();
        for package in &packages {
            if self.unpacked(package)?.is_none() {
                absent.push(package.clone());
            }
        }
        let mut archives = self.archives(&absent, say)?.into_iter();
        let mut folders = [const { PathBuf::new() }; N];
        for (folder, package) in folders.iter_mut().zip(&packages) {
            *folder = match self.unpacked(package)? {
                Some(folder) => folder,
                None => {
                    let archive = archives.next().context("apt did not download what it had named")?;
                    let only = matches!(package, Package::Symbols(_)).then_some(SYMBOLS);
                    let name = archive.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    self.unpack(&[archive], &name, only, |_| Ok(()))?
                }
            };
        }
        Ok(folders)
    }

    /// The archives of packages; those that are not there are downloaded.
    pub(super) fn archives(&self, packages: &[Package], say: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(self.folder.join("logs"))
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let mut absent = Vec::new();
        for package in packages {
            if self.archive(package)?.is_none() {
                absent.push(package.clone());
            }
        }
        if !absent.is_empty() {
            self.download(&absent, say).with_context(|| self.advice(&absent))?;
        }
        let archive =
            |package: &Package| self.archive(package)?.context("apt did not download what it had named");
        packages.iter().map(archive).collect()
    }

    /// What modules for a kernel are built against. The packages are made to be installed, and point at each other; here they are
    /// unpacked into one folder, which is made to point at itself.
    fn headers(&self, stock: &Stock, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let Stock { which, release, package, .. } = stock;
        let name = package.replacen("linux-image-", "linux-headers-", 1);
        let root = self.folder.join(&name);
        let folder = root.join("usr/src").join(format!("linux-headers-{release}"));
        if root.is_dir() {
            ensure!(folder.is_dir(), "{} has no headers; remove it", root.display());
            return Ok(folder);
        }
        let packages = [
            Package::Headers(*which, release.clone()),
            Package::Common(*which, release.clone()),
            Package::Kbuild(*which, release.clone()),
        ];
        let archives = self.archives(&packages, say)?;
        let have = archives.first().and_then(|path| path.file_stem()).unwrap_or_default().to_string_lossy();
        ensure!(
            have == *name,
            "{package} and {have} in {} are not of one version; remove the older one",
            self.folder.display()
        );
        let version = which.version(release).unwrap_or_default();
        let common = root.join("usr/src").join(format!("linux-headers-{version}-common"));
        self.unpack(&archives, &name, None, |files| {
            let folder = files.join("usr/src").join(format!("linux-headers-{release}"));
            let cannot = || format!("cannot change {}", folder.display());
            let include = format!("include {}/Makefile\n", common.display());
            fs::write(folder.join("Makefile"), include).with_context(cannot)?;
            // The kernel's types, from which a module's would follow; no test needs them, and it takes another program.
            match fs::remove_file(folder.join("vmlinux")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(cannot),
                _ => Ok(()),
            }
        })?;
        Ok(folder)
    }

    fn unpacked(&self, package: &Package) -> Result<Option<PathBuf>> {
        last(&self.folder, |name| package.is(name) && !name.ends_with(".deb"))
    }

    fn archive(&self, package: &Package) -> Result<Option<PathBuf>> {
        last(&self.folder, |name| package.is(name) && name.ends_with(".deb"))
    }

    /// Runs a program in `folder`, in the language that we read.
    pub(super) fn run(
        &self,
        program: &str,
        arguments: &[&str],
        folder: &Path,
        limit: Duration,
    ) -> Result<Output> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        ensure!(
            Path::new(program).is_absolute()
                || std::env::split_paths(&path).any(|folder| folder.join(program).is_file()),
            "{program} is not installed"
        );
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env("LC_ALL", "C");
        let log = self.folder.join("logs").join(format!("{}.log", file_name(Path::new(program))));
        process::run(&mut command, limit, &log)?.success(program)
    }

    /// Downloads packages. apt checks what it gets against the signed lists.
    fn download(&self, packages: &[Package], say: &mut dyn FnMut(&str)) -> Result<()> {
        let mut names = Vec::new();
        for package in packages {
            names.push(match package.name() {
                Name::Is(name) => name,
                Name::BehindOneOf(heads) => self.behind(package, &heads)?,
            });
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said =
            self.run("apt-get", &[&["--print-uris", "download"], &*names].concat(), &self.folder, LIMIT)?;
        let downloads = downloads(&said.stdout);
        ensure!(downloads.len() == packages.len(), "apt does not say what it would download");
        let sizes: Vec<String> = downloads
            .iter()
            .map(|download| format!("{} ({:.1} MB)", download.file, download.bytes as f64 / 1e6))
            .collect();
        say(&format!("downloading {} into {}", sizes.join(" and "), self.folder.display()));
        // In a folder of its own, so that half a file never stands under a whole one's name.
        let scratch = Scratch::new(&self.folder)?;
        self.run("apt-get", &[&["download"], &*names].concat(), &scratch.0, DOWNLOAD_LIMIT)?;
        for Download { file, bytes } in downloads {
            let path = scratch.0.join(&file);
            let length = fs::metadata(&path).with_context(|| format!("apt did not download {file}"))?.len();
            ensure!(length == bytes, "apt downloaded {length} bytes of {file} instead of {bytes}");
            fs::rename(&path, self.folder.join(&file)).with_context(|| format!("cannot keep {file}"))?;
        }
        Ok(())
    }

    /// The name of a package on which one of `heads` depends.
    fn behind(&self, package: &Package, heads: &[String]) -> Result<String> {
        for head in heads {
            // apt does not know every head.
            let Ok(said) = self.run("apt-cache", &["depends", "--important", head], &self.folder, LIMIT)
            else {
                continue;
            };
            let mut depends = said.stdout.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            if let Some(name) = depends.find(|name| package.is(name)) {
                return Ok(name.to_owned());
            }
        }
        bail!("apt knows no {}", heads.join(" and no "))
    }

    /// Unpacks archives into one folder, and compares each file with the checksum that its package has of it. `only` is
    /// the folder that is wanted of them, if not all. `finish` may change what is in the folder; it becomes `name` then.
    fn unpack(
        &self,
        archives: &[PathBuf],
        name: &str,
        only: Option<&str>,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let target = self.folder.join(name);
        let scratch = Scratch::new(&self.folder)?;
        let files = scratch.0.join("files");
        for (number, archive) in archives.iter().enumerate() {
            let text = archive.to_string_lossy();
            let control = format!("control-{number}");
            let damaged = || format!("{text} is damaged; remove it");
            self.run("dpkg-deb", &["--control", &text, &control], &scratch.0, LIMIT).with_context(damaged)?;
            let sums = format!("../{control}/md5sums");
            let mut check = vec!["--check", "--quiet", "--strict", &sums];
            if let Some(only) = only {
                // With the modules' symbols it would be 3 GB more.
                let script = r#"mkdir files && dpkg-deb --fsys-tarfile "$1" | tar -x -C files "./$2""#;
                self.run("sh", &["-c", script, "sh", &text, only], &scratch.0, LIMIT)
                    .with_context(damaged)?;
                check.insert(0, "--ignore-missing");
            } else {
                self.run("dpkg-deb", &["--extract", &text, "files"], &scratch.0, LIMIT)
                    .with_context(damaged)?;
            }
            self.run("md5sum", &check, &files, LIMIT).with_context(damaged)?;
        }
        finish(&files)?;
        match fs::rename(&files, &target) {
            // Somebody else may have unpacked the same meanwhile.
            Err(error) if !target.is_dir() => {
                Err(error).with_context(|| format!("cannot create {}", target.display()))
            }
            _ => Ok(target),
        }
    }
}

/// A folder for what is not whole yet, removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(folder: &Path) -> Result<Scratch> {
        for number in 0..1000 {
            let path = folder.join(format!(".{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
        bail!("{} is full of unfinished folders; remove those that begin with a dot", folder.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is in nobody's way but takes room.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What in `folder` has a name that pleases, the last one by name.
pub(super) fn last(folder: &Path, pleases: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let say = || format!("cannot read the folder {}", folder.display());
    let mut found = None;
    for entry in fs::read_dir(folder).with_context(say)? {
        let entry = entry.with_context(say)?;
        if entry.file_name().to_str().is_some_and(&pleases) {
            found = found.max(Some(entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_variable_says_else_where_the_user_has_caches() {
        let place = |set: &[(&str, &str)]| {
            location(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
        };
        let of = |path: &str| PathBuf::from(path);
        let (home, xdg) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/caches"));
        assert_eq!(place(&[home, xdg, (CACHE, "/here")]).unwrap(), of("/here/linux"));
        assert_eq!(place(&[home, xdg, (CACHE, "")]).unwrap(), of("/caches/diskdump/linux"));
        assert_eq!(place(&[home]).unwrap(), of("/home/a/.cache/diskdump/linux"));
        assert_eq!(
            place(&[home, ("XDG_CACHE_HOME", "caches")]).unwrap(),
            of("/home/a/.cache/diskdump/linux")
        );
        assert!(place(&[]).unwrap_err().to_string().contains(CACHE));
    }

    #[test]
    fn each_kernel_knows_its_own_packages_and_no_others() {
        let releases =
            ["6.1.0-56-cloud-amd64", "6.1.0-56-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"];
        for (number, kernel) in KERNELS.iter().enumerate() {
            let (image, symbols) = (Package::Image(*kernel), Package::Symbols(*kernel));
            for (other, release) in releases.iter().enumerate() {
                let name = format!("linux-image-{release}");
                assert_eq!(image.is(&name), number == other, "{name}");
                assert_eq!(image.is(&format!("{name}_6.1.192-2_amd64.deb")), number == other, "{name}");
                assert_eq!(symbols.is(&format!("{name}-dbg_6.1.192-2_amd64")), number == other, "{name}");
                assert!(!symbols.is(&name) && !image.is(&format!("{name}-dbg")), "{name}");
            }
            let others = [
                "linux-image-amd64",
                "linux-image-amd64_6.1.192-2_amd64.deb",
                "linux-image-6.1.0-56-rt-amd64",
                "linux-image-6.12.117+deb12-rt-amd64",
                "linux-image-6.1.0-56-arm64",
                "linux-image-cloud-amd64-dbg",
                "linux-image-6.12-cloud-amd64",
                "busybox-static",
                "",
            ];
            for name in others {
                assert!(!image.is(name) && !symbols.is(name), "{name}");
            }
        }
    }

    #[test]
    fn headers_belong_to_one_release() {
        let (old, new) = ("6.1.0-56-cloud-amd64".to_owned(), "6.12.117+deb12-amd64".to_owned());
        let (cloud, generic) = (KERNELS[0], KERNELS[3]);
        assert!(
            Package::Headers(cloud, old.clone()).is("linux-headers-6.1.0-56-cloud-amd64_6.1.192-2_amd64")
        );
        assert!(!Package::Headers(cloud, old.clone()).is("linux-headers-6.1.0-56-amd64"));
        assert!(Package::Common(cloud, old.clone()).is("linux-headers-6.1.0-56-common"));
        assert!(!Package::Common(cloud, old.clone()).is("linux-headers-6.1.0-56-common-rt"));
        assert!(Package::Common(generic, new.clone()).is("linux-headers-6.12.117+deb12-common"));
        assert!(Package::Kbuild(cloud, old.clone()).is("linux-kbuild-6.1"));
        assert!(Package::Kbuild(generic, new.clone()).is("linux-kbuild-6.12.117+deb12"));
        assert!(!Package::Kbuild(generic, new).is("linux-kbuild-6.1"));
        assert!(!Package::Kbuild(cloud, old).is("linux-kbuild-6.12.117+deb12"));
    }

    #[test]
    fn what_apt_would_download_is_read_and_all_else_it_says_is_not() {
        let said = "W: be careful\n\
                    'http://deb.debian.org/b%2bb1_amd64.deb' busybox-static_1%3a1.35_amd64.deb 928188 SHA256:3d3f\n\n";
        let expected = Download { file: "busybox-static_1%3a1.35_amd64.deb".to_owned(), bytes: 928_188 };
        assert_eq!(downloads(said), [expected]);
    }

    /// A package called `name` with one file, and with these checksums of it.
    fn package(folder: &Path, name: &str, sums: &str) -> PathBuf {
        let tree = folder.join("tree");
        for folder in ["DEBIAN", "bin"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("bin/busybox"), "hello\n").unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("DEBIAN/md5sums"), sums).unwrap();
        let archive = folder.join(format!("{name}_1_all.deb"));
        let built = Command::new("dpkg-deb").arg("--build").arg(&tree).arg(&archive).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        fs::remove_dir_all(tree).unwrap();
        archive
    }

    #[test]
    fn a_package_whose_files_are_not_what_it_says_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        let unpack = |archive: &Path| {
            let name = archive.file_stem().unwrap().to_str().unwrap();
            cache.unpack(&[archive.to_path_buf()], name, None, |_| Ok(()))
        };
        let good = "b1946ac92492d2347c6235b4d2611184  bin/busybox\n";

        let archive = package(folder.path(), "busybox-static", &good.replace('b', "c"));
        let error = format!("{:#}", unpack(&archive).unwrap_err());
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(cache.unpacked(&Package::Busybox).unwrap(), None);

        let archive = package(folder.path(), "busybox-static", good);
        let unpacked = unpack(&archive).unwrap();
        assert_eq!(cache.unpacked(&Package::Busybox).unwrap().as_ref(), Some(&unpacked));
        assert_eq!(fs::read(unpacked.join("bin/busybox")).unwrap(), b"hello\n");
        // A second time, as if two had begun together.
        assert_eq!(unpack(&archive).unwrap(), unpacked);
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
    }

    #[test]
    fn half_an_archive_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        let unpack = |archive: &Path| {
            let name = archive.file_stem().unwrap().to_str().unwrap();
            cache.unpack(&[archive.to_path_buf()], name, None, |_| Ok(()))
        };
        let archive =
            package(folder.path(), "busybox-static", "b1946ac92492d2347c6235b4d2611184  bin/busybox\n");
        let whole = fs::read(&archive).unwrap();
        fs::write(&archive, &whole[..whole.len() - 40]).unwrap();
        assert!(unpack(&archive).is_err());
        assert_eq!(cache.unpacked(&Package::Busybox).unwrap(), None);
    }
}

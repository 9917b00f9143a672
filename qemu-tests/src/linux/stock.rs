//! Debian's kernels and busybox: downloaded once, checked, unpacked, and kept outside of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, Output};

/// The environment variable that says where downloads are kept; else it is `diskdump` in the user's cache folder
/// (`$XDG_CACHE_HOME`, or `~/.cache`).
pub const CACHE: &str = "DISKDUMP_CACHE";

/// Where in the package with a kernel's symbols the kernel itself is; the rest of it is the modules'.
const SYMBOLS: &str = "usr/lib/debug/boot";

/// What takes longer hangs; a download may be slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
const LIMIT: Duration = Duration::from_secs(300);

/// A package that is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Package {
    /// The usual kernel with its modules.
    Kernel,
    /// The kernel for virtual machines with its modules. Its symbols are a third of the usual one's.
    Cloud,
    /// The same kernel with its symbols.
    CloudSymbols,
    /// One program that is all of a small system, linked statically.
    Busybox,
}

impl Package {
    /// Whether this is its name, or that of its file: `NAME_VERSION_ARCHITECTURE.deb`.
    fn is(self, name: &str) -> bool {
        let name = name.split('_').next().unwrap_or_default();
        let kernel = |suffix| {
            let rest = name.strip_prefix("linux-image-")?.strip_suffix(suffix)?;
            rest.starts_with(|first: char| first.is_ascii_digit()).then_some(rest)
        };
        match self {
            Package::Busybox => name == "busybox-static",
            // Kernels for special purposes leave out drivers of hardware that there is.
            Package::Kernel => {
                kernel("-amd64").is_some_and(|rest| !rest.ends_with("-cloud") && !rest.ends_with("-rt"))
            }
            Package::Cloud => kernel("-cloud-amd64").is_some(),
            Package::CloudSymbols => kernel("-cloud-amd64-dbg").is_some(),
        }
    }

    /// The package that depends on whichever of its kind is current; none if it has always the same name.
    fn current(self) -> Option<&'static str> {
        match self {
            Package::Busybox => None,
            Package::Kernel => Some("linux-image-amd64"),
            Package::Cloud => Some("linux-image-cloud-amd64"),
            Package::CloudSymbols => Some("linux-image-cloud-amd64-dbg"),
        }
    }
}

/// A stock kernel, and what makes a system of it.
#[derive(Clone, Debug)]
pub struct Stock {
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Its modules.
    pub(super) modules: PathBuf,
    /// busybox.
    pub(super) busybox: PathBuf,
}

/// A stock kernel whose symbols are there too.
#[derive(Clone, Debug)]
pub struct Symbolised {
    /// The kernel.
    pub stock: Stock,
    /// The same as an ELF file with DWARF, `vmlinux`: about 600 MB.
    pub vmlinux: PathBuf,
}

impl Stock {
    /// Takes it from the cache; what is not there yet is downloaded with apt first, which needs no root. `say` is told
    /// what is downloaded, before it is. Nothing outside of the cache is changed.
    ///
    /// # Errors
    /// If it is not there and cannot be had; the error says in one line what a person can do.
    pub fn get(say: &mut dyn FnMut(&str)) -> Result<Stock> {
        let cache = Cache::find()?;
        let advice = || cache.advice("linux-image-*-amd64_*_amd64.deb and busybox-static_*_amd64.deb");
        let [kernel, busybox] =
            cache.folders([Package::Kernel, Package::Busybox], say).with_context(advice)?;
        Stock::of(&kernel, &busybox)
    }

    /// The same with Debian's kernel for virtual machines, and its symbols: 310 MB to download, once.
    ///
    /// # Errors
    /// As [`Stock::get`], and if kernel and symbols are not of one version.
    pub fn symbolised(say: &mut dyn FnMut(&str)) -> Result<Symbolised> {
        let cache = Cache::find()?;
        let advice = || {
            cache.advice(
                "linux-image-*-cloud-amd64_*_amd64.deb, linux-image-*-cloud-amd64-dbg_*_amd64.deb and \
                 busybox-static_*_amd64.deb",
            )
        };
        let packages = [Package::Cloud, Package::CloudSymbols, Package::Busybox];
        let [kernel, symbols, busybox] = cache.folders(packages, say).with_context(advice)?;
        let name = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(
            name(&symbols) == name(&kernel).replacen('_', "-dbg_", 1),
            "{} and {} in {} are not of one version; remove the older one",
            name(&kernel),
            name(&symbols),
            cache.folder.display()
        );
        let stock = Stock::of(&kernel, &busybox)?;
        let vmlinux = symbols.join(SYMBOLS).join(format!("vmlinux-{}", stock.release));
        ensure!(vmlinux.is_file(), "{} has no vmlinux; remove it", symbols.display());
        Ok(Symbolised { stock, vmlinux })
    }

    /// What is in two unpacked packages.
    fn of(kernel: &Path, busybox: &Path) -> Result<Stock> {
        let boot = kernel.join("boot");
        let image = last(&boot, |name| name.starts_with("vmlinuz-"))?
            .with_context(|| format!("{} has no kernel; remove it", kernel.display()))?;
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let release = name.trim_start_matches("vmlinuz-").to_owned();
        // Where /lib is a link to /usr/lib, packages may say either.
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|folder| kernel.join(folder).join(&release))
            .into_iter()
            .find(|folder| folder.is_dir())
            .with_context(|| format!("{} has no modules; remove it", kernel.display()))?;
        let busybox = ["bin/busybox", "usr/bin/busybox"]
            .map(|program| busybox.join(program))
            .into_iter()
            .find(|program| program.is_file())
            .with_context(|| format!("{} has no busybox; remove it", busybox.display()))?;
        Ok(Stock { release, kernel: image, modules, busybox })
    }
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
struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The one that the environment names.
    fn find() -> Result<Cache> {
        Ok(Cache { folder: cache()? })
    }

    /// What a person can do who has not got these files.
    fn advice(&self, files: &str) -> String {
        let folder = self.folder.display();
        format!(
            "there is no stock Linux; let apt reach Debian (`apt-get update` as root), or put its {files} into {folder}"
        )
    }

    /// Packages, unpacked.
    fn folders<const N: usize>(
        &self,
        packages: [Package; N],
        say: &mut dyn FnMut(&str),
    ) -> Result<[PathBuf; N]> {
        fs::create_dir_all(self.folder.join("logs"))
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let mut absent = Vec::new();
        for package in packages {
            if self.unpacked(package)?.is_none() && self.archive(package)?.is_none() {
                absent.push(package);
            }
        }
        if !absent.is_empty() {
            self.download(&absent, say)?;
        }
        let mut folders = packages.map(|_| PathBuf::new());
        for (folder, package) in folders.iter_mut().zip(packages) {
            *folder = match self.unpacked(package)? {
                Some(folder) => folder,
                None => {
                    let archive = self.archive(package)?;
                    self.unpack(&archive.context("apt did not download what it had named")?, package)?
                }
            };
        }
        Ok(folders)
    }

    fn unpacked(&self, package: Package) -> Result<Option<PathBuf>> {
        last(&self.folder, |name| package.is(name) && !name.ends_with(".deb"))
    }

    fn archive(&self, package: Package) -> Result<Option<PathBuf>> {
        last(&self.folder, |name| package.is(name) && name.ends_with(".deb"))
    }

    /// Runs a program in `folder`, in the language that we read.
    fn run(&self, program: &str, arguments: &[&str], folder: &Path, limit: Duration) -> Result<Output> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        ensure!(
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file()),
            "{program} is not installed"
        );
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env("LC_ALL", "C");
        let log = self.folder.join("logs").join(format!("{program}.log"));
        process::run(&mut command, limit, &log)?.success(program)
    }

    /// Downloads packages. apt checks what it gets against the signed lists.
    fn download(&self, packages: &[Package], say: &mut dyn FnMut(&str)) -> Result<()> {
        let mut names = Vec::new();
        for package in packages {
            names.push(match package.current() {
                None => "busybox-static".to_owned(),
                Some(current) => {
                    let said =
                        self.run("apt-cache", &["depends", "--important", current], &self.folder, LIMIT)?;
                    let depends =
                        said.stdout.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
                    let mut kernels = depends.filter(|name| package.is(name));
                    kernels.next().with_context(|| format!("apt knows no {current}"))?.to_owned()
                }
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

    /// Unpacks an archive, and compares each file with the checksum that the package has of it.
    fn unpack(&self, archive: &Path, package: Package) -> Result<PathBuf> {
        let name = archive.file_stem().unwrap_or_default();
        let (text, target) = (archive.to_string_lossy(), self.folder.join(name));
        let scratch = Scratch::new(&self.folder)?;
        let damaged = || format!("{text} is damaged; remove it");
        self.run("dpkg-deb", &["--control", &text, "control"], &scratch.0, LIMIT).with_context(damaged)?;
        let mut sums = vec!["--check", "--quiet", "--strict", "../control/md5sums"];
        if package == Package::CloudSymbols {
            // With the modules' symbols it would be 3 GB more.
            let only = r#"mkdir files && dpkg-deb --fsys-tarfile "$1" | tar -x -C files "./$2""#;
            self.run("sh", &["-c", only, "sh", &text, SYMBOLS], &scratch.0, LIMIT).with_context(damaged)?;
            sums.insert(0, "--ignore-missing");
        } else {
            self.run("dpkg-deb", &["--extract", &text, "files"], &scratch.0, LIMIT).with_context(damaged)?;
        }
        self.run("md5sum", &sums, &scratch.0.join("files"), LIMIT).with_context(damaged)?;
        match fs::rename(scratch.0.join("files"), &target) {
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
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Result<Scratch> {
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
fn last(folder: &Path, pleases: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
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
    fn only_the_usual_kernel_is_the_kernel() {
        for name in ["linux-image-6.1.0-56-amd64", "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb"] {
            assert!(Package::Kernel.is(name), "{name}");
        }
        for name in [
            "linux-image-amd64",
            "linux-image-amd64_6.1.192-2_amd64.deb",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1.0-56-arm64",
            "busybox-static",
            "",
        ] {
            assert!(!Package::Kernel.is(name), "{name}");
        }
        let cloud = "linux-image-6.1.0-56-cloud-amd64";
        assert!(Package::Cloud.is(cloud) && !Package::CloudSymbols.is(cloud));
        let symbols = format!("{cloud}-dbg_6.1.192-2_amd64");
        assert!(Package::CloudSymbols.is(&symbols) && !Package::Cloud.is(&symbols));
        assert!(!Package::CloudSymbols.is("linux-image-cloud-amd64-dbg"));
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
        let good = "b1946ac92492d2347c6235b4d2611184  bin/busybox\n";

        let archive = package(folder.path(), "busybox-static", &good.replace('b', "c"));
        let error = format!("{:#}", cache.unpack(&archive, Package::Busybox).unwrap_err());
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(cache.unpacked(Package::Busybox).unwrap(), None);

        let archive = package(folder.path(), "busybox-static", good);
        let unpacked = cache.unpack(&archive, Package::Busybox).unwrap();
        assert_eq!(cache.unpacked(Package::Busybox).unwrap().as_ref(), Some(&unpacked));
        assert_eq!(fs::read(unpacked.join("bin/busybox")).unwrap(), b"hello\n");
        // A second time, as if two had begun together.
        assert_eq!(cache.unpack(&archive, Package::Busybox).unwrap(), unpacked);
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
    }

    #[test]
    fn half_an_archive_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        let archive =
            package(folder.path(), "busybox-static", "b1946ac92492d2347c6235b4d2611184  bin/busybox\n");
        let whole = fs::read(&archive).unwrap();
        fs::write(&archive, &whole[..whole.len() - 40]).unwrap();
        assert!(cache.unpack(&archive, Package::Busybox).is_err());
        assert_eq!(cache.unpacked(Package::Busybox).unwrap(), None);
    }
}

//! A stock kernel, and the files for a system around it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::archive::{Record, Set, belonging};
use super::cache::{Cache, SYMBOLS, Tell, Want, last};
use super::kernel::{Kernel, Parts};
use super::rust_tools::RustTools;

/// A stock kernel, and the files for a system around it.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Which kernel it is.
    pub which: Kernel,
    /// The kernel's release, as in `uname -r`.
    pub release: String,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its modules.
    pub(super) modules: PathBuf,
    /// busybox.
    pub(super) busybox: PathBuf,
    /// The package's name and version, which its companion packages share.
    pub(super) package: String,
    /// For a kernel with Rust: the files that modules are built against, and the tools.
    pub(super) rust: Option<(PathBuf, RustTools)>,
}

/// Makes the module build tools in `folder` run with the C library of their own, newer Debian, which was
/// unpacked next to them and will be in `root`: a script replaces each program.
fn with_own_library(root: &Path, folder: &Path) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let libraries = libraries.display();
    // Those with this suffix are the real programs; the others only start the one for the architecture.
    for (name, ending) in [("scripts/mod/modpost", ".real-lsb-64"), ("tools/objtool/objtool", ".real-x86")] {
        let program = folder.join(name);
        let program =
            fs::canonicalize(&program).with_context(|| format!("there is no {}", program.display()))?;
        let cannot = || format!("cannot change {}", program.display());
        let script = format!(
            "#!/bin/sh\nexec \"{libraries}/ld-linux-x86-64.so.2\" --library-path \"{libraries}\" \"$0{ending}\" \"$@\"\n"
        );
        fs::write(&program, script).with_context(cannot)?;
    }
    Ok(())
}

/// A stock kernel with symbols.
#[derive(Clone, Debug)]
pub struct Symbolised {
    /// The kernel.
    pub stock: Stock,
    /// The same as an ELF file with DWARF, `vmlinux`: up to 600 MB.
    pub vmlinux: PathBuf,
}

impl Stock {
    /// Gets a kernel from the cache; missing packages are downloaded with apt first, without root. It is the
    /// newest version for which these parts exist in the cache, or else in Debian's archive. Calls `tell`
    /// before a download. Only the cache is changed.
    ///
    /// # Errors
    /// If it is missing and cannot be downloaded; the error gives a remedy in one line.
    pub fn get(which: Kernel, parts: Parts, tell: &mut dyn Tell) -> Result<Stock> {
        let cache = Cache::find()?;
        let set = cache.take(Want { kernel: which, parts }, tell)?;
        Stock::of(&cache, which, &set)
    }

    /// The same with headers and symbols.
    ///
    /// # Errors
    /// As for [`Stock::get`].
    pub fn symbolised(which: Kernel, tell: &mut dyn Tell) -> Result<Symbolised> {
        let cache = Cache::find()?;
        let set = cache.take(Want { kernel: which, parts: Parts::Symbols }, tell)?;
        let stock = Stock::of(&cache, which, &set)?;
        let symbols = set.records.last().context("a kernel without symbols")?;
        let symbols = cache.unpacked(symbols, Some(SYMBOLS))?;
        let vmlinux = symbols.join(SYMBOLS).join(format!("vmlinux-{}", stock.release));
        ensure!(vmlinux.is_file(), "{} has no vmlinux; remove it", symbols.display());
        Ok(Symbolised { stock, vmlinux })
    }

    /// The folder that modules for this kernel are built against (`make -C FOLDER M=…`). The kernel must have
    /// been fetched with [`Parts::Headers`]. The packages are made for installation and refer to each other;
    /// here they are unpacked into one folder, whose references are adjusted.
    ///
    /// # Errors
    /// If they are not in the cache.
    pub fn headers(&self) -> Result<PathBuf> {
        if let Some((headers, _)) = &self.rust {
            return Ok(headers.clone());
        }
        let (cache, release) = (Cache::find()?, &self.release);
        let name = self.package.replacen("linux-image-", "linux-headers-", 1);
        let root = cache.folder.join(&name);
        let folder = root.join("usr/src").join(format!("linux-headers-{release}"));
        if root.is_dir() {
            ensure!(folder.is_dir(), "{} has no headers; remove it", root.display());
            return Ok(folder);
        }
        let image = Record::of_stem(&self.package).context("a kernel of no package")?;
        let set = belonging(self.which, Parts::Headers, &image, &cache.content()?);
        ensure!(
            set.missing.is_empty(),
            "there is no {} in {}",
            set.missing.join(" and no "),
            cache.folder.display()
        );
        let images = 1 + self.which.pieces(release).len();
        let archives = set.records.iter().skip(images).map(|record| cache.archive(record));
        let archives: Vec<PathBuf> = archives.collect();
        let version = self.which.version(release).unwrap_or_default();
        let common = root.join("usr/src").join(format!("linux-headers-{version}-common"));
        cache.unpack(&archives, &name, None, |files| {
            let folder = files.join("usr/src").join(format!("linux-headers-{release}"));
            let cannot = || format!("cannot change {}", folder.display());
            let mut include = format!("include {}/Makefile\n", common.display());
            if self.which.is_backported() {
                // Since Linux 6.13 its makefiles look for build results at this path, even when they build a
                // module.
                let output = root.join("usr/src").join(format!("linux-headers-{release}"));
                include.insert_str(0, &format!("KBUILD_OUTPUT := {}\n", output.display()));
                with_own_library(&root, &folder)?;
            }
            fs::write(folder.join("Makefile"), include).with_context(cannot)?;
            // The kernel's BTF, from which a module's would be derived; no test needs it, and it takes
            // another program.
            match fs::remove_file(folder.join("vmlinux")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(cannot),
                _ => Ok(()),
            }
        })?;
        Ok(folder)
    }

    /// Variables that make its makefiles use this Debian's compiler instead of another one's.
    pub fn compiler(&self) -> &'static [&'static str] {
        // It does not support all options that the kernel was built with.
        if self.which.is_backported() { &["CC=gcc-12", "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="] } else { &[] }
    }

    /// The tools for modules in Rust, if the kernel supports them.
    pub fn rust_tools(&self) -> Option<&RustTools> {
        self.rust.as_ref().map(|(_, tools)| tools)
    }

    /// Finds the files in an image's package and its pieces.
    fn of(cache: &Cache, which: Kernel, set: &Set) -> Result<Stock> {
        let image = set.image().context("a kernel without an image")?;
        let release = image.name.strip_prefix("linux-image-").unwrap_or_default();
        let pieces = set.records.iter().skip(1).take(which.pieces(release).len());
        let package = cache.unpacked_with(image, pieces, None)?;
        let boot = last(&package.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        // In newer packages, the installer copies it to another place.
        let kernel = boot
            .or_else(|| Some(package.join("usr/lib/modules").join(release).join("vmlinuz")))
            .filter(|kernel| kernel.is_file())
            .with_context(|| format!("{} has no kernel; remove it", package.display()))?;
        let release = release.to_owned();
        // If /lib is a link to /usr/lib, packages may use either.
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|folder| package.join(folder).join(&release))
            .into_iter()
            .find(|folder| folder.is_dir())
            .with_context(|| format!("{} has no modules; remove it", package.display()))?;
        Ok(Stock {
            which,
            release,
            kernel,
            modules,
            busybox: cache.busybox()?,
            package: image.stem(),
            rust: None,
        })
    }
}

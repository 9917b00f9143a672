//! A stock kernel, and what makes a system of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::archive::{Record, Set, belonging};
use super::cache::{Cache, SYMBOLS, Tell, Want, last};
use super::kernel::{Kernel, Parts};
use super::rust_tools::RustTools;

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

/// Lets what builds modules in `folder` run with the C library of its own, newer Debian, which was unpacked beside it and will be in `root`:
/// a script stands in for each program.
fn with_own_library(root: &Path, folder: &Path) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let libraries = libraries.display();
    // They only start the one for an architecture, which has this ending.
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

/// A stock kernel whose symbols are there too.
#[derive(Clone, Debug)]
pub struct Symbolised {
    /// The kernel.
    pub stock: Stock,
    /// The same as an ELF file with DWARF, `vmlinux`: up to 600 MB.
    pub vmlinux: PathBuf,
}

impl Stock {
    /// Takes a kernel from the cache; what is not there yet is downloaded with apt first, which needs no root. Of all versions it is the
    /// newest of which these parts are there, in the cache, or else in Debian's archive. Somebody is told what is downloaded, before it
    /// is. Nothing outside of the cache is changed.
    ///
    /// # Errors
    /// If it is not there and cannot be had; the error says in one line what a person can do.
    pub fn get(which: Kernel, parts: Parts, tell: &mut dyn Tell) -> Result<Stock> {
        let cache = Cache::find()?;
        let set = cache.take(Want { kernel: which, parts }, tell)?;
        Stock::of(&cache, which, &set)
    }

    /// The same with headers and symbols.
    ///
    /// # Errors
    /// As [`Stock::get`].
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

    /// The folder against which modules for this kernel are built (`make -C FOLDER M=…`), of a kernel that was taken with
    /// [`Parts::Headers`]. The packages are made to be installed, and point at each other; here they are unpacked into one folder, which
    /// is made to point at itself.
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
                // Since Linux 6.13 its makefiles look for what was built where this says, also when they build a module.
                let output = root.join("usr/src").join(format!("linux-headers-{release}"));
                include.insert_str(0, &format!("KBUILD_OUTPUT := {}\n", output.display()));
                with_own_library(&root, &folder)?;
            }
            fs::write(folder.join("Makefile"), include).with_context(cannot)?;
            // The kernel's types, from which a module's would follow; no test needs them, and it takes another program.
            match fs::remove_file(folder.join("vmlinux")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(cannot),
                _ => Ok(()),
            }
        })?;
        Ok(folder)
    }

    /// What makes its makefiles take this Debian's compiler, where they name that of another one.
    pub fn compiler(&self) -> &'static [&'static str] {
        // It does not know all that the kernel was built with.
        if self.which.is_backported() { &["CC=gcc-12", "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="] } else { &[] }
    }

    /// What modules in Rust are built with, if it takes some.
    pub fn rust_tools(&self) -> Option<&RustTools> {
        self.rust.as_ref().map(|(_, tools)| tools)
    }

    /// What is in an image's package, and in those of its pieces.
    fn of(cache: &Cache, which: Kernel, set: &Set) -> Result<Stock> {
        let image = set.image().context("a kernel without an image")?;
        let release = image.name.strip_prefix("linux-image-").unwrap_or_default();
        let pieces = set.records.iter().skip(1).take(which.pieces(release).len());
        let package = cache.unpacked_with(image, pieces, None)?;
        let boot = last(&package.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        // Newer packages leave it to those that install them to put it elsewhere.
        let kernel = boot
            .or_else(|| Some(package.join("usr/lib/modules").join(release).join("vmlinuz")))
            .filter(|kernel| kernel.is_file())
            .with_context(|| format!("{} has no kernel; remove it", package.display()))?;
        let release = release.to_owned();
        // Where /lib is a link to /usr/lib, packages may say either.
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

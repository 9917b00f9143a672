//! Builds the module: its Rust part once, the rest for each kernel, and once as DKMS does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use qemu_tests::linux::{Kernel, Parts, Stock, Symbolised};

use crate::toolchain::{NO_SOURCE, Toolchain, clean, logged};
use crate::{CannotBegin, build, folders, panic_free, setup, ui};

/// The target of the module's Rust library.
const TARGET: &str = "x86_64-unknown-none";

/// A kernel, and its modules.
pub(crate) struct Built {
    /// The kernel.
    pub(crate) stock: Stock,
    /// The same with symbols, if requested.
    pub(crate) vmlinux: Option<PathBuf>,
    /// diskdump.ko.
    pub(crate) module: PathBuf,
    /// faults.ko.
    pub(super) faults: PathBuf,
}

/// The folder of all these builds.
pub(crate) fn folder() -> PathBuf {
    folders::target_folder().join("linux")
}

/// A kernel from the cache.
pub(crate) fn get(kernel: Kernel, symbols: bool) -> Result<(Stock, Option<PathBuf>)> {
    if kernel == Kernel::RUST {
        return Ok((Stock::with_rust(&setup::rust_tools()?, &mut ui::Teller)?, None));
    }
    if !symbols {
        return Ok((Stock::get(kernel, Parts::Headers, &mut ui::Teller)?, None));
    }
    let Symbolised { stock, vmlinux } = Stock::symbolised(kernel, &mut ui::Teller)?;
    Ok((stock, Some(vmlinux)))
}

/// Builds the part of the module that is the same for all kernels.
pub(crate) fn library_for_modules() -> Result<PathBuf> {
    let toolchain = Toolchain::with_source().ok_or_else(|| CannotBegin(NO_SOURCE.to_owned()))?;
    let folder = folder();
    let mut make = make();
    make.arg("rustlib").arg(format!("BUILD={}", folder.display()));
    if toolchain == Toolchain::Debian {
        make.env("PATH", "/usr/bin:/bin")
            .env("RUSTC", "/usr/bin/rustc")
            .args(["CARGO=/usr/bin/cargo", "RUSTC=/usr/bin/rustc"]);
    }
    logged(make, "build the module's library", build::BUILD_LIMIT)?.success("make -C linux rustlib")?;
    let library = folder.join("rust").join(TARGET).join("release/libdump_linux_module.a");
    anyhow::ensure!(library.is_file(), "make did not make {}", library.display());
    Ok(library)
}

/// Builds diskdump.ko and faults.ko for a kernel.
pub(crate) fn modules((stock, vmlinux): (Stock, Option<PathBuf>), library: &Path) -> Result<Built> {
    let headers = stock.headers()?;
    let folder = folder().join(stock.which.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut ours = make();
    ours.arg("module")
        .arg(format!("KDIR={}", headers.display()))
        .arg(format!("BUILD={}", folder.display()))
        .arg(format!("RUSTLIB={}", library.display()))
        .args(stock.compiler());
    if let Some(tools) = stock.rust_tools() {
        ours.arg("SHIM=rust").args(tools.variables());
    }
    let what = format!("diskdump.ko for {}", stock.release);
    let said = logged(ours, &what, build::BUILD_LIMIT)?.success(&what)?;
    // objtool's messages are warnings. That the tools differ from those that built the kernel says nothing
    // about the module.
    let is_of_tools = |line: &&str| {
        ["pahole version differs", "the compiler differs"].iter().any(|part| line.contains(part))
    };
    let is_warning = |line: &&str| line.contains("warning:") || line.contains("WARNING:");
    if let Some(line) = said.stderr.lines().find(|line| is_warning(line) && !is_of_tools(line)) {
        anyhow::bail!("{what}: {line}; log: {}", said.log.display());
    }
    if stock.rust_tools().is_some() {
        panic_free::check_shim(&folder.join("diskdump.ko"))?;
    }
    let faults = folder.join("faults");
    std::fs::create_dir_all(&faults).with_context(|| format!("cannot create {}", faults.display()))?;
    for name in ["Kbuild", "faults.c"] {
        let source = folders::root().join("qemu-tests/linux-faults").join(name);
        std::fs::copy(&source, faults.join(name))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    let mut make = clean("make");
    make.arg("-C").arg(&headers).arg(format!("M={}", faults.display())).arg("modules").args(stock.compiler());
    let what = format!("faults.ko for {}", stock.release);
    logged(make, &what, build::BUILD_LIMIT)?.success(&what)?;
    Ok(Built { stock, vmlinux, module: folder.join("diskdump.ko"), faults: faults.join("faults.ko") })
}

/// Packs the sources for DKMS; returns the package's path.
pub(super) fn pack_for_dkms(library: &Path) -> Result<PathBuf> {
    let folder = folder().join("dkms");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut pack = clean("sh");
    pack.arg(folders::root().join("linux/dkms/deb.sh")).arg(&folder).env("RUSTLIB", library);
    let said = logged(pack, "pack for DKMS", build::BUILD_LIMIT)?.success("linux/dkms/deb.sh")?;
    Ok(PathBuf::from(said.stdout.lines().last().unwrap_or_default()))
}

/// Packs the sources for DKMS, and builds the module from that alone, as DKMS would. Returns the kernel's
/// name.
pub(super) fn dkms(built: &Built, library: &Path) -> Result<String> {
    let package = pack_for_dkms(library)?;
    let folder = package.parent().unwrap_or(&package);
    let source = folder.join(concat!("diskdump-dkms/usr/src/diskdump-", env!("CARGO_PKG_VERSION")));
    let headers = built.stock.headers()?;
    let mut make = clean("make");
    make.arg("-C")
        .arg(&source)
        .arg(format!("KDIR={}", headers.display()))
        .arg(format!("RUSTLIB={}", source.join("libdump_linux_module.a").display()))
        .args(built.stock.compiler());
    logged(make, "build as DKMS does", build::BUILD_LIMIT)?
        .success("make in the tree of the DKMS package")?;
    let module = source.join("build/diskdump.ko");
    anyhow::ensure!(module.is_file(), "there is no {}", module.display());
    Ok(built.stock.release.clone())
}

fn make() -> std::process::Command {
    let mut make = clean("make");
    make.arg("-C").arg(folders::root().join("linux"));
    make
}

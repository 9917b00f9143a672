//! `cargo xtask linux`: stock kernels that crash with diskdump.ko armed, and whole Debians.

mod debian;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_tests::linux::{Kernel, Lab, Parts, Readers, Row, Stock, Symbolised, Want, rows};
use qemu_tests::savecore::Savecore;

use crate::qemu::Count;
use crate::setup::Needs;
use crate::test::{Step, step};
use crate::toolchain::{NO_SOURCE, Toolchain, clean, logged};
use crate::ui::{self, Mark};
use crate::{CannotBegin, build, panic_free, setup};

/// Where the modules' Rust library is for.
const TARGET: &str = "x86_64-unknown-none";

/// What savecore takes longer for hangs.
const SAVECORE_LIMIT: Duration = Duration::from_secs(300);

/// Rows at a time. They are held to deadlines, so never more than there are CPUs for.
const AT_A_TIME: usize = 2;

/// Which rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which<'a> {
    /// Those of the short run.
    Short,
    /// All.
    All,
    /// Those whose name contains this.
    Named(&'a str),
}

/// The task. With `strict`, a missing tool is an error.
pub(crate) fn task(which: Which<'_>, list: bool, strict: bool) -> Result<bool> {
    let (chosen, debians) = (chosen(which), debian::chosen(which));
    if chosen.is_empty() && debians.is_empty() {
        return Err(CannotBegin(
            "no row's name contains that; `cargo xtask linux --list` names them".to_owned(),
        )
        .into());
    }
    if list {
        let width = chosen.iter().map(|row| row.name().len()).max().unwrap_or_default();
        for row in chosen {
            ui::text(&format!("{:<width$}  {}", row.name(), row.about));
        }
        for debian in debians {
            ui::text(&format!("{:<width$}  {}", debian.name(), debian.about()));
        }
        return Ok(true);
    }
    let mut count = Count::default();
    if !chosen.is_empty() {
        run(&mut count, &build::savecore()?, &chosen, strict)?;
    }
    if !debians.is_empty() {
        debian::run(&mut count, &debians, strict)?;
    }
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// The rows that are meant.
pub(crate) fn chosen(which: Which<'_>) -> Vec<Row> {
    let mut rows = rows();
    rows.retain(|row| match which {
        Which::Short => row.short,
        Which::All => true,
        Which::Named(part) => row.name().contains(part),
    });
    rows
}

/// The kernels of these rows.
pub(crate) fn wants(rows: &[Row]) -> Vec<Want> {
    let mut wants: Vec<Want> = Vec::new();
    for row in rows {
        let parts = if row.wants_symbols() { Parts::Symbols } else { Parts::Headers };
        let want = Want { kernel: row.kernel, parts };
        if !wants.contains(&want) {
            wants.push(want);
        }
    }
    wants
}

/// A kernel, and what was built for it.
pub(crate) struct Built {
    /// The kernel.
    pub(crate) stock: Stock,
    /// The same with symbols, if they were asked for.
    pub(crate) vmlinux: Option<PathBuf>,
    /// diskdump.ko.
    pub(crate) module: PathBuf,
    /// faults.ko.
    faults: PathBuf,
}

/// Runs these rows and counts. With `strict`, a missing tool is an error.
pub(crate) fn run(count: &mut Count, savecore: &Path, rows: &[Row], strict: bool) -> Result<()> {
    ui::section("stock Linux");
    let ready = setup::bring(&Needs::linux(wants(rows))).and_then(|()| setup::python());
    let python = match ready {
        Ok(python) => python,
        Err(error) if strict || !error.is::<CannotBegin>() => return Err(error),
        Err(error) => {
            step(count, "tools", || Ok(Step::Skipped(format!("{error:#}"))));
            count.skipped += rows.len();
            return Ok(());
        }
    };
    let mut kernels: Vec<Kernel> = Vec::new();
    for row in rows {
        if !kernels.contains(&row.kernel) {
            kernels.push(row.kernel);
        }
    }
    let mut built: Vec<Built> = Vec::new();
    let mut library = None;
    step(count, "the module's part in Rust", || {
        library = Some(library_for_modules()?);
        Ok(Step::Done(String::new()))
    });
    let Some(library) = library else { return Ok(()) };
    step(count, "no panic can be reached in a crashed Linux", || {
        Ok(Step::Done(panic_free::check_module(&library)?))
    });
    for kernel in kernels {
        let symbols = rows.iter().any(|row| row.kernel == kernel && row.wants_symbols());
        step(count, &format!("diskdump.ko for {}", kernel.name()), || {
            match get(kernel, symbols) {
                Ok(stock) => built.push(modules(stock, &library)?),
                Err(error) if strict => return Err(error),
                Err(error) => return Ok(Step::Skipped(format!("{error:#}"))),
            }
            Ok(Step::Done(built.last().map(|built| built.stock.release.clone()).unwrap_or_default()))
        });
    }
    if let Some(built) = built.iter().find(|built| built.stock.rust_tools().is_none()) {
        step(count, "DKMS builds the module of what its package holds", || {
            Ok(Step::Done(dkms(built, &library)?))
        });
    }
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Count::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(built) = built.iter().find(|built| built.stock.which == row.kernel) else {
                        if let Ok(mut total) = total.lock() {
                            total.skipped += 1;
                        }
                        continue;
                    };
                    let begin = Instant::now();
                    let result = lab(row, built, savecore, &python).and_then(|lab| row.run(&lab));
                    let (mark, facts) = match &result {
                        Ok(facts) => (Mark::Ok, facts.clone()),
                        Err(error) => (Mark::Failed, format!("{error:#}")),
                    };
                    ui::done(mark, &row.name(), &facts, Some(begin.elapsed()));
                    if let Ok(mut total) = total.lock() {
                        total.passed += usize::from(result.is_ok());
                        total.failed += usize::from(result.is_err());
                    }
                }
            });
        }
    });
    *count += total.into_inner().unwrap_or_default();
    Ok(())
}

/// What a row runs with.
fn lab(row: &Row, built: &Built, savecore: &Path, python: &Path) -> Result<Lab> {
    let folder = folder().join("rows").join(row.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(Lab {
        stock: built.stock.clone(),
        vmlinux: built.vmlinux.clone().filter(|_| row.wants_symbols()),
        module: built.module.clone(),
        faults: built.faults.clone(),
        savecore: Savecore::new(savecore, &folder, SAVECORE_LIMIT),
        readers: Readers { python: python.to_path_buf(), folder: folder.clone() },
        folder,
    })
}

/// Where all of it is.
pub(crate) fn folder() -> PathBuf {
    build::target_folder().join("linux")
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
    // objtool's words are warnings. That tools are others than the kernel was built with says nothing of the module.
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
        let source = build::root().join("qemu-tests/linux-faults").join(name);
        std::fs::copy(&source, faults.join(name))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    let mut make = clean("make");
    make.arg("-C").arg(&headers).arg(format!("M={}", faults.display())).arg("modules").args(stock.compiler());
    let what = format!("faults.ko for {}", stock.release);
    logged(make, &what, build::BUILD_LIMIT)?.success(&what)?;
    Ok(Built { stock, vmlinux, module: folder.join("diskdump.ko"), faults: faults.join("faults.ko") })
}

/// Packs what DKMS gets; gives the package's path.
fn pack_for_dkms(library: &Path) -> Result<PathBuf> {
    let folder = folder().join("dkms");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut pack = clean("sh");
    pack.arg(build::root().join("linux/dkms/deb.sh")).arg(&folder).env("RUSTLIB", library);
    let said = logged(pack, "pack for DKMS", build::BUILD_LIMIT)?.success("linux/dkms/deb.sh")?;
    Ok(PathBuf::from(said.stdout.lines().last().unwrap_or_default()))
}

/// Packs what DKMS gets, and builds the module of that alone, as DKMS would. Says for which kernel.
fn dkms(built: &Built, library: &Path) -> Result<String> {
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
    make.arg("-C").arg(build::root().join("linux"));
    make
}

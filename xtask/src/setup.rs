//! `cargo xtask setup`: makes a fresh Debian or Ubuntu machine able to run everything here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use qemu_tests::linux::RustTools;

use crate::toolchain::{TARGETS, Toolchain, clean, host_cargo, logged};
use crate::ui::{self, Mark};
use crate::{CannotBegin, fuzz, toolchain};

/// A program that is needed, and the Debian package that it is in.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const TOOLS: [Tool; 5] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    // With it comes OpenSBI, the firmware of QEMU's riscv64 machine.
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    // It knows all architectures.
    Tool { program: "gdb-multiarch", package: "gdb-multiarch" },
    Tool { program: "readelf", package: "binutils" },
];

/// Other people's programs that judge what savecore makes: they open its cores and reports, and watch its system calls. And what the
/// Linux that is judged is made with.
const JUDGES: [Tool; 9] = [
    Tool { program: "crash", package: "crash" },
    Tool { program: "makedumpfile", package: "makedumpfile" },
    Tool { program: "chromium", package: "chromium" },
    Tool { program: "strace", package: "strace" },
    // Reads savecore's units; and what runs them in a guest comes with it.
    Tool { program: "systemd-analyze", package: "systemd" },
    // What builds modules for Debian's kernels, and unpacks theirs. (libelf, which objtool needs, comes with gdb.)
    Tool { program: "gcc-12", package: "gcc-12" },
    Tool { program: "make", package: "make" },
    Tool { program: "xz", package: "xz-utils" },
    // Makes the file system in which a guest keeps its cores, and gets them out; not in the path of everybody.
    Tool { program: "/usr/sbin/debugfs", package: "e2fsprogs" },
];

/// What a kernel with Rust is built with, beside [`JUDGES`].
const KERNEL_TOOLS: [Tool; 3] = [
    Tool { program: "flex", package: "flex" },
    Tool { program: "bison", package: "bison" },
    Tool { program: "bc", package: "bc" },
];

/// The bindgen that a kernel of today takes; Debian's is too old.
const BINDGEN: &str = "0.71.1";

/// Debian's own Python, which is not always the first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// Modules of it, and their packages: libkdumpfile, and what makes an environment for others.
const MODULES: [(&str, &str); 2] = [("kdumpfile", "python3-libkdumpfile"), ("ensurepip", "python3-venv")];

/// What Debian does not have, in the versions that the tests were made with, and modules of theirs.
const PYPI: [(&str, &str); 2] = [("drgn.helpers.linux", "drgn==0.3.0"), ("duckdb", "duckdb==2.0.0")];

/// Debian's own Rust, for machines without rustup.
const DEBIAN_RUST: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "lld"];

/// What is still missing: Debian packages, and Rust targets.
#[derive(Debug, Default)]
struct Missing {
    packages: Vec<&'static str>,
    targets: Vec<&'static str>,
}

impl Missing {
    fn look(targets: &[&'static str]) -> Missing {
        Missing {
            packages: TOOLS.iter().filter(|tool| !in_path(tool.program)).map(|tool| tool.package).collect(),
            targets: targets.iter().copied().filter(|target| Toolchain::find(target).is_none()).collect(),
        }
    }

    fn nothing(&self) -> bool {
        self.packages.is_empty() && self.targets.is_empty()
    }
}

/// Whether a program is there.
pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether we run as root: the owner of our own process is whoever we run as.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The task: all that any other task needs.
pub(crate) fn task() -> Result<bool> {
    ui::section("setup");
    ensure_all()?;
    ensure_judges()?;
    ensure_rust_kernel()?;
    for tool in TOOLS.iter().chain(&JUDGES).chain(&KERNEL_TOOLS) {
        ui::done(Mark::Ok, tool.program, &format!("package {}", tool.package), None);
    }
    for target in TARGETS {
        if let Some(toolchain) = Toolchain::find(target) {
            ui::done(Mark::Ok, target, toolchain.describe(), None);
        }
    }
    // For `cargo xtask fuzz` alone; no test needs it.
    match fuzz::is_installed() {
        true => ui::done(Mark::Ok, "cargo-fuzz", "", None),
        false => ui::done(Mark::Skipped, "cargo-fuzz", &format!("only to fuzz: {}", fuzz::INSTALL), None),
    }
    Ok(true)
}

/// Installs what is missing for all targets, and the targets in the active toolchain too if rustup can: they build
/// faster there, and clippy can look at the test kernel.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_all() -> Result<()> {
    let better: Vec<&str> =
        TARGETS.into_iter().filter(|target| Toolchain::find(target) != Some(Toolchain::Installed)).collect();
    if !better.is_empty() && in_path("rustup") {
        add_targets(&better, false);
    }
    ensure(&TARGETS)
}

/// Installs what is missing for these targets; silent if nothing is.
///
/// # Errors
/// [`CannotBegin`] with the command to be typed, if it cannot be installed from here.
pub(crate) fn ensure(targets: &[&'static str]) -> Result<()> {
    let mut missing = Missing::look(targets);
    if missing.nothing() {
        return Ok(());
    }
    if !missing.targets.is_empty() && in_path("rustup") {
        add_targets(&missing.targets, true);
        missing = Missing::look(targets);
    }
    let mut packages = missing.packages.clone();
    if !missing.targets.is_empty() {
        packages.extend(DEBIAN_RUST);
    }
    if packages.is_empty() {
        return Ok(());
    }
    let debian = in_path("apt-get");
    if !is_root() || !debian {
        return Err(CannotBegin(advice(&missing, &packages, debian)).into());
    }
    install(&packages)?;
    let left = Missing::look(targets);
    if left.nothing() {
        return Ok(());
    }
    let mut packages = left.packages.clone();
    if !left.targets.is_empty() {
        packages.extend(DEBIAN_RUST);
    }
    Err(CannotBegin(advice(&left, &packages, debian)).into())
}

/// Installs these packages, which are missing; silent if there are none.
fn ensure_packages(packages: &[&'static str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if is_root() && in_path("apt-get") {
        return install(packages);
    }
    let missing = Missing { packages: packages.to_vec(), targets: Vec::new() };
    Err(CannotBegin(advice(&missing, packages, in_path("apt-get"))).into())
}

/// Installs what a kernel with Rust and modules for it are built with. bindgen goes into the cache, if there is none that is young
/// enough.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_rust_kernel() -> Result<RustTools> {
    let toolchain = Toolchain::with_source().ok_or_else(|| CannotBegin(toolchain::NO_SOURCE.to_owned()))?;
    let mut packages: Vec<&str> =
        KERNEL_TOOLS.iter().filter(|tool| !in_path(tool.program)).map(|tool| tool.package).collect();
    if !Path::new("/usr/include/libelf.h").is_file() {
        packages.push("libelf-dev");
    }
    if !has_libclang() {
        packages.push("libclang1");
    }
    ensure_packages(&packages)?;
    let folder = qemu_tests::linux::cache()?.with_file_name("bindgen");
    let own = folder.join("bin/bindgen");
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&usual).map(|folder| folder.join("bindgen")).chain([own.clone()]);
    let bindgen = match found.find(|program| young(program)) {
        Some(bindgen) => bindgen,
        None => {
            // Without optimisations it is built in a third of the time.
            let mut cargo = host_cargo();
            cargo
                .args(["install", "bindgen-cli", "--locked", "--debug", "--version", BINDGEN, "--root"])
                .arg(&folder);
            let (what, begin) = ("cargo install bindgen-cli", Instant::now());
            ui::running(what);
            let result = logged(cargo, what, Duration::from_secs(900))?.success(what);
            let mark = if result.is_err() { Mark::Failed } else { Mark::Ok };
            ui::done(mark, what, &folder.to_string_lossy(), Some(begin.elapsed()));
            result.map_err(|error| CannotBegin(format!("{error:#}")))?;
            own
        }
    };
    Ok(RustTools { rustc: toolchain.rustc()?, bindgen })
}

/// Whether this is a bindgen that a kernel takes.
fn young(bindgen: &Path) -> bool {
    let Ok(output) = Command::new(bindgen).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&output.stdout);
    toolchain::minor(&said) >= toolchain::minor(&format!("bindgen {BINDGEN}"))
}

/// Whether there is a libclang that bindgen finds.
fn has_libclang() -> bool {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib/x86_64-linux-gnu")];
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.extend(
        llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
            .map(|entry| entry.path().join("lib")),
    );
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    let names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    names.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| is_libclang(&name))
}

/// Whether this is a file of libclang's, with or without its version; that for C++ programs is another library.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let versioned =
        rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()));
    rest.starts_with(".so") || versioned && rest.contains(".so")
}

/// Installs what judges savecore; gives a Python that has drgn and DuckDB, which get an environment of their own in the cache
/// if the usual Python has not both.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_judges() -> Result<PathBuf> {
    let usual = PathBuf::from("python3");
    let own = qemu_tests::linux::cache()?.with_file_name("python").join("bin/python3");
    let has = |python: &Path, module: &str| {
        let output = Command::new(python).args(["-c", &format!("import {module}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let python =
        [usual, own.clone()].into_iter().find(|python| PYPI.iter().all(|(module, _)| has(python, module)));
    let mut packages: Vec<&str> =
        JUDGES.iter().filter(|tool| !in_path(tool.program)).map(|tool| tool.package).collect();
    for (module, package) in MODULES {
        let needed = python.is_none() || module != "ensurepip";
        if needed && !has(Path::new(PYTHON), module) {
            packages.push(package);
        }
    }
    ensure_packages(&packages)?;
    if let Some(python) = python {
        return Ok(python);
    }
    let folder = own.parent().and_then(Path::parent).unwrap_or(&own).to_string_lossy().into_owned();
    let mut environment = Command::new(PYTHON);
    environment.args(["-m", "venv", &folder]);
    let mut pip = Command::new(&own);
    pip.args(["-m", "pip", "install", "--quiet"]).args(PYPI.map(|(_, package)| package));
    for (what, command) in [("python3 -m venv", environment), ("pip install drgn duckdb", pip)] {
        let begin = Instant::now();
        ui::running(what);
        let result = logged(command, what, Duration::from_secs(300))?.success(what);
        let mark = if result.is_err() { Mark::Failed } else { Mark::Ok };
        ui::done(mark, what, &folder, Some(begin.elapsed()));
        result.map_err(|error| CannotBegin(format!("{error:#}")))?;
    }
    Ok(own)
}

/// Asks rustup for the targets' libraries, and if that fails, and `source` says so, for their source. Both may fail where
/// there is no way to rustup's server; what then is still missing shows.
fn add_targets(targets: &[&str], source: bool) {
    let mut attempts = vec![("rustup target add", ["target", "add"].as_slice(), targets)];
    if source {
        attempts.push(("rustup component add", &["component", "add"], &["rust-src"]));
    }
    for (what, command, names) in attempts {
        let begin = Instant::now();
        ui::running(what);
        let mut rustup = clean("rustup");
        // Offline it has to give up soon, as there are other ways.
        rustup.args(command).args(names).env("RUSTUP_MAX_RETRIES", "0");
        let result = logged(rustup, what, Duration::from_secs(120))
            .and_then(|output| output.success(what).map(|_| ()));
        let took = Some(begin.elapsed());
        match result {
            Ok(()) => {
                ui::done(Mark::Ok, what, &names.join(" "), took);
                return;
            }
            Err(error) => ui::done(Mark::Skipped, what, &format!("{error:#}"), took),
        }
    }
}

/// Installs Debian packages.
fn install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let steps = [
        ("apt-get update", apt(&["update"])),
        ("apt-get install", apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())),
    ];
    for (what, command) in steps {
        let begin = Instant::now();
        ui::running(what);
        let result = logged(command, what, Duration::from_secs(540))?.success(what);
        let failed = result.is_err();
        let facts = if what.ends_with("update") { String::new() } else { packages.join(" ") };
        ui::done(if failed { Mark::Failed } else { Mark::Ok }, what, &facts, Some(begin.elapsed()));
        result.map_err(|error| CannotBegin(format!("{error:#}")))?;
    }
    Ok(())
}

/// What a person has to type, in one line.
fn advice(missing: &Missing, packages: &[&str], debian: bool) -> String {
    let what: Vec<&str> = missing.packages.iter().chain(&missing.targets).copied().collect();
    let what = what.join(", ");
    // With rustup the targets are the shorter way, and the only one outside Debian.
    let mut commands = Vec::new();
    let rust = !missing.targets.is_empty();
    if rust && (in_path("rustup") || !debian) {
        commands.push(format!("rustup target add {}", missing.targets.join(" ")));
    }
    if debian {
        let list = if rust && !in_path("rustup") { packages } else { &missing.packages };
        if !list.is_empty() {
            commands.push(format!("sudo apt-get install --no-install-recommends {}", list.join(" ")));
        }
        return format!("missing: {what}; as root, or by hand: {}", commands.join(" && "));
    }
    if !missing.packages.is_empty() {
        commands.push("your package manager's way to install QEMU for x86_64, gdb and binutils".to_owned());
    }
    format!("missing: {what}; this is not Debian or Ubuntu, so by hand: {}", commands.join(", and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_on_debian_is_a_command_that_names_exactly_what_is_missing() {
        let missing = Missing { packages: vec!["gdb"], targets: vec![] };
        let text = advice(&missing, &["gdb"], true);
        assert!(text.ends_with("sudo apt-get install --no-install-recommends gdb"), "{text}");
    }

    #[test]
    fn advice_elsewhere_does_not_speak_of_apt() {
        let missing = Missing { packages: vec!["gdb"], targets: vec!["x86_64-unknown-none"] };
        let text = advice(&missing, &["gdb"], false);
        assert!(
            text.contains("rustup target add x86_64-unknown-none") && !text.contains("apt-get"),
            "{text}"
        );
    }

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so.1", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang_rt.so", "libclang-14.a", "libc.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        assert!(!in_path("no-such-program"));
        assert!(in_path("sh"));
    }
}

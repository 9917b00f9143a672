//! Chooses the Rust toolchain that builds for bare metal.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::CannotBegin;

/// Bare-metal targets that dumpcore and the drivers build for; the first is the test kernel's.
pub(crate) const TARGETS: [&str; 3] =
    ["x86_64-unknown-none", "aarch64-unknown-none-softfloat", "riscv64gc-unknown-none-elf"];

/// The minimum minor version of the compiler: the workspace's rust-version.
const OLDEST: u32 = 95;

/// A way to build for a bare-metal target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Toolchain {
    /// The active toolchain has the target's core library.
    Installed,
    /// The active toolchain has the library's source, and builds it.
    Source,
    /// Debian's packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

/// The command for a user without a toolchain that can build core.
pub(crate) const NO_SOURCE: &str = "no Rust toolchain can build core for a kernel: rustup component add rust-src, or Debian's \
                                    packages rustc-web, cargo-web and rust-web-src";

/// Variables that `cargo run` leaves in its child's environment, and that a build for another target must not
/// inherit.
const INHERITED: [&str; 8] = [
    "CARGO",
    "RUSTC",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
];

/// A command without the variables that `cargo run` left in our environment.
pub(crate) fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in INHERITED {
        command.env_remove(name);
    }
    // The compiler that built this program, not the first in the path: that may be another, and too old.
    if let Some(folder) = folder_of(std::env::var_os("CARGO")) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [folder].into_iter().chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
    }
    for (name, _) in std::env::vars_os() {
        let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether this cargo has nextest: it kills a test that hangs, and runs each in a process of its own.
pub(crate) fn has_nextest(mut cargo: Command) -> bool {
    cargo.args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// The folder with cargo and rustc of one toolchain, if this cargo is in one.
fn folder_of(cargo: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let folder = Path::new(&cargo?).parent()?.to_path_buf();
    folder.join("rustc").is_file().then_some(folder)
}

/// The active toolchain by rustup's name, if it is one of rustup's.
pub(crate) fn active_name() -> Option<String> {
    let root = sysroot(clean("rustc"))?;
    let is_of_rustup = root.parent()?.file_name()? == "toolchains";
    is_of_rustup.then(|| Some(root.file_name()?.to_str()?.to_owned()))?
}

/// The active compiler's default target.
pub(crate) fn host() -> Option<String> {
    let output = clean("rustc").arg("-vV").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix("host: ")?.to_owned()))
}

/// Cargo of the active toolchain.
pub(crate) fn host_cargo() -> Command {
    let mut command = clean("cargo");
    command.current_dir(crate::folders::root());
    command
}

impl Toolchain {
    /// The best available one for `target`, or `None`.
    pub(crate) fn find(target: &str) -> Option<Toolchain> {
        let active = sysroot(clean("rustc"));
        if let Some(root) = &active {
            if root.join("lib/rustlib").join(target).join("lib").is_dir() {
                return Some(Toolchain::Installed);
            }
            if has_source(root) && has_linker(root) {
                return Some(Toolchain::Source);
            }
        }
        Toolchain::debian()
    }

    /// The best one for `target`.
    ///
    /// # Errors
    /// [`CannotBegin`] if there is none.
    pub(crate) fn need(target: &str) -> Result<Toolchain> {
        Toolchain::find(target).ok_or_else(|| {
            CannotBegin(format!("no Rust toolchain builds for {target}: run `cargo xtask setup`")).into()
        })
    }

    /// The best one that can build the target's core library itself, as needed for code with a kernel's
    /// mitigations; or `None`.
    pub(crate) fn with_source() -> Option<Toolchain> {
        if sysroot(clean("rustc")).is_some_and(|root| has_source(&root)) {
            return Some(Toolchain::Source);
        }
        Toolchain::debian()
    }

    /// Its compiler itself, not rustup's proxy: the path stays the same in every folder.
    ///
    /// # Errors
    /// If it does not report its location.
    pub(crate) fn rustc(self) -> Result<PathBuf> {
        if self == Toolchain::Debian {
            return Ok(PathBuf::from("/usr/bin/rustc"));
        }
        Ok(sysroot(clean("rustc")).context("rustc does not say where its libraries are")?.join("bin/rustc"))
    }

    /// Debian's, if it is installed and recent enough.
    fn debian() -> Option<Toolchain> {
        let debian = sysroot(clean("/usr/bin/rustc"))?;
        let young = version(clean("/usr/bin/rustc")).is_some_and(|minor| minor >= OLDEST);
        let whole = Path::new("/usr/bin/cargo").exists() && Path::new("/usr/bin/ld.lld").exists();
        (young && whole && has_source(&debian)).then_some(Toolchain::Debian)
    }

    /// A short description.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Toolchain::Installed => "the active toolchain, target installed",
            Toolchain::Source => "the active toolchain, core built from rust-src",
            Toolchain::Debian => "Debian's rustc-web, core built from rust-web-src",
        }
    }

    /// `cargo COMMAND --target TARGET` with this toolchain; `flags` are rustc's, only for this target.
    pub(crate) fn cargo(self, command: &str, target: &str, flags: &[&str]) -> Command {
        let mut flags = flags.to_vec();
        let mut cargo = match self {
            Toolchain::Installed | Toolchain::Source => clean("cargo"),
            Toolchain::Debian => {
                let mut cargo = clean("/usr/bin/cargo");
                cargo.env("PATH", "/usr/bin:/bin").env("RUSTC", "/usr/bin/rustc");
                // Debian's rustc comes without rust-lld, which the targets request.
                flags.extend(["-C", "linker=ld.lld"]);
                cargo
            }
        };
        cargo.current_dir(crate::folders::root());
        cargo.args([command, "--target", target]).arg("--target-dir").arg(crate::folders::bare_folder());
        if self != Toolchain::Installed {
            cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core,alloc");
        }
        let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
        cargo.env(variable, flags.join(" "));
        cargo
    }
}

/// The folder of a compiler's libraries.
fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).stderr(Stdio::null()).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

/// A compiler's minor version: 95 in 1.95.0.
fn version(mut rustc: Command) -> Option<u32> {
    let output = rustc.arg("--version").stderr(Stdio::null()).output().ok()?;
    minor(&String::from_utf8(output.stdout).ok()?)
}

/// The minor version in `rustc 1.95.0 (…)`.
pub(crate) fn minor(text: &str) -> Option<u32> {
    text.split_whitespace().nth(1)?.split('.').nth(1)?.parse().ok()
}

/// Whether the standard library's source is there.
fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// Whether the toolchain includes the linker that bare-metal targets request. (Debian's does not.)
fn has_linker(sysroot: &Path) -> bool {
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
    hosts.map(|host| host.path().join("bin/rust-lld")).any(|linker| linker.is_file())
}

/// The log file for the output of [`logged`].
pub(crate) fn log_of(what: &str) -> Result<PathBuf> {
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(crate::folders::log_folder()?.join(format!("{name}.log")))
}

/// Runs a command to its end with its output in `log`; errors quote its last lines.
pub(crate) fn logged(
    mut command: Command,
    what: &str,
    limit: std::time::Duration,
) -> Result<qemu_tests::process::Output> {
    let log = log_of(what)?;
    qemu_tests::process::run(&mut command, limit, &log).with_context(|| format!("{what} failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_all_forms() {
        assert_eq!(minor("rustc 1.95.0 (f2d3ce0bd 2026-03-21)"), Some(95));
        assert_eq!(minor("rustc 1.96.0-nightly"), Some(96));
        assert_eq!(minor("not rustc"), None);
        assert_eq!(minor(""), None);
    }

    #[test]
    fn tools_come_from_the_folder_of_the_cargo_that_runs_us_whatever_is_first_in_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let cargo = Some(folder.path().join("cargo").into_os_string());
        assert_eq!(folder_of(cargo.clone()), None);
        std::fs::write(folder.path().join("rustc"), "").unwrap();
        assert_eq!(folder_of(cargo).as_deref(), Some(folder.path()));
        assert_eq!(folder_of(None), None);
        // A cargo also runs the tests.
        if let Some(folder) = folder_of(std::env::var_os("CARGO")) {
            let command = clean("cargo");
            let path = command.get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap();
            assert_eq!(std::env::split_paths(path).next(), Some(folder));
        }
    }

    #[test]
    fn a_bare_build_inherits_no_compiler_choice() {
        let command = Toolchain::Debian.cargo("build", "x86_64-unknown-none", &["-C", "a=b"]);
        let variables: Vec<_> = command.get_envs().collect();
        let value = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).and_then(|(_, value)| *value).map(|v| v.to_owned())
        };
        assert_eq!(value("RUSTUP_TOOLCHAIN"), None);
        assert!(variables.iter().any(|(key, value)| *key == "RUSTUP_TOOLCHAIN" && value.is_none()));
        assert_eq!(value("RUSTC").unwrap(), "/usr/bin/rustc");
        assert_eq!(value("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS").unwrap(), "-C a=b -C linker=ld.lld");
    }
}

//! Rust's own items: targets and components of the toolchain, crates, and bindgen.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::work::{watched, work};
use crate::CannotBegin;
use crate::toolchain::{self, TARGETS, Toolchain, clean, host_cargo};
use crate::ui::{self, Mark};

/// A bindgen that current kernels accept; Debian's is too old.
pub(super) const BINDGEN: &str = "0.71.1";

/// The missing items of the active toolchain, by rustup's names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Lacking {
    /// Targets that no toolchain here can build for.
    pub(super) targets: Vec<&'static str>,
    /// Targets that can only be built with core's source: with a prebuilt library they build faster, and
    /// clippy checks them.
    pub(super) slow: Vec<&'static str>,
    /// Components.
    pub(super) components: Vec<&'static str>,
}

impl Lacking {
    /// The missing items for building for these targets, for building core for a kernel, and for checking the
    /// sources.
    pub(super) fn look(targets: &[&'static str], needs: Components) -> Lacking {
        let mut lacking = Lacking::default();
        for &target in targets {
            match Toolchain::find(target) {
                None => lacking.targets.push(target),
                Some(Toolchain::Installed) => {}
                Some(_) => lacking.slow.push(target),
            }
        }
        if needs.source && Toolchain::with_source().is_none() {
            lacking.components.push("rust-src");
        }
        if needs.lints {
            let has = |name: &str| {
                let output = host_cargo().args([name, "--version"]).output();
                output.is_ok_and(|output| output.status.success())
            };
            lacking.components.extend(
                ["clippy", "fmt"]
                    .into_iter()
                    .filter(|name| !has(name))
                    .map(|name| if name == "fmt" { "rustfmt" } else { name }),
            );
        }
        lacking
    }

    /// Whether no step fails for want of something.
    pub(super) fn nothing(&self) -> bool {
        self.targets.is_empty() && self.components.is_empty()
    }

    /// The commands for a user of rustup.
    pub(super) fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.targets.is_empty() {
            commands.push(format!("rustup target add {}", self.targets.join(" ")));
        }
        if !self.components.is_empty() {
            commands.push(format!("rustup component add {}", self.components.join(" ")));
        }
        commands
    }

    /// Asks rustup to add them. It cannot tell beforehand whether its server is reachable; check again
    /// afterwards.
    pub(super) fn ask_rustup(&self) {
        let Some(rustup) = rustup() else { return };
        let targets: Vec<&str> = self.targets.iter().chain(&self.slow).copied().collect();
        for (what, kind, names) in [
            ("rustup target add", "target", &targets),
            ("rustup component add", "component", &self.components),
        ] {
            if names.is_empty() {
                continue;
            }
            let begin = Instant::now();
            ui::running(what);
            let mut command = clean(&rustup);
            // Offline it must give up soon, as there are other ways.
            command.args([kind, "add"]).args(names).env("RUSTUP_MAX_RETRIES", "0");
            if let Some(name) = toolchain::active_name() {
                command.args(["--toolchain", &name]);
            }
            let result = watched(command, what, Duration::from_secs(300))
                .and_then(|output| output.success(what).map(|_| ()));
            let took = Some(begin.elapsed());
            match result {
                Ok(()) => ui::done(Mark::Ok, what, &names.join(" "), took),
                Err(_) => {
                    let log = toolchain::log_of(what).unwrap_or_default().with_added_extension("err");
                    let facts =
                        format!("rustup could not install {}; log: {}", names.join(" "), log.display());
                    ui::done(Mark::Skipped, what, &facts, took);
                }
            }
        }
    }
}

/// The needs of a task from the toolchain, besides targets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Components {
    /// The source of core, to build it for a kernel.
    pub(super) source: bool,
    /// rustfmt and clippy.
    pub(super) lints: bool,
}

/// rustup, which is not always in the path of a user who runs its cargo.
pub(crate) fn rustup() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|folder| folder.join("rustup"))
        .find(|program| program.is_file())
}

/// `cargo fetch` for everything built here for these targets, and for this machine.
fn fetch(more: &[&str]) -> Command {
    let mut cargo = host_cargo();
    cargo.args(["fetch", "--locked", "--quiet"]).args(more);
    for target in toolchain::host().iter().map(String::as_str).chain(TARGETS) {
        cargo.args(["--target", target]);
    }
    cargo
}

/// Whether a crate in Cargo.lock is not on this machine yet.
pub(super) fn lacks_crates() -> bool {
    let output = fetch(&["--offline"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    !output.is_ok_and(|status| status.success())
}

/// Downloads them.
pub(super) fn bring_crates() -> Result<()> {
    work("cargo fetch", "the crates in Cargo.lock", || {
        let output = watched(fetch(&[]), "cargo fetch", Duration::from_secs(600))?;
        output.success("cargo fetch").map_err(|error| CannotBegin(format!("{error:#}")))?;
        Ok(())
    })
}

/// The folder of our own bindgen.
fn own_bindgen() -> Result<PathBuf> {
    Ok(qemu_tests::linux::cache()?.with_file_name("bindgen").join("bin/bindgen"))
}

/// A bindgen that a kernel accepts: from the path, or one that was built here before.
pub(super) fn bindgen() -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join("bindgen")).chain([own_bindgen()?]);
    Ok(found.find(|program| young(program)))
}

/// Whether a kernel accepts this bindgen.
fn young(bindgen: &Path) -> bool {
    let Ok(output) = Command::new(bindgen).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&output.stdout);
    toolchain::minor(&said) >= toolchain::minor(&format!("bindgen {BINDGEN}"))
}

/// Builds bindgen into the cache.
pub(super) fn bring_bindgen() -> Result<()> {
    let own = own_bindgen()?;
    let folder = own.parent().and_then(Path::parent).context("a cache without a folder")?.to_path_buf();
    work("cargo install bindgen-cli", &folder.to_string_lossy(), || {
        // Without optimisations it builds in a third of the time.
        let mut cargo = host_cargo();
        cargo
            .args(["install", "bindgen-cli", "--locked", "--debug", "--version", BINDGEN, "--root"])
            .arg(&folder);
        let output = watched(cargo, "cargo install bindgen-cli", Duration::from_secs(900))?;
        output.success("cargo install bindgen-cli").map_err(|error| CannotBegin(format!("{error:#}")))?;
        Ok(())
    })
}

//! `cargo xtask deb`: savecore as a Debian package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::CannotBegin;
use crate::build::{BUILD_LIMIT, executable};
use crate::folders::root;
use crate::toolchain::{clean, host_cargo, logged};
use crate::ui::{self, Mark};

/// File names of the shell completions.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "savecore.bash"), ("zsh", "_savecore"), ("fish", "savecore.fish")];

/// A packager that takes longer has hung: it strips and compresses.
const LIMIT: Duration = Duration::from_secs(600);

/// The task: builds savecore, generates its man pages and completions, and packages everything.
pub(crate) fn task() -> Result<bool> {
    ui::section("deb");
    package().map(|_| true)
}

/// Makes the package; returns its path.
pub(crate) fn package() -> Result<PathBuf> {
    if !Command::new("cargo-deb").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Err(
            CannotBegin("missing: cargo-deb; by hand: cargo install --locked cargo-deb".to_owned()).into()
        );
    }
    let begin = Instant::now();
    ui::running("savecore");
    let program = build()?;
    ui::done(Mark::Ok, "savecore", "release build", Some(begin.elapsed()));
    // The package's description expects this folder, whichever target folder cargo uses.
    let folder = root().join("target/deb");
    pages(&program, &folder)?;
    ui::done(Mark::Ok, "pages", "manual pages, completions", None);
    let mut cargo = host_cargo();
    cargo.args(["deb", "--package", "savecore", "--no-build", "--strip", "--quiet"]);
    let output = logged(cargo, "cargo deb", LIMIT)?.success("cargo deb")?;
    let package = output.stdout.lines().last().unwrap_or_default().to_owned();
    ui::done(Mark::Ok, "package", &package, None);
    Ok(PathBuf::from(package))
}

/// Builds savecore for release; returns its path.
fn build() -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(["build", "--release", "--quiet", "--package", "savecore", "--bin", "savecore"]);
    cargo.arg("--message-format=json");
    let output =
        logged(cargo, "build savecore for its package", BUILD_LIMIT)?.success("building savecore")?;
    executable(&output.stdout, "savecore").context("cargo did not say where it put savecore")
}

/// Lets savecore generate the files that follow from its arguments.
fn pages(program: &Path, folder: &Path) -> Result<()> {
    let man = folder.join("man");
    // Removes the pages of commands that no longer exist.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(&man).with_context(|| format!("cannot create {}", man.display()))?;
    let mut savecore = clean(program);
    savecore.arg("man").arg(&man);
    logged(savecore, "savecore man", LIMIT)?.success("savecore man")?;
    for (shell, name) in COMPLETIONS {
        let mut savecore = clean(program);
        savecore.args(["completions", shell]);
        let output = logged(savecore, "savecore completions", LIMIT)?.success("savecore completions")?;
        let path = folder.join(name);
        fs::write(&path, output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

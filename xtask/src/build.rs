//! Builds the programs that the other tasks run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_tests::scenarios::{Build, Kernel, Programs};

use crate::folders::target_folder;
use crate::toolchain::{Toolchain, host_cargo, logged};

/// A build that takes longer has hung.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// rustc's flags for the test kernel: it runs at a fixed address, and its stacks can be walked.
pub(crate) const KERNEL_FLAGS: &[&str] = &["-C", "relocation-model=static", "-C", "force-frame-pointers=yes"];

/// Names an existing savecore, so that none is built.
pub(crate) const SAVECORE: &str = "DISKDUMP_SAVECORE";

/// Builds savecore, unless [`SAVECORE`] names one; returns its path.
pub(crate) fn savecore() -> Result<PathBuf> {
    match std::env::var_os(SAVECORE) {
        Some(path) => Ok(path.into()),
        None => savecore_with(&["build", "--package", "savecore", "--bin", "savecore"]),
    }
}

/// Builds savecore as its tests run it; returns its path. The tests enable more features of shared
/// dependencies, so once they are built this savecore exists, while [`savecore`] would rebuild a good part of
/// it.
pub(crate) fn savecore_of_tests() -> Result<PathBuf> {
    // No package is named, so that features are those of the whole workspace, and no crate is built twice.
    savecore_with(&["test", "--no-run", "--test", "it"])
}

/// Builds savecore as it is installed; returns its path.
pub(crate) fn savecore_release() -> Result<PathBuf> {
    savecore_with(&["build", "--package", "savecore", "--bin", "savecore", "--release"])
}

fn savecore_with(words: &[&str]) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(words).args(["--quiet", "--message-format=json"]);
    let output = logged(cargo, "build savecore", BUILD_LIMIT)?.success("building savecore")?;
    executable(&output.stdout, "savecore").context("cargo did not say where it put savecore")
}

/// Builds a test kernel; returns its path.
pub(crate) fn kernel(build: Build) -> Result<PathBuf> {
    let Build { architecture, profile } = build;
    let target = architecture.target;
    let toolchain = Toolchain::need(target)?;
    let mut cargo = toolchain.cargo("build", target, KERNEL_FLAGS);
    cargo.args(["--profile", profile.name(), "--quiet", "--package", "test-kernel", "--message-format=json"]);
    let what = format!("the test kernel for {}, {}", architecture.name, profile.name());
    let log = format!("build test-kernel {} {}", architecture.name, profile.name());
    let output = logged(cargo, &log, BUILD_LIMIT)?.success(&format!("building {what}"))?;
    executable(&output.stdout, "test-kernel")
        .with_context(|| format!("cargo did not say where it put {what}"))
}

/// Lints a bare-metal package for a target: with clippy if the toolchain has it, else with the compiler's own
/// warnings. Returns which of them.
pub(crate) fn lint(package: &str, target: &str) -> Result<&'static str> {
    let toolchain = Toolchain::need(target)?;
    let clippy = toolchain != Toolchain::Debian || Path::new("/usr/bin/cargo-clippy").exists();
    let (command, last, with) = if !clippy {
        (
            "rustc",
            &["--", "--deny", "warnings", "--emit=metadata"][..],
            "the compiler's warnings, since rust-web-clippy is not installed",
        )
    } else {
        ("clippy", &["--", "--deny", "warnings"][..], "")
    };
    let mut cargo = toolchain.cargo(command, target, KERNEL_FLAGS);
    cargo.args(["--release", "--quiet", "--package", package]).args(last);
    let what = format!("lint {package}");
    logged(cargo, &what, BUILD_LIMIT)?.success(&what)?;
    Ok(with)
}

/// Builds dumpcore and the drivers for a bare-metal target, as a kernel would.
pub(crate) fn libraries(target: &str) -> Result<()> {
    let toolchain = Toolchain::need(target)?;
    // The test kernel's flags, so that it can reuse these builds.
    let mut cargo = toolchain.cargo("build", target, KERNEL_FLAGS);
    cargo.args(["--release", "--quiet", "--lib", "--package", "dumpcore", "--package", "dump-drivers"]);
    logged(cargo, &format!("build for {target}"), BUILD_LIMIT)?.success(&format!("building for {target}"))?;
    Ok(())
}

/// Packages, and the features with which alone each has to build.
const FEATURES: [(&str, &str); 6] = [
    ("dumpcore", ""),
    ("dump-drivers", ""),
    ("dump-drivers", "ahci"),
    ("dump-drivers", "ata"),
    ("dump-drivers", "nvme"),
    ("dump-drivers", "virtio"),
];

/// Builds what a kernel may do without: dumpcore without encryption, the drivers without the others.
pub(crate) fn features(target: &str) -> Result<()> {
    let toolchain = Toolchain::need(target)?;
    for (package, features) in FEATURES {
        let mut cargo = toolchain.cargo("rustc", target, KERNEL_FLAGS);
        cargo.args(["--release", "--quiet", "--lib", "--package", package, "--no-default-features"]);
        cargo.args(["--features", features, "--", "--deny", "warnings", "--emit=metadata"]);
        let what = format!("{package} with the features \"{features}\" alone");
        logged(cargo, &what, BUILD_LIMIT)?.success(&what)?;
    }
    Ok(())
}

/// Builds these test kernels and savecore.
pub(crate) fn programs(builds: impl IntoIterator<Item = Build>) -> Result<Programs> {
    programs_with(builds, savecore()?)
}

/// As [`programs`], with an existing savecore.
pub(crate) fn programs_with(builds: impl IntoIterator<Item = Build>, savecore: PathBuf) -> Result<Programs> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for build in builds {
        if kernels.iter().all(|kernel| kernel.build != build) {
            kernels.push(Kernel { build, path: kernel(build)? });
        }
    }
    Ok(Programs { kernels, savecore, folder: target_folder().join("qemu") })
}

/// The program `name` in cargo's JSON messages (The Cargo Book, "External tools").
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_other_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"other\"},\"executable\":\"/x\"}\n\
                        noise\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"savecore\"},\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"savecore\"},\"executable\":\"/y\"}\n";
        assert_eq!(executable(messages, "savecore"), Some(PathBuf::from("/y")));
        assert_eq!(executable(messages, "third"), None);
    }
}

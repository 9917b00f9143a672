//! Debian's packages: which program is in which, what apt says of them, and their installation.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{has_libclang, in_path, watched, work};
use crate::CannotBegin;

/// A program that is needed, and the Debian package that it is in.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
}

/// What the demo runs.
pub(super) static DEMO: [Tool; 2] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    // It knows all architectures.
    Tool { program: "gdb-multiarch", package: "gdb-multiarch" },
];

/// What the QEMU matrix runs beside that.
pub(super) static MATRIX: [Tool; 3] = [
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    // With it comes OpenSBI, the firmware of QEMU's riscv64 machine.
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    Tool { program: "readelf", package: "binutils" },
];

/// Other people's programs that judge what savecore makes: they open its cores and reports, and watch its system calls. And what the
/// Linux that is judged is made with.
pub(super) static JUDGES: [Tool; 9] = [
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
pub(super) static KERNEL: [Tool; 3] = [
    Tool { program: "flex", package: "flex" },
    Tool { program: "bison", package: "bison" },
    Tool { program: "bc", package: "bc" },
];

/// What whole Debians are made of and packed with.
pub(super) static SYSTEM: [Tool; 4] = [
    Tool { program: "/usr/sbin/debootstrap", package: "debootstrap" },
    Tool { program: "/usr/sbin/debugfs", package: "e2fsprogs" },
    Tool { program: "make", package: "make" },
    Tool { program: "strip", package: "binutils" },
];

/// Debian's own Rust, for machines without rustup.
pub(super) const RUST: [&str; 6] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "rustfmt-web", "lld"];

/// The packages of those programs that are not there.
pub(super) fn lacking<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> Vec<&'static str> {
    tools.into_iter().filter(|tool| !in_path(tool.program)).map(|tool| tool.package).collect()
}

/// The libraries that a kernel with Rust is built with and that are not there.
pub(super) fn lacking_libraries() -> Vec<&'static str> {
    let mut packages = Vec::new();
    if !Path::new("/usr/include/libelf.h").is_file() {
        packages.push("libelf-dev");
    }
    if !has_libclang() {
        packages.push("libclang1");
    }
    packages
}

/// What apt would download.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Sizes {
    /// The packages in all: those that were asked for, and what they need.
    pub(super) packages: usize,
    /// Their size.
    pub(super) bytes: u64,
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// How packages are installed: nothing that somebody has installed is removed for them.
const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "--no-remove"];

/// What apt would download for these. Needs no root.
///
/// # Errors
/// [`CannotBegin`] with apt's reason, if it would not install them.
pub(super) fn sizes(packages: &[&str]) -> Result<Sizes> {
    if packages.is_empty() {
        return Ok(Sizes::default());
    }
    let output = apt_get(&[&INSTALL[..], &["-qq", "--print-uris"], packages].concat()).output();
    let output = output.map_err(|error| CannotBegin(format!("cannot run apt-get: {error}")))?;
    if !output.status.success() {
        let why = reason(&String::from_utf8_lossy(&output.stderr));
        return Err(CannotBegin(format!(
            "apt does not install {}: {why}; to see all it says: apt-get install --no-install-recommends {}",
            packages.join(" "),
            packages.join(" ")
        ))
        .into());
    }
    Ok(sum(&String::from_utf8_lossy(&output.stdout)))
}

/// Adds up what `apt-get --print-uris` says: `'URI' FILE BYTES SUM`, a line for each.
fn sum(said: &str) -> Sizes {
    let bytes =
        |line: &str| line.strip_prefix('\'')?.split_once('\'')?.1.split_whitespace().nth(1)?.parse().ok();
    let all: Vec<u64> = said.lines().filter_map(bytes).collect();
    Sizes { packages: all.len(), bytes: all.iter().sum() }
}

/// Brings apt's lists up to date.
///
/// # Errors
/// [`CannotBegin`] if no archive can be reached at all; a single one that cannot may be of no use here.
pub(super) fn update() -> Result<()> {
    work("apt-get update", "", || {
        let output = watched(apt_get(&["update"]), "apt-get update", Duration::from_secs(300))?;
        let reached = output.stdout.lines().any(|line| line.starts_with("Hit:") || line.starts_with("Get:"));
        if !reached {
            return Err(CannotBegin(format!(
                "apt reaches no archive: {}; let this machine reach Debian's, then again",
                reason(&output.stderr)
            ))
            .into());
        }
        Ok(())
    })
}

/// Installs these; all is downloaded before the first is unpacked.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    work("apt-get install", &packages.join(" "), || {
        let command = apt_get(&[&INSTALL[..], packages].concat());
        let output = watched(command, "apt-get install", Duration::from_secs(1800))?;
        if !output.status.success() {
            let (why, log) = (reason(&output.stderr), output.log.display());
            return Err(CannotBegin(format!("apt-get install failed: {why}; log: {log}")).into());
        }
        Ok(())
    })
}

/// Why apt gave up: its first complaint, and not its last advice.
fn reason(said: &str) -> String {
    let complaint = said.lines().find_map(|line| {
        let (kind, text) = line.split_once(": ")?;
        (kind == "E" || kind == "W" && text.starts_with("Failed")).then_some(text)
    });
    complaint.unwrap_or("it does not say why").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_lines_with_an_address() {
        let said = "Reading package lists...\n\
                    'http://deb.debian.org/a/crash_8.0.2-1_amd64.deb' crash_8.0.2-1_amd64.deb 3902452 MD5Sum:68bd\n\
                    'http://deb.debian.org/a/b%2bb1_amd64.deb' b_1%3a1_amd64.deb 8 SHA256:3d3f\n\n";
        assert_eq!(sum(said), Sizes { packages: 2, bytes: 3_902_460 });
        assert_eq!(sum(""), Sizes::default());
    }

    #[test]
    fn the_reason_is_the_first_complaint() {
        let said = "W: be careful\nE: Failed to fetch http://a/b.deb  404  Not Found [IP: 1.2.3.4 80]\n\
                    E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n";
        assert_eq!(reason(said), "Failed to fetch http://a/b.deb 404 Not Found [IP: 1.2.3.4 80]");
        let said = "W: Failed to fetch http://a/InRelease  Temporary failure resolving 'a'\nW: Some index files failed to download.\n";
        assert_eq!(reason(said), "Failed to fetch http://a/InRelease Temporary failure resolving 'a'");
        assert_eq!(reason(""), "it does not say why");
    }
}

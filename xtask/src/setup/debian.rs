//! Debian's packages: which program is in which.

use std::path::Path;

use super::machine::{has_libclang, in_path};

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

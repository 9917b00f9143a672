//! Debian's packages for each program.

use std::path::Path;

use super::machine::{has_libclang, in_path};

/// A program, and its Debian package.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
}

/// Programs for the demo.
pub(super) static DEMO: [Tool; 2] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    // It supports all architectures.
    Tool { program: "gdb-multiarch", package: "gdb-multiarch" },
];

/// Additional programs for the QEMU matrix.
pub(super) static MATRIX: [Tool; 3] = [
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    // This package includes OpenSBI, the firmware of QEMU's riscv64 machine.
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    Tool { program: "readelf", package: "binutils" },
];

/// Other people's programs that judge savecore's output: they open its cores and reports, and trace its
/// system calls. And programs for building the Linux under test.
pub(super) static JUDGES: [Tool; 9] = [
    Tool { program: "crash", package: "crash" },
    Tool { program: "makedumpfile", package: "makedumpfile" },
    Tool { program: "chromium", package: "chromium" },
    Tool { program: "strace", package: "strace" },
    // Checks savecore's units; the package also includes what runs them in a guest.
    Tool { program: "systemd-analyze", package: "systemd" },
    // Builds modules for Debian's kernels, and unpacks these kernels. (libelf, which objtool needs, comes
    // with gdb.)
    Tool { program: "gcc-12", package: "gcc-12" },
    Tool { program: "make", package: "make" },
    Tool { program: "xz", package: "xz-utils" },
    // Creates the file system for a guest's cores, and extracts them; not in every user's path.
    Tool { program: "/usr/sbin/debugfs", package: "e2fsprogs" },
];

/// Additional programs to [`JUDGES`] for building a kernel with Rust.
pub(super) static KERNEL: [Tool; 3] = [
    Tool { program: "flex", package: "flex" },
    Tool { program: "bison", package: "bison" },
    Tool { program: "bc", package: "bc" },
];

/// Programs for building and packing whole Debian systems.
pub(super) static SYSTEM: [Tool; 4] = [
    Tool { program: "/usr/sbin/debootstrap", package: "debootstrap" },
    Tool { program: "/usr/sbin/debugfs", package: "e2fsprogs" },
    Tool { program: "make", package: "make" },
    Tool { program: "strip", package: "binutils" },
];

/// Debian's own Rust, for machines without rustup.
pub(super) const RUST: [&str; 6] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "rustfmt-web", "lld"];

/// The packages of the missing programs.
pub(super) fn lacking<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> Vec<&'static str> {
    tools.into_iter().filter(|tool| !in_path(tool.program)).map(|tool| tool.package).collect()
}

/// The missing libraries for building a kernel with Rust.
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

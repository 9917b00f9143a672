//! Hands the linker script to the linker, when the kernel is built as a kernel.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rerun-if-changed=src/arch");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let architecture = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let layout = root.join("src/arch").join(architecture).join("layout.ld");
    println!("cargo:rustc-link-arg-bins=-T{}", layout.display());
    // Where the layout finds what it includes.
    println!("cargo:rustc-link-arg-bins=-L{}", root.display());
    // savecore matches a dump to its kernel by this note.
    println!("cargo:rustc-link-arg-bins=--build-id=sha1");
    // Pages of text, read-only data and data are mapped apart, so each begins on a page of its own.
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}

//! Hands the linker script to the linker, when the kernel is built as a kernel.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=linker.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rustc-link-arg-bins=-T{}", root.join("linker.ld").display());
    // savecore matches a dump to its kernel by this note.
    println!("cargo:rustc-link-arg-bins=--build-id=sha1");
    // Pages of text, read-only data and data are mapped apart, so each begins on a page of its own.
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}

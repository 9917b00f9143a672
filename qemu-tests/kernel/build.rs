//! Passes the linker script to the linker when building for bare metal.

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
    // So that the linker script finds its includes.
    println!("cargo:rustc-link-arg-bins=-L{}", root.display());
    // savecore matches a dump to its kernel by this note.
    println!("cargo:rustc-link-arg-bins=--build-id=sha1");
    // Text, read-only data and data are mapped separately, so each must begin on its own page.
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}

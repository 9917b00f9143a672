//! What the linker has to be told, when this is built for bare metal.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // Who refers to whom, for the report of a panic that was found.
        println!("cargo:rustc-link-arg-bins=--emit-relocs");
    }
}

//! Linker options for building on bare metal.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // References between symbols, for the report of a reachable panic.
        println!("cargo:rustc-link-arg-bins=--emit-relocs");
    }
}

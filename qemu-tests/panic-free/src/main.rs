//! The dump path and nothing else, linked for bare metal. It is never run: `cargo xtask test` reads its symbol table.
//! If a panic can be reached from the roots here, then the linker keeps the panic handler; if none can, it drops it.
//!
//! The optimiser must not know more than it knows in a kernel. So the dump, the platform and all arguments come
//! from outside, as arguments of the entry; `arm()` is not a root, since it may panic.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod outside;
#[cfg(target_os = "none")]
mod roots;

/// On a host there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("panic-free is not a program: `cargo xtask test` builds it and looks at what was linked");
    std::process::ExitCode::from(2)
}

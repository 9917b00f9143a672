//! The dump path and nothing else, linked for bare metal. It is never run: `cargo xtask test` reads its
//! symbol table. The linker keeps the panic handler only if a panic is reachable from the roots here.
//!
//! The optimiser must not know more than it does in a kernel. So the dump, the platform and all arguments
//! come from outside, as arguments of the entry. `arm()` is not a root, because it may panic.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod outside;
#[cfg(target_os = "none")]
mod roots;

/// There is nothing to run on a host.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("panic-free is not a program: `cargo xtask test` builds it and looks at what was linked");
    std::process::ExitCode::from(2)
}

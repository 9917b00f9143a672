//! The test kernel: boots in QEMU with 1 to 8 CPUs, arms a dump, and crashes as its command line says.
//!
//! It is also an example of what a small kernel needs for crash dumps. The author's part is one `impl
//! dumpcore::Platform` (`platform.rs`), one call to `arm` (`arm.rs`) and one to `crash` (`panic.rs`). The
//! rest is a kernel like any other:
//!
//! | file | contents |
//! | --- | --- |
//! | `start.rs` | the order in which the kernel starts |
//! | `arch/` | one folder per architecture: entry, page tables, exceptions, CPUs, clock, buses |
//! | `command_line.rs` | its options |
//! | `memory/`, `heap.rs`, `log.rs` | RAM and its classes, the heap, the kernel log |
//! | `platform.rs` | the platform for the dump |
//! | `dump.rs` | the dump itself |
//! | `stop.rs` | stopping the other CPUs, which then help, and resuming them |
//! | `watchdog.rs` | a hardware watchdog |
//! | `deferred.rs` | timers and tasklets |
//! | `disks.rs`, `device.rs` | the disks that can receive a dump, and their drivers |
//! | `arm.rs` | arming the dump, while healthy |
//! | `panic.rs`, `end.rs` | the ways into the dump, and what happens after it |
//! | `witness.rs` | data that a debugger must find in the core |
//! | `scenario/` | the ways to crash, and the benchmarks |
//!
//! The test harness reads lines on the serial console that begin with `testkernel: `.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod arm;
#[cfg(target_os = "none")]
mod command_line;
#[cfg(target_os = "none")]
mod deferred;
#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod disks;
#[cfg(target_os = "none")]
mod dump;
#[cfg(target_os = "none")]
mod end;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod scenario;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod stop;
#[cfg(target_os = "none")]
mod watchdog;
#[cfg(target_os = "none")]
mod witness;

/// There is nothing to run on a host.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("test-kernel is a kernel, not a program: run it in QEMU with `cargo xtask qemu`");
    std::process::ExitCode::from(2)
}

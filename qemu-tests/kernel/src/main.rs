//! The test kernel: boots in QEMU with 1 to 8 CPUs, arms a dump, and crashes as its command line says.
//!
//! It is an example too: this is what a small kernel needs in order to have crash dumps. Its author's part is
//! one `impl dumpcore::Platform` (`platform.rs`), one call of `arm` (`arm.rs`) and one of `crash`
//! (`panic.rs`). The rest is a kernel like any other:
//!
//! | file | what it tells |
//! | --- | --- |
//! | `start.rs` | the order in which the kernel comes up |
//! | `arch/` | one folder per architecture: entry, page tables, exceptions, CPUs, clock, buses |
//! | `command_line.rs` | what can be asked of it |
//! | `memory/`, `heap.rs`, `log.rs` | RAM and what it is used for, the heap, the kernel log |
//! | `platform.rs` | what the kernel lends to the dump |
//! | `dump.rs` | the dump itself |
//! | `stop.rs` | stopping the other CPUs, which then help, and letting them go on |
//! | `watchdog.rs` | a hardware watchdog |
//! | `deferred.rs` | timers and tasklets |
//! | `disks.rs`, `device.rs` | the disks that can receive a dump, and their drivers |
//! | `arm.rs` | arming the dump, while healthy |
//! | `panic.rs`, `end.rs` | the ways into the dump, and what happens after it |
//! | `witness.rs` | what a debugger must find in the core |
//! | `scenario/` | the ways to crash, and the benches |
//!
//! Lines on the serial console that begin with `testkernel: ` are read by the test harness.

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

/// On a host there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("test-kernel is a kernel, not a program: run it in QEMU with `cargo xtask qemu`");
    std::process::ExitCode::from(2)
}

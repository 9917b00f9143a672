//! diskdump in a stock Linux kernel: what `shim.c` calls, and what it lends.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `kernel` | what C lends: memory, disks, clocks, the log |
//! | `arming` | words become an armed dump, and are taken back |
//! | `disks` | a block device of the kernel becomes a polled one of ours |
//! | `freeze` | the other CPUs are stopped by an NMI, and help |
//! | `apic` | the interrupt controller of this CPU |
//! | `panic` | the kernel panics: the dump |
//! | `side` | the dump that is armed, and the one that is armed in its stead |
//! | `linux` | the `Platform` |
//! | `console`, `log`, `lent` | a serial port; the kernel's log; what a dump changes |

#![cfg(target_os = "none")]
#![no_std]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::arithmetic_side_effects,
    clippy::string_slice
)]

mod apic;
mod arming;
mod console;
mod disks;
mod freeze;
mod kernel;
mod lent;
mod linux;
mod log;
mod panic;
mod side;

/// No panic can be reached. Should there be one all the same, it must not unwind into C: the kernel sees an invalid
/// instruction, and goes on with that as it does with any oops.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends here, whatever it does.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

//! diskdump in a stock Linux kernel: what `shim.c` calls, and what it lends.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `kernel` | what C lends: memory, disks, clocks, the log |
//! | `sysfs`, `page` | what is written to `/sys/kernel/diskdump` and read from there; text of a fixed length |
//! | `arm` | words become an armed dump, and are taken back |
//! | `last` | what became of the last dump |
//! | `disks` | a block device of the kernel becomes a polled one of ours |
//! | `panic` | the kernel panics: the dump |
//! | `stop` | the other CPUs are stopped by an NMI |
//! | `nmi`, `guard` | what a stopped CPU does: it helps; it resets the machine if nobody else does |
//! | `cpus`, `notes` | a slot for each CPU, with its registers; the kernel's crash notes |
//! | `apic` | the interrupt controller of this CPU |
//! | `side` | the dump that is armed, and the one that is armed in its stead |
//! | `platform` | the `Platform` |
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
mod arm;
mod console;
mod cpus;
mod disks;
mod guard;
mod kernel;
mod last;
mod lent;
mod log;
mod nmi;
mod notes;
mod page;
mod panic;
mod platform;
mod side;
mod stop;
mod sysfs;

/// No panic can be reached. Should there be one all the same, it must not unwind into C: the kernel sees an invalid
/// instruction, and goes on with that as it does with any oops.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends here, whatever it does.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

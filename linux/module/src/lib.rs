//! diskdump in a stock Linux kernel: the functions that `shim.c` calls, and the platform.
//!
//! | file | contents |
//! | --- | --- |
//! | `kernel` | the interface to C: memory, disks, clocks, the log |
//! | `sysfs`, `page` | commands and texts in `/sys/kernel/diskdump`; text in a fixed buffer |
//! | `arm` | arming and disarming |
//! | `last` | the fate of the last dump |
//! | `disks` | our own polled driver for a block device of the kernel |
//! | `panic` | the panic path |
//! | `stop` | stopping the other CPUs by an NMI |
//! | `nmi`, `guard` | a stopped CPU helps; it resets the machine if the panic notifiers hang |
//! | `cpus`, `notes` | a slot for each CPU, with its registers; the kernel's crash notes |
//! | `apic` | the local APIC of this CPU |
//! | `side` | the armed dump, and the one being armed to replace it |
//! | `platform` | the `Platform` |
//! | `console`, `log`, `lent` | the dump's console; the kernel's log; the module's state in the arena |

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

/// No panic is reachable. If one happened nevertheless, it must not unwind into C: the kernel sees an invalid
/// instruction and handles it like any oops.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: does not return.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

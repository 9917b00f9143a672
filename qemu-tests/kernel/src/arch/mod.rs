//! What depends on the processor and its machine: one folder per architecture, with the same names in each. Nothing outside
//! of this folder knows which one it is.
//!
//! | name | what every architecture offers there |
//! | --- | --- |
//! | `boot` | the entry, which calls `kernel_start`; `read`: what the machine handed over, a [`BootInfo`] |
//! | `bring_up` | from the boot page tables to all CPUs running, in an order of its own; after `memory::init` |
//! | `interrupts` | exceptions, which become crashes; `load` makes this CPU take them; `stand_aside` |
//! | `irq` | interrupts of devices, for normal drivers: `register`, `enable` |
//! | `paging` | page tables: the direct map (`direct`, `physical`), `map_physical`, `hide`, `refresh` |
//! | `cache` | `clean` and `invalidate`, for devices that do not look into the CPUs' caches |
//! | `stack` | the CPUs' stacks (`all`, `bottom`), the stack pointer, `call_on` another stack |
//! | `cpu` | which CPU is this (`number`, `count`); `halt`, `disable_interrupts` |
//! | `idle` | `rest` until something happens, `nap` for a time |
//! | `smp` | other CPUs: `ask_to_stop`, `wake` |
//! | `registers` | a CPU's registers as a dump has them: `here` |
//! | `guard` | reading what may not be readable: `copy`, `probe`; `oops`, `store!` |
//! | `clock` | `now`, `pause`, `wall_clock` |
//! | `random` | `fill` with numbers that nobody can guess |
//! | `serial` | the console's bytes: `init`, `put`; [`console`] makes text of them |
//! | `power` | `reset`, `power_off`, `exit` |
//! | `pci` | configuration space: the type `Config`, `config`, `read8`, `write8` |
//! | `hotplug` | `eject_if_asked` |
//! | `virtio_mmio` | physical addresses of the registers of virtio devices that are on no bus (virtio 1.2, 4.2) |
//! | `MISSING` | words of the command line, or their keys, that ask for what the machine does not have |

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod console;
#[cfg(target_arch = "riscv64")]
mod riscv64;
mod upcalls;
#[cfg(not(target_arch = "x86_64"))]
mod virt;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub(crate) use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

use crate::memory::RamMap;

/// CPUs that the kernel serves, at most.
pub(crate) const MAX_CPUS: usize = 8;

/// What the machine handed over at the entry, copied out of the memory that it lay in.
pub(crate) struct BootInfo {
    /// The command line.
    pub(crate) command_line: &'static str,
    /// RAM that the firmware left to the kernel.
    pub(crate) ram: RamMap,
    /// What of it the kernel must not use for anything else. It is dumped all the same.
    pub(crate) taken: RamMap,
    /// Where the tables lie that describe the machine, as a physical address: ACPI's root pointer, or the device tree. 0 if
    /// unknown.
    #[allow(
        dead_code,
        reason = "an entry that has to read the device tree itself leaves nothing to look up"
    )]
    pub(crate) tables: u64,
}

/// How a device's interrupt comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "an architecture may have only one of them")]
pub(crate) enum Delivery {
    /// As a message (MSI or MSI-X): once for each event.
    Message,
    /// By a line, which the device holds until its driver quiets it, and which others may share.
    Line,
}

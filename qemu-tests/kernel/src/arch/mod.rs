//! Code that depends on the processor and its machine: one folder per architecture, with the same names in
//! each. No code outside this folder knows which one it is.
//!
//! | name | provided by every architecture |
//! | --- | --- |
//! | `boot` | the entry, which calls `kernel_start`; `read`: the boot information, a [`BootInfo`] |
//! | `bring_up` | from the boot page tables to all CPUs running; after `memory::init` |
//! | `interrupts` | exceptions, which become crashes; `load` installs them on this CPU; `stand_aside` |
//! | `irq` | device interrupts, for normal drivers: `register`, `enable` |
//! | `paging` | page tables: the direct map (`direct`, `physical`), `map_physical`, `hide`, `refresh` |
//! | `cache` | `clean` and `invalidate`, for devices that are not coherent |
//! | `stack` | the CPUs' stacks (`all`, `bottom`), the stack pointer, `call_on` another stack |
//! | `cpu` | the current CPU (`number`), how many there are (`count`); `halt`, `disable_interrupts` |
//! | `idle` | `rest` until an interrupt, `nap` for a time |
//! | `smp` | other CPUs: `ask_to_stop`, `wake` |
//! | `registers` | a CPU's registers in the order of a dump: `here` |
//! | `guard` | reading memory that may be unreadable: `copy`, `probe`; `oops`, `store!` |
//! | `clock` | `now`, `pause`, `wall_clock` |
//! | `random` | entropy: `fill` |
//! | `serial` | output of bytes: `init`, `put`; [`console`] prints text with it |
//! | `power` | `reset`, `power_off`, `exit` |
//! | `pci` | configuration space: the type `Config`, `config`, `read8`, `write8` |
//! | `hotplug` | `eject_if_asked` |
//! | `virtio_mmio` | physical addresses of virtio devices that are not on a bus (virtio 1.2, 4.2) |
//! | `MISSING` | command-line words, or their keys, that request something this machine does not have |

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

/// Maximum number of CPUs that the kernel supports.
pub(crate) const MAX_CPUS: usize = 8;

/// Information from the firmware, copied out of memory that will be reused.
pub(crate) struct BootInfo {
    /// The command line.
    pub(crate) command_line: &'static str,
    /// RAM available to the kernel.
    pub(crate) ram: RamMap,
    /// Parts of it that the kernel must not reuse. They are dumped nevertheless.
    pub(crate) taken: RamMap,
    /// Physical address of the tables that describe the machine: ACPI's root pointer, or the device tree. 0
    /// if unknown.
    #[allow(
        dead_code,
        reason = "an entry that has to read the device tree itself leaves nothing to look up"
    )]
    pub(crate) tables: u64,
}

/// How a device signals an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "an architecture may have only one of them")]
pub(crate) enum Delivery {
    /// By a message (MSI or MSI-X), once for each event.
    Message,
    /// By a line, possibly shared, which the device asserts until its driver acknowledges.
    Line,
}

//! Functions of the kernel that exception handlers call. As with `kernel_start`, the linker resolves them by
//! name.

use core::fmt::Arguments;

use dumpcore::Registers;
use dumpcore::format::header::Trigger;

unsafe extern "Rust" {
    /// Whether this CPU, with this number, is to stop for a dump.
    pub(super) safe fn kernel_is_asked_to_stop(cpu: usize) -> bool;

    /// Stops this CPU, which had these registers.
    pub(super) safe fn kernel_stop(registers: &Registers);

    /// Crashes.
    pub(super) safe fn kernel_crash(trigger: Trigger, words: Arguments<'_>, registers: &Registers) -> !;

    /// Dumps the live kernel, which continues.
    pub(super) safe fn kernel_snapshot(trigger: Trigger, words: Arguments<'_>, registers: &Registers);

    /// An NMI from outside.
    #[cfg(target_arch = "x86_64")]
    pub(super) safe fn kernel_nmi(registers: &Registers);
}

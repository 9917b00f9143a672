//! What a host kernel lends us.
//!
//! Five methods have no default: a clock, a console, the memory map, access to a page, and what to do at the
//! end. Everything else a kernel can add later, and the dump says what it lacks ([`Lacks`]).

use core::ptr::NonNull;

pub use crate::deferred::HostQueues;
use crate::format::note::{CONTROL_REGISTERS, GENERAL_REGISTERS};
use crate::wait::Wait;

/// Nanoseconds.
pub type Nanoseconds = u64;

bitflags::bitflags! {
    /// What a platform could not offer to a dump.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Lacks: u32 {
        /// No code ranges: the dump path could not check that its own code is unharmed.
        const CODE_CHECK = 1 << 0;
        /// Not all other CPUs were stopped; they may have changed memory during the dump.
        const OTHER_CPUS = 1 << 1;
        /// No wall clock.
        const WALL_CLOCK = 1 << 2;
        /// No kernel log.
        const LOG = 1 << 3;
        /// No build id.
        const BUILD_ID = 1 << 4;
        /// No stack of its own: the dump ran on the stack of the code that crashed.
        const STACK = 1 << 5;
    }
}

/// A range of bytes that must not change between `arm()` and `crash()`: code, or read-only data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeRange {
    /// First byte.
    pub start: *const u8,
    /// Length in bytes.
    pub length: usize,
}

// SAFETY: a range is two numbers; reading what it names is a promise of the Platform that gave it.
unsafe impl Send for CodeRange {}
// SAFETY: as above.
unsafe impl Sync for CodeRange {}

/// A range of physical RAM, in bytes. Ends that are not page-aligned are rounded inwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
}

/// Registers of one CPU, in the order that [`format::note`](crate::format::note) lays down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// General registers.
    pub general: [u64; GENERAL_REGISTERS],
    /// Control registers.
    pub control: [u64; CONTROL_REGISTERS],
}

impl Registers {
    /// All zero.
    pub const ZERO: Registers =
        Registers { general: [0; GENERAL_REGISTERS], control: [0; CONTROL_REGISTERS] };
}

/// What happens when the dump is over, whether it succeeded or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetPolicy {
    /// Reset the machine.
    Reset,
    /// Switch the machine off.
    PowerOff,
    /// Stay as it is, for a debugger or an emulator to look at.
    Halt,
    /// Give control back to whoever called `crash()`.
    Return,
}

/// What a host kernel lends to the dump.
///
/// From `crash()` on, every method is called with interrupts off and may rely on nothing that could have
/// died: no heap, no lock that waits, no interrupt. It must not panic.
///
/// # Implementation safety
/// - [`page`](Platform::page) gives a pointer that is good for reading 4096 bytes, by aligned 8-byte volatile reads,
///   until the next call of `page`.
/// - [`code_ranges`](Platform::code_ranges) names memory that is always readable.
/// - [`on_stack`](Platform::on_stack) calls its closure exactly once, or not at all and returns false.
pub unsafe trait Platform: Sync {
    /// Nanoseconds since some fixed moment; never goes back, and goes on with interrupts off.
    fn now(&self) -> Nanoseconds;

    /// Writes text to a console, polled. Not to the kernel log: the log is being dumped.
    fn console(&self, text: &str);

    /// Calls `visit` for each range of RAM, in any order. Called by `arm()` only. What is not named is never read:
    /// leave out devices, firmware memory that faults, and holes.
    fn ram(&self, visit: &mut dyn FnMut(RamRange));

    /// Where the page with this frame number (physical address / 4096) can be read, or `None` if it cannot.
    /// Called only for pages inside what [`ram`](Platform::ram) named.
    fn page(&self, pfn: u64) -> Option<NonNull<u8>>;

    /// Where a device sees the page, if nothing changes it any more: neither a device that still runs, nor any method of
    /// this platform, such as a console's buffer. Such a page is written from where it is, which is faster; every other
    /// one is copied first. Called only when all other CPUs have stopped and the dump has a stack of its own. Where
    /// DMA is not coherent, the page has to be clean in the caches.
    ///
    /// A page that changes all the same is found out by its checksum, and lost.
    fn still(&self, pfn: u64) -> Option<u64> {
        let _ = pfn;
        None
    }

    /// Carries out the policy. On a real machine every policy but [`ResetPolicy::Return`] never comes back.
    fn reset(&self, policy: ResetPolicy);

    /// Number of the CPU that this runs on, from 0.
    fn cpu(&self) -> u32 {
        0
    }

    /// How many CPUs are in use.
    fn cpus(&self) -> u32 {
        1
    }

    /// Stops all other CPUs and makes them record their registers. `wait` is the way to wait for them.
    /// CPUs that do not answer within a bound of the platform's choice stay [`registers`](Platform::registers)
    /// = `None`.
    fn freeze_cpus(&self, wait: &Wait<'_>) {
        let _ = wait;
    }

    /// The registers that another CPU recorded when it was stopped, `None` if it did not.
    fn registers(&self, cpu: u32) -> Option<Registers> {
        let _ = cpu;
        None
    }

    /// Tells a hardware watchdog that the machine is alive. Called at least every millisecond of waiting.
    fn pat_watchdog(&self) {}

    /// Copies the piece of the kernel log that begins `offset` bytes into it, oldest byte first; returns how
    /// many bytes that were, 0 at the end.
    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        let (_, _) = (offset, piece);
        0
    }

    /// Bytes in the kernel log, so that its tail can be found.
    fn log_length(&self) -> u64 {
        0
    }

    /// Seconds since 1970-01-01 UTC.
    fn wall_clock(&self) -> Option<u64> {
        None
    }

    /// The kernel's build id (its ELF note NT_GNU_BUILD_ID), at most 32 bytes.
    fn build_id(&self) -> &[u8] {
        &[]
    }

    /// The kernel's name and release, for people.
    fn system(&self) -> &str {
        ""
    }

    /// VMCOREINFO, where the kernel has it.
    fn vmcoreinfo(&self) -> &[u8] {
        &[]
    }

    /// Code and read-only data of the dump path: whatever runs between `crash()` and its end.
    fn code_ranges(&self) -> &[CodeRange] {
        &[]
    }

    /// Calls `run` on the given stack (a part of the arena, 16-byte aligned) and comes back when it returns; or
    /// returns false without calling it, if the platform cannot.
    fn on_stack(&self, stack: &mut [u8], run: &mut dyn FnMut()) -> bool {
        let (_, _) = (stack, run);
        false
    }

    /// The kernel's own timers and tasklets, for drivers that use the private queues in normal operation too.
    fn host_queues(&self) -> Option<&dyn HostQueues> {
        None
    }

    /// Makes what was written to `bytes` visible to devices, before they are told to look. Needed where DMA is not
    /// coherent.
    fn clean_for_device(&self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Makes what a device wrote to `bytes` visible to the CPU. Needed where DMA is not coherent.
    fn invalidate_from_device(&self, bytes: &[u8]) {
        let _ = bytes;
    }
}

//! What a host kernel provides.
//!
//! Five methods have no default: clock, console, memory map, page access, and the reset policy. A kernel can
//! add the others later; until then, the dump records what it lacks ([`Lacks`]).

use core::ptr::NonNull;

pub use crate::deferred::host::HostQueues;
use crate::format::Block;
use crate::format::note::{CONTROL_REGISTERS, GENERAL_REGISTERS};
pub use crate::memory::class::{ClassRun, PageClass};
use crate::stack::{call_on, top};

pub use crate::time::Nanoseconds;

bitflags::bitflags! {
    /// What a platform could not provide for a dump.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Lacks: u32 {
        /// No code ranges: the dump path could not verify its own code.
        const CODE_CHECK = 1 << 0;
        /// Not all other CPUs were stopped, or their number is unknown; they may have changed memory during
        /// the dump.
        const OTHER_CPUS = 1 << 1;
        /// No wall clock.
        const WALL_CLOCK = 1 << 2;
        /// No kernel log.
        const LOG = 1 << 3;
        /// No build id.
        const BUILD_ID = 1 << 4;
        /// No stack of its own: the dump ran on the crashed stack.
        const STACK = 1 << 5;
        /// No guarded copy: a fault while reading a page would have ended the dump.
        const GUARD = 1 << 6;
        /// No page classes: memory was written in address order, and dump levels had no effect.
        const CLASSES = 1 << 7;
    }
}

/// The result of a guarded copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarded {
    /// The page was copied.
    Copied,
    /// Reading it faulted, and the fault was caught.
    Faulted,
    /// The platform has no guard; nothing was read.
    Unguarded,
}

/// A range of bytes that must not change between `arm()` and `crash()`: code, or read-only data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeRange {
    /// First byte.
    pub start: *const u8,
    /// Length in bytes.
    pub length: usize,
}

// SAFETY: a range is two numbers; the Platform that provides it promises that it is readable.
unsafe impl Send for CodeRange {}
// SAFETY: as above.
unsafe impl Sync for CodeRange {}

/// A range of physical RAM in bytes. Unaligned ends are rounded inwards to whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First byte.
    pub start: u64,
    /// First byte after the range.
    pub end: u64,
}

/// Registers of one CPU, in the order defined in [`format::note`](crate::format::note).
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

    /// The stack pointer; 0 on an unknown architecture.
    pub fn stack_pointer(&self) -> u64 {
        let place = match () {
            () if cfg!(target_arch = "x86_64") => 19,
            () if cfg!(target_arch = "aarch64") => 31,
            () if cfg!(target_arch = "riscv64") => 2,
            () => return 0,
        };
        self.general.get(place).copied().unwrap_or(0)
    }
}

/// What happens after the dump, whether it succeeded or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetPolicy {
    /// Reset the machine.
    Reset,
    /// Switch the machine off.
    PowerOff,
    /// Stay as it is, for a debugger or an emulator.
    Halt,
    /// Return to the caller of `crash()`.
    Return,
}

/// What a host kernel provides for the dump.
///
/// From `crash()` on, every method is called with interrupts off. It must not panic or depend on anything
/// that may have died: no heap, no waiting lock, no interrupt.
///
/// # Implementation safety
/// - [`page`](Platform::page) returns a pointer that is valid for reading 4096 bytes, by aligned 8-byte
///   volatile reads, until the next call of `page` on the same CPU; for a page that
///   [`still`](Platform::still) guarantees, until the end of the dump.
/// - [`code_ranges`](Platform::code_ranges) names memory that is always readable.
/// - [`on_stack`](Platform::on_stack) calls its closure exactly once, or not at all and returns false.
pub unsafe trait Platform: Sync {
    /// Nanoseconds since some fixed moment. Never goes back, and keeps running with interrupts off.
    fn now(&self) -> Nanoseconds;

    /// Nanoseconds from the boot of this kernel to a moment on [`now`](Platform::now)'s clock, as in the
    /// kernel's own log. The default is for a clock that starts with the kernel; a processor's counter keeps
    /// running through a reset.
    fn uptime(&self, moment: Nanoseconds) -> Nanoseconds {
        moment
    }

    /// Writes text to a console, by polling. Not to the kernel log, because the log is being dumped.
    fn console(&self, text: &str);

    /// Calls `visit` for each range of RAM, in any order. Only called by `arm()`. Memory outside these ranges
    /// is never read: leave out devices, firmware memory that faults, and holes.
    fn ram(&self, visit: &mut dyn FnMut(RamRange));

    /// Where the page with this frame number (physical address / 4096) can be read, or `None` if it cannot.
    /// Only called for pages in the ranges from [`ram`](Platform::ram), by the dumping CPU and by
    /// [helpers](crate::Dump::help).
    fn page(&self, pfn: u64) -> Option<NonNull<u8>>;

    /// Copies the page at `from`, which [`page`](Platform::page) returned, and catches and reports a fault
    /// while reading (machine check, hole, unmapped). Every page is copied this way, except those that
    /// [`still`](Platform::still) guarantees.
    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        let (_, _) = (from, to);
        Guarded::Unguarded
    }

    /// Whether [`guarded_copy`](Platform::guarded_copy) is guarded.
    fn has_guard(&self) -> bool {
        false
    }

    /// The class of the page, and how many pages from it on have the same class. The answer must not depend
    /// on anything that still changes, and must be the same every time: a dump goes over memory once for each
    /// [pass](PageClass::pass), and a page whose class changed in between would be written twice, or not at
    /// all.
    fn class(&self, pfn: u64) -> ClassRun {
        let _ = pfn;
        ClassRun { class: PageClass::Unknown, pages: u64::MAX }
    }

    /// The page's bus address, if nothing changes the page any more: neither a running device nor any method
    /// of this platform, such as a console's buffer. Such a page is written from where it is, which is
    /// faster; every other page is copied first. Only called once all other CPUs have stopped and the dump
    /// runs on its own stack, by helpers too. dumpcore [cleans](Platform::clean_for_device) the page. A
    /// platform with a [guard](Platform::guarded_copy) first reads a word in each of the page's cache lines
    /// under it, and returns `None` if that faults.
    ///
    /// If such a page changes nevertheless, its checksum reveals it, and the page is lost.
    fn still(&self, pfn: u64) -> Option<u64> {
        let _ = pfn;
        None
    }

    /// Carries out the policy. On a real machine, only [`ResetPolicy::Return`] returns.
    fn reset(&self, policy: ResetPolicy);

    /// Number of the current CPU, from 0. The dump's notes use it. It does not decide whether another CPU
    /// panicked or the dump itself did, unless the platform cannot [switch stacks](Platform::on_stack).
    fn cpu(&self) -> u32 {
        0
    }

    /// Number of CPUs in use; 0, the default, if unknown. The dump then records that others may have kept
    /// running.
    fn cpus(&self) -> u32 {
        0
    }

    /// Tells all other CPUs to record their registers and stop, without waiting for them: dumpcore polls
    /// [`all_stopped`](Platform::all_stopped) for at most a second. A stopped CPU may call
    /// [`Dump::help`](crate::Dump::help).
    fn stop_cpus(&self) {}

    /// Whether all CPUs told by [`stop_cpus`](Platform::stop_cpus) have stopped. A CPU that never does has no
    /// [`registers`](Platform::registers) in the dump.
    fn all_stopped(&self) -> bool {
        true
    }

    /// Lets the CPUs that [`stop_cpus`](Platform::stop_cpus) stopped continue where they were, after the dump
    /// of a live kernel.
    fn resume_cpus(&self) {}

    /// Fills `bytes` with unpredictable numbers; returns whether it could. Called by `arm()` for a partition
    /// whose dumps must be encrypted.
    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        let _ = bytes;
        false
    }

    /// Lets an idle [helper](crate::Dump::help) rest for about this many nanoseconds: in a virtual machine,
    /// or on a core with two threads, polling would take time from the CPU that writes.
    fn rest(&self, nanoseconds: Nanoseconds) {
        let _ = nanoseconds;
    }

    /// The registers that another CPU recorded when it was stopped; `None` if it did not.
    fn registers(&self, cpu: u32) -> Option<Registers> {
        let _ = cpu;
        None
    }

    /// Tells a hardware watchdog that the machine is alive. Called at least every millisecond of waiting.
    fn pat_watchdog(&self) {}

    /// Copies the part of the kernel log that begins at byte `offset`, oldest byte first; returns the number
    /// of bytes copied, 0 at the end.
    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        let (_, _) = (offset, piece);
        0
    }

    /// Length of the kernel log in bytes, used to find its tail.
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

    /// The kernel's name and release, for humans.
    fn system(&self) -> &str {
        ""
    }

    /// VMCOREINFO, if the kernel has it.
    fn vmcoreinfo(&self) -> &[u8] {
        &[]
    }

    /// Code and read-only data of the dump path: everything that runs between `crash()` and its end.
    fn code_ranges(&self) -> &[CodeRange] {
        &[]
    }

    /// Calls `run` on the given stack (a part of the arena, 16-byte aligned) and returns true after it has
    /// returned; or returns false without calling it, if the platform cannot. The default works on x86_64,
    /// aarch64 and riscv64. A kernel needs its own if an exception inside the dump relies on more than a
    /// stack pointer. No reference to the stack exists meanwhile, because the code running there writes to
    /// it.
    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        // SAFETY: the stack is the caller's to lend, and aligned as promised; a dump does not unwind.
        unsafe { call_on(top(stack), run) }
    }

    /// The kernel's own timers and tasklets, for drivers that use the private queues in normal operation too.
    fn host_queues(&self) -> Option<&dyn HostQueues> {
        None
    }

    /// Makes the `length` bytes at `start` visible to devices, before these are told to read them: cleans and
    /// invalidates their cache lines, so that none is written back later over data from a device. Needed
    /// where DMA is not coherent. The memory is a [still](Platform::still) page, or part of the arena or of
    /// other memory that the driver was given. It shares no cache line (of 128 bytes) with memory that the
    /// other side writes.
    fn clean_for_device(&self, start: *const u8, length: usize) {
        let (_, _) = (start, length);
    }

    /// Makes the data that a device wrote to the `length` bytes at `start` visible to the CPU: invalidates
    /// their cache lines. Needed where DMA is not coherent. The memory is as for
    /// [`clean_for_device`](Platform::clean_for_device).
    fn invalidate_from_device(&self, start: *const u8, length: usize) {
        let (_, _) = (start, length);
    }
}

//! What a host kernel lends us.
//!
//! Five methods have no default: a clock, a console, the memory map, access to a page, and what to do at the
//! end. Everything else a kernel can add later, and the dump says what it lacks ([`Lacks`]).

use core::ptr::NonNull;

pub use crate::deferred::host::HostQueues;
use crate::format::Block;
use crate::format::note::{CONTROL_REGISTERS, GENERAL_REGISTERS};
pub use crate::memory::class::{ClassRun, PageClass};
use crate::stack::{call_on, top};

pub use crate::time::Nanoseconds;

bitflags::bitflags! {
    /// What a platform could not offer to a dump.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Lacks: u32 {
        /// No code ranges: the dump path could not check that its own code is unharmed.
        const CODE_CHECK = 1 << 0;
        /// Not all other CPUs were stopped, or it is not known how many there are; they may have changed
        /// memory during the dump.
        const OTHER_CPUS = 1 << 1;
        /// No wall clock.
        const WALL_CLOCK = 1 << 2;
        /// No kernel log.
        const LOG = 1 << 3;
        /// No build id.
        const BUILD_ID = 1 << 4;
        /// No stack of its own: the dump ran on the stack of the code that crashed.
        const STACK = 1 << 5;
        /// No guarded copy: a page that faults when it is read would have ended the dump.
        const GUARD = 1 << 6;
        /// No page classes: memory went out in order of address, and no dump level could leave any out.
        const CLASSES = 1 << 7;
    }
}

/// What became of a guarded copy.
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

// SAFETY: a range is two numbers; reading what it names is a promise of the Platform that gave it.
unsafe impl Send for CodeRange {}
// SAFETY: as above.
unsafe impl Sync for CodeRange {}

/// A range of physical RAM, in bytes. Ends that are not page-aligned are rounded inwards.
///
/// ```
/// use dumpcore::platform::RamRange;
///
/// /// As firmware gives it: start and length of each range, and whether it is RAM.
/// fn visit(map: &[(u64, u64, bool)], visit: &mut dyn FnMut(RamRange)) {
///     for &(start, length, is_ram) in map {
///         if is_ram {
///             visit(RamRange { start, end: start + length });
///         }
///     }
/// }
/// # let mut found = Vec::new();
/// # visit(&[(0, 0x9_f000, true), (0xfe00_0000, 4096, false)], &mut |range| found.push(range.end));
/// # assert_eq!(found, [0x9_f000]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

/// Registers of one CPU, in the order that [`format::note`](crate::format::note) lays down.
///
/// ```
/// use dumpcore::Registers;
///
/// /// What an exception on x86_64 pushes.
/// struct Frame {
///     rip: u64,
///     cs: u64,
///     rflags: u64,
///     rsp: u64,
///     ss: u64,
/// }
///
/// fn registers(frame: &Frame, cr3: u64) -> Registers {
///     let mut registers = Registers::ZERO;
///     registers.general[16..=20].copy_from_slice(&[frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss]);
///     registers.control[2] = cr3;
///     registers
/// }
/// # let frame = Frame { rip: 1, cs: 2, rflags: 3, rsp: 4, ss: 5 };
/// # if cfg!(target_arch = "x86_64") {
/// #     assert_eq!(registers(&frame, 6).stack_pointer(), 4);
/// # }
/// ```
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

    /// The stack pointer; 0 on an architecture that is not known here.
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
/// - [`page`](Platform::page) gives a pointer that is good for reading 4096 bytes, by aligned 8-byte volatile
///   reads, until the next call of `page` on the same CPU; of a page that [`still`](Platform::still) vouches
///   for, until the end of the dump.
/// - [`code_ranges`](Platform::code_ranges) names memory that is always readable.
/// - [`on_stack`](Platform::on_stack) calls its closure exactly once, or not at all and returns false.
///
/// # Example
/// The five methods that have no default, of a kernel that maps all of memory at one place:
///
/// ```no_run
/// use core::ptr::NonNull;
/// use dumpcore::platform::RamRange;
/// use dumpcore::{Platform, ResetPolicy};
///
/// # fn counter() -> u64 { 0 }
/// # fn serial_write(_: u8) {}
/// # fn reset_machine() {}
/// /// Where physical address 0 is mapped.
/// const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
///
/// struct Kernel;
///
/// // SAFETY: the direct map covers all RAM that `ram` names, and stays for as long as the kernel lives.
/// unsafe impl Platform for Kernel {
///     fn now(&self) -> u64 {
///         counter()
///     }
///     fn console(&self, text: &str) {
///         text.bytes().for_each(serial_write);
///     }
///     fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
///         visit(RamRange { start: 0x10_0000, end: 0x800_0000 });
///     }
///     fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
///         NonNull::new((DIRECT_MAP + pfn * 4096) as *mut u8)
///     }
///     fn reset(&self, policy: ResetPolicy) {
///         if policy != ResetPolicy::Return {
///             reset_machine();
///         }
///     }
/// }
/// ```
pub unsafe trait Platform: Sync {
    /// Nanoseconds since some fixed moment; never goes back, and goes on with interrupts off.
    fn now(&self) -> Nanoseconds;

    /// Nanoseconds from the boot of this kernel to a moment of [`now`](Platform::now)'s clock, as the
    /// kernel's own log counts. The default is for a clock that begins with the kernel: a processor's counter
    /// goes on through a reset.
    fn uptime(&self, moment: Nanoseconds) -> Nanoseconds {
        moment
    }

    /// Writes text to a console, polled. Not to the kernel log: the log is being dumped.
    fn console(&self, text: &str);

    /// Calls `visit` for each range of RAM, in any order. Called by `arm()` only. What is not named is never
    /// read: leave out devices, firmware memory that faults, and holes.
    fn ram(&self, visit: &mut dyn FnMut(RamRange));

    /// Where the page with this frame number (physical address / 4096) can be read, or `None` if it cannot.
    /// Called only for pages inside what [`ram`](Platform::ram) named, by the CPU that dumps and by those
    /// that [help](crate::Dump::help).
    fn page(&self, pfn: u64) -> Option<NonNull<u8>>;

    /// Copies the page at `from`, which [`page`](Platform::page) gave, so that a fault while reading (machine
    /// check, hole, unmapped) is caught and told. Every page is copied this way, but for those that
    /// [`still`](Platform::still) vouches for.
    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        let (_, _) = (from, to);
        Guarded::Unguarded
    }

    /// Whether [`guarded_copy`](Platform::guarded_copy) is guarded.
    fn has_guard(&self) -> bool {
        false
    }

    /// What the page is used for, and how many pages from it on are used for the same. The answer must follow
    /// from what does not change any more, and be the same whenever it is asked for: a dump goes over memory
    /// once for each [pass](PageClass::pass), and what changed its class in between would be written twice,
    /// or not at all.
    fn class(&self, pfn: u64) -> ClassRun {
        let _ = pfn;
        ClassRun { class: PageClass::Unknown, pages: u64::MAX }
    }

    /// Where a device sees the page, if nothing changes it any more: neither a device that still runs, nor
    /// any method of this platform, such as a console's buffer. Such a page is written from where it is,
    /// which is faster; every other one is copied first. Called only when all other CPUs have stopped and the
    /// dump has a stack of its own, also by those that help. dumpcore [cleans](Platform::clean_for_device)
    /// the page. A platform with a [guard](Platform::guarded_copy) reads the page under it first, a word in
    /// each cache line, and answers `None` if that faults.
    ///
    /// A page that changes all the same is found out by its checksum, and lost.
    fn still(&self, pfn: u64) -> Option<u64> {
        let _ = pfn;
        None
    }

    /// Carries out the policy. On a real machine every policy but [`ResetPolicy::Return`] never comes back.
    fn reset(&self, policy: ResetPolicy);

    /// Number of the CPU that this runs on, from 0. What is written about CPUs goes by it; whether another
    /// CPU panicked or the dump itself does not, unless the platform cannot [switch
    /// stacks](Platform::on_stack).
    fn cpu(&self) -> u32 {
        0
    }

    /// How many CPUs are in use; 0, the default, if that is not known. The dump then says that others may
    /// have run on.
    fn cpus(&self) -> u32 {
        0
    }

    /// Tells all other CPUs to record their registers and to stop, and does not wait for them: dumpcore asks
    /// [`all_stopped`](Platform::all_stopped), for a second at most. A CPU that has stopped may call
    /// [`Dump::help`](crate::Dump::help).
    fn stop_cpus(&self) {}

    /// Whether all CPUs that [`stop_cpus`](Platform::stop_cpus) told to stop have. One that never does has no
    /// [`registers`](Platform::registers) in the dump.
    fn all_stopped(&self) -> bool {
        true
    }

    /// Lets the CPUs that [`stop_cpus`](Platform::stop_cpus) stopped go on where they were: the dump of a
    /// live kernel is over.
    fn resume_cpus(&self) {}

    /// Fills `bytes` with numbers that nobody can guess, and says whether it could. Called by `arm()`, for a
    /// partition whose dumps have to be encrypted.
    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        let _ = bytes;
        false
    }

    /// Lets a CPU that [helps](crate::Dump::help) and finds nothing to do rest for about this many
    /// nanoseconds: in a virtual machine, or on one of two threads of a core, it would only take time from
    /// the CPU that writes.
    fn rest(&self, nanoseconds: Nanoseconds) {
        let _ = nanoseconds;
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

    /// Calls `run` on the given stack (a part of the arena, 16-byte aligned) and comes back when it returns;
    /// or returns false without calling it, if the platform cannot. The default can on x86_64, aarch64 and
    /// riscv64; a kernel writes its own where an exception inside of the dump must find more in place than a
    /// stack pointer. Nobody has a reference to the stack meanwhile, since what runs there writes to it.
    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        // SAFETY: the stack is the caller's to lend, and aligned as it promises; a dump does not unwind.
        unsafe { call_on(top(stack), run) }
    }

    /// The kernel's own timers and tasklets, for drivers that use the private queues in normal operation too.
    fn host_queues(&self) -> Option<&dyn HostQueues> {
        None
    }

    /// Makes what was written to the `length` bytes at `start` visible to devices, before they are told to
    /// look: cleans the cache lines that hold them, and drops them (clean and invalidate), so that none is
    /// written back later over what a device writes. Needed where DMA is not coherent. The memory is a page
    /// that is [still](Platform::still), or part of the arena or of what a driver was given beside it, and
    /// shares no cache line (of 128 bytes) with what the other side writes.
    fn clean_for_device(&self, start: *const u8, length: usize) {
        let (_, _) = (start, length);
    }

    /// Makes what a device wrote to the `length` bytes at `start` visible to the CPU: drops the cache lines
    /// that hold them. Needed where DMA is not coherent. The memory is as for
    /// [`clean_for_device`](Platform::clean_for_device).
    fn invalidate_from_device(&self, start: *const u8, length: usize) {
        let (_, _) = (start, length);
    }
}

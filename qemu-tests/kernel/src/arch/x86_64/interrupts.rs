//! Exceptions: a fault becomes a crash, with the registers of the code that faulted; an NMI stops the CPU.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use dumpcore::Registers;
use dumpcore::format::header::Trigger;
use x86_64::registers::control::Cr2;

use super::cpu::{self, MAX_CPUS};
use super::registers;
use crate::panic;

core::arch::global_asm!(include_str!("vectors.s"), options(att_syntax));

/// What vectors.s leaves on the stack.
#[repr(C)]
pub(crate) struct Frame {
    /// r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi.
    pub(crate) general: [u64; 15],
    /// Number of the exception.
    pub(crate) vector: u64,
    /// Its error code, or 0.
    pub(crate) error: u64,
    /// Where.
    pub(crate) rip: u64,
    /// Code segment.
    pub(crate) cs: u64,
    /// Flags.
    pub(crate) rflags: u64,
    /// Stack pointer of the interrupted code.
    pub(crate) rsp: u64,
    /// Stack segment.
    pub(crate) ss: u64,
}

/// Vector of the not maskable interrupt.
pub(crate) const NMI: u64 = 2;
/// Vector of the double fault.
pub(crate) const DOUBLE_FAULT: u64 = 8;

const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "reserved",
    "floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point error",
    "virtualization exception",
    "control protection exception",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security exception",
    "reserved",
];

/// Called by every stub.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn exception(frame: &Frame) -> ! {
    cpu::disable_interrupts();
    let registers = registers::of_frame(frame);
    if frame.vector == NMI {
        stop(&registers);
    }
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("unknown");
    panic::crash(
        Trigger::Fault,
        format_args!(
            "{name} at {:#x}, error code {:#x}, address {:#x}",
            frame.rip,
            frame.error,
            Cr2::read_raw()
        ),
        &registers,
    )
}

/// What each CPU recorded when it was stopped.
struct Stopped {
    done: AtomicBool,
    registers: UnsafeCell<Registers>,
}

// SAFETY: `registers` is written once, by its own CPU, before `done`, and read only behind it.
unsafe impl Sync for Stopped {}

static STOPPED: [Stopped; MAX_CPUS] =
    [const { Stopped { done: AtomicBool::new(false), registers: UnsafeCell::new(Registers::ZERO) } };
        MAX_CPUS];

/// Records this CPU's registers and stops it. From the store of `done` on it writes nothing: its memory
/// is about to be dumped.
#[unsafe(link_section = ".dump_path.text")]
fn stop(registers: &Registers) -> ! {
    if let Some(slot) = STOPPED.get(cpu::number())
        && !slot.done.load(Ordering::Relaxed)
    {
        // SAFETY: `done` is not set, so nobody reads; only this CPU writes.
        unsafe { *slot.registers.get() = *registers };
        slot.done.store(true, Ordering::Release);
    }
    cpu::halt()
}

/// The registers that a CPU recorded when it was stopped, `None` if it was not.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stopped(cpu: usize) -> Option<Registers> {
    let slot = STOPPED.get(cpu)?;
    // SAFETY: written before `done` was set, and never again.
    slot.done.load(Ordering::Acquire).then(|| unsafe { *slot.registers.get() })
}

//! Traps: an unexpected fault becomes a crash, with the registers of the faulting code; another CPU stops
//! this one; a device interrupts.
//!
//! No interrupt gets through when interrupts are off. So that a dump can stop every CPU, the kernel keeps
//! them on wherever it works or waits; a CPU that waits for its turn to dump polls instead ([`stand_aside`]).

use core::arch::asm;

use dumpcore::format::header::Trigger;
use dumpcore::{Registers, crashdump_mode};

use super::super::upcalls::{kernel_crash, kernel_is_asked_to_stop, kernel_snapshot, kernel_stop};
use super::frame::Frame;
use super::guard::{self, Known};
use super::{cpu, irq, registers, sbi, stack};
use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("vectors.s"));

/// In the cause: an interrupt, not an exception.
const INTERRUPT: u64 = 1 << 63;
/// Interrupts: another CPU, the timer.
const SOFTWARE: u64 = INTERRUPT | 1;
const TIMER: u64 = INTERRUPT | 5;
/// A device, through the interrupt controller.
const EXTERNAL: u64 = INTERRUPT | 9;
/// The exceptions (RISC-V Privileged Architecture 1.12, table 4.2).
const NAMES: [&str; 16] = [
    "misaligned instruction",
    "instruction access fault",
    "illegal instruction",
    "breakpoint",
    "misaligned load",
    "load access fault",
    "misaligned store",
    "store access fault",
    "environment call from U-mode",
    "environment call from S-mode",
    "reserved exception",
    "reserved exception",
    "instruction page fault",
    "load page fault",
    "reserved exception",
    "store page fault",
];

/// Installs the trap entry on this CPU.
///
/// # Safety
/// Once on each CPU, after boot.s has set sscratch.
pub(crate) unsafe fn load(_: usize) {
    // SAFETY: the entry handles all traps; its address is a multiple of 4, which selects direct mode.
    unsafe { asm!("csrw stvec, {}", in(reg) linker_symbol!(trap_entry), options(nostack)) };
}

/// Called by vectors.s. When it returns, the interrupted code continues at `frame.general[0]`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn trap(frame: &mut Frame) {
    let [pc, ..] = &mut frame.general;
    // First the faults of a dump that reads memory: it has little stack, and runs on several CPUs.
    match guard::known(frame.cause, *pc) {
        Some(Known::Unreadable { fixup }) => *pc = fixup,
        Some(Known::Stumbled { behind }) => {
            oops(frame);
            let [pc, ..] = &mut frame.general;
            *pc = behind;
        }
        None if frame.cause & INTERRUPT != 0 => interrupt(frame),
        None => fault(frame),
    }
}

/// An interrupt, most importantly from another CPU that is dumping and stops this one.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn interrupt(frame: &Frame) {
    match frame.cause {
        SOFTWARE => {
            cpu::end_software_interrupt();
            // Bounded: each turn obeys one request to stop. Checked again afterwards, because a rest during
            // the stop may have acknowledged the interrupt of a later request.
            while kernel_is_asked_to_stop(cpu::number()) {
                kernel_stop(&registers::of_frame(frame));
            }
        }
        // The timer expired before the rest began.
        TIMER => sbi::set_timer(u64::MAX),
        EXTERNAL => {
            // While a dump runs, drivers of the healthy kernel must not run. Bounded by the dump, which stops
            // this CPU.
            while crashdump_mode() {
                stand_aside(&registers::of_frame(frame));
            }
            irq::take();
        }
        _ => {}
    }
}

/// An unexpected fault.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn fault(frame: &Frame) -> ! {
    let [pc, _, stack_pointer, ..] = frame.general;
    let name = NAMES.get(frame.cause as usize).copied().unwrap_or("unknown exception");
    let why = if stack::is_used_up(cpu::number(), stack_pointer) { " (the stack is used up)" } else { "" };
    kernel_crash(
        Trigger::Fault,
        format_args!("{name} at {pc:#x}, address {:#x}{why}", frame.value),
        &registers::of_frame(frame),
    )
}

/// A fault that the kernel survives, like one in a process: it is dumped nevertheless.
#[inline(never)]
fn oops(frame: &Frame) {
    let [pc, ..] = frame.general;
    kernel_snapshot(
        Trigger::Oops,
        format_args!("oops at {pc:#x}, address {:#x}", frame.value),
        &registers::of_frame(frame),
    );
}

/// Waits a moment for another CPU's dump, with interrupts off, and lets it stop this CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stand_aside(registers: &Registers) {
    if kernel_is_asked_to_stop(cpu::number()) {
        kernel_stop(registers);
    }
    core::hint::spin_loop();
}

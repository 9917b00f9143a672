//! Traps: a fault becomes a crash, with the registers of the code that faulted, unless that code has announced it; another CPU
//! stops this one; a device interrupts.
//!
//! There is no interrupt that gets through when interrupts are off. The kernel keeps them on wherever it works or waits, so
//! that a dump can stop every CPU; one that waits for its turn to dump looks for itself ([`stand_aside`]).

use core::arch::asm;

use dumpcore::format::header::Trigger;
use dumpcore::{Registers, crashdump_mode};

use super::super::upcalls::{kernel_crash, kernel_is_asked_to_stop, kernel_snapshot, kernel_stop};
use super::frame::Frame;
use super::guard::{self, Known};
use super::{cpu, irq, registers, sbi, stack};
use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("vectors.s"));

/// In the cause: an interrupt, no exception.
const INTERRUPT: u64 = 1 << 63;
/// Interrupts: another CPU, the timer.
const SOFTWARE: u64 = INTERRUPT | 1;
const TIMER: u64 = INTERRUPT | 5;
/// A device, by the interrupt controller.
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

/// Has this CPU take its traps here.
///
/// # Safety
/// Once on each CPU, with its own number, which boot.s has put into sscratch.
pub(crate) unsafe fn load(_: usize) {
    // SAFETY: the entry takes what comes; its address is a multiple of 4, which means that all come in there.
    unsafe { asm!("csrw stvec, {}", in(reg) linker_symbol!(trap_entry), options(nostack)) };
}

/// Called by vectors.s. When it returns, the interrupted code goes on at `frame.general[0]`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn trap(frame: &mut Frame) {
    let [pc, ..] = &mut frame.general;
    // First what a dump runs into when it reads memory. It has little stack, and runs on several CPUs.
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

/// An interrupt: most of all, another CPU dumps and wants this one stopped.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn interrupt(frame: &Frame) {
    match frame.cause {
        SOFTWARE => {
            cpu::end_software_interrupt();
            // Bounded: each turn obeys a freeze. Looked at again after it, since a rest inside of it may have ended the
            // interrupt that a later freeze has sent.
            while kernel_is_asked_to_stop(cpu::number()) {
                kernel_stop(&registers::of_frame(frame));
            }
        }
        // A rest was over before it began.
        TIMER => sbi::set_timer(u64::MAX),
        EXTERNAL => {
            // While a dump runs, no driver of the healthy kernel may. Bounded by the dump, which stops this CPU.
            while crashdump_mode() {
                stand_aside(&registers::of_frame(frame));
            }
            irq::take();
        }
        _ => {}
    }
}

/// A fault that nobody has announced.
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

/// A fault that the kernel survives, as one in a process would be: it is dumped all the same.
#[inline(never)]
fn oops(frame: &Frame) {
    let [pc, ..] = frame.general;
    kernel_snapshot(
        Trigger::Oops,
        format_args!("oops at {pc:#x}, address {:#x}", frame.value),
        &registers::of_frame(frame),
    );
}

/// Waits a moment for the dump of another CPU, with interrupts off, and lets that stop this one.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stand_aside(registers: &Registers) {
    if kernel_is_asked_to_stop(cpu::number()) {
        kernel_stop(registers);
    }
    core::hint::spin_loop();
}

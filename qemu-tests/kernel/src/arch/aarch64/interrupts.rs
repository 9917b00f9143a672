//! Exceptions: a fault becomes a crash, with the registers of the code that faulted, unless that code has announced it;
//! a FIQ stops the CPU; an interrupt ends a rest, or a driver is called.
//!
//! Specification: Arm Architecture Reference Manual (DDI 0487), D1.10 and D17.2.37 (ESR_EL1).

use core::arch::asm;

use dumpcore::Registers;
use dumpcore::format::header::Trigger;

use super::super::upcalls::{kernel_crash, kernel_is_asked_to_stop, kernel_snapshot, kernel_stop};
use super::frame::Frame;
use super::guard::{self, Known};
use super::{clock, cpu, gic, irq, registers};
use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("vectors.s"));

/// A data abort at this exception level, in ESR_EL1.
const DATA_ABORT: u64 = 0x25;
/// In ESR_EL1: where the class of the exception is.
const CLASS_SHIFT: u32 = 26;

/// What a class of exceptions is called.
fn name(class: u64) -> &'static str {
    match class {
        0x00 => "undefined instruction",
        0x0e => "illegal execution state",
        0x15 => "system call",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned program counter",
        0x24 | DATA_ABORT => "data abort",
        0x26 => "misaligned stack pointer",
        0x2f => "SError",
        0x30..=0x35 => "debug exception",
        0x3c => "breakpoint instruction",
        _ => "exception",
    }
}

/// Has this CPU take exceptions. What comes from outside, whatever a CPU does, comes from now on.
///
/// # Safety
/// Once on each CPU.
pub(crate) unsafe fn load(_: usize) {
    // SAFETY: vectors.s has a table there, aligned as it has to be; it uses the stack that boot.s has set up.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) linker_symbol!(exception_vectors), options(nostack, preserves_flags));
    }
    cpu::enable_stop();
}

/// Called by every entry of the table. When it returns, the interrupted code goes on at `frame.pc`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn exception(frame: &mut Frame, kind: u64) {
    match kind & 3 {
        // First what a dump runs into when it reads memory. It has little stack, and runs on several CPUs.
        0 => synchronous(frame),
        1 => interrupt(),
        2 => fiq(frame),
        _ => fault(frame),
    }
}

#[unsafe(link_section = ".dump_path.text")]
fn synchronous(frame: &mut Frame) {
    let known = if frame.syndrome >> CLASS_SHIFT == DATA_ABORT { guard::known(frame.pc) } else { None };
    match known {
        Some(Known::Unreadable { fixup }) => frame.pc = fixup,
        Some(Known::Stumbled { behind }) => {
            oops(frame);
            frame.pc = behind;
        }
        None => fault(frame),
    }
}

/// Another CPU or the timer ends a rest, or a device wants its driver.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn interrupt() {
    let Some(interrupt) = gic::take() else { return };
    match interrupt {
        gic::TIMER => clock::end_alarm(),
        gic::FIRST_LINE.. => {
            // A driver may take its time, and does not keep its CPU from being stopped.
            cpu::enable_stop();
            irq::take(interrupt);
        }
        _ => {}
    }
    gic::end(interrupt);
}

/// Another CPU dumps and wants this one stopped.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn fiq(frame: &Frame) {
    if gic::take_fiq() == gic::STOP && kernel_is_asked_to_stop(cpu::number()) {
        kernel_stop(&registers::of_frame(frame));
    }
}

/// Waits a moment for the dump of another CPU, which stops this one by FIQ.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stand_aside(_: &Registers) {
    core::hint::spin_loop();
}

/// A fault that nobody has announced.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn fault(frame: &Frame) -> ! {
    cpu::disable_interrupts();
    cpu::enable_stop();
    kernel_crash(
        Trigger::Fault,
        format_args!(
            "{} at {:#x}, syndrome {:#x}, address {:#x}",
            name(frame.syndrome >> CLASS_SHIFT),
            frame.pc,
            frame.syndrome,
            frame.address
        ),
        &registers::of_frame(frame),
    )
}

/// A fault that the kernel survives, as one in a process would be: it is dumped all the same.
#[inline(never)]
fn oops(frame: &Frame) {
    cpu::enable_stop();
    kernel_snapshot(
        Trigger::Oops,
        format_args!("oops at {:#x}, address {:#x}", frame.pc, frame.address),
        &registers::of_frame(frame),
    );
}

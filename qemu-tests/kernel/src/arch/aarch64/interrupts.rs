//! Exceptions: an unexpected fault becomes a crash, with the registers of the faulting code; an FIQ stops the
//! CPU; an interrupt ends a rest or calls a driver.
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
/// Position of the exception class in ESR_EL1.
const CLASS_SHIFT: u32 = 26;

/// The name of an exception class.
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

/// Installs the exception vectors on this CPU, and enables the exceptions that are always allowed.
///
/// # Safety
/// Once on each CPU.
pub(crate) unsafe fn load(_: usize) {
    // SAFETY: vectors.s has an aligned table there; it uses the stack that boot.s has set up.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) linker_symbol!(exception_vectors), options(nostack, preserves_flags));
    }
    cpu::enable_stop();
}

/// Called by every entry of the table. When it returns, the interrupted code continues at `frame.pc`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn exception(frame: &mut Frame, kind: u64) {
    match kind & 3 {
        // First the faults of a dump that reads memory: it has little stack, and runs on several CPUs.
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

/// Ends a rest, for another CPU or the timer, or calls a driver.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn interrupt() {
    let Some(interrupt) = gic::take() else { return };
    match interrupt {
        gic::TIMER => clock::end_alarm(),
        gic::FIRST_LINE.. => {
            // A driver may take its time; this CPU can still be stopped meanwhile.
            cpu::enable_stop();
            irq::take(interrupt);
        }
        _ => {}
    }
    gic::end(interrupt);
}

/// Another CPU is dumping and stops this one.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn fiq(frame: &Frame) {
    if gic::take_fiq() == gic::STOP && kernel_is_asked_to_stop(cpu::number()) {
        kernel_stop(&registers::of_frame(frame));
    }
}

/// Waits a moment for another CPU's dump, which stops this CPU by FIQ.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stand_aside(_: &Registers) {
    core::hint::spin_loop();
}

/// An unexpected fault.
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

/// A fault that the kernel survives, like one in a process: it is dumped nevertheless.
#[inline(never)]
fn oops(frame: &Frame) {
    cpu::enable_stop();
    kernel_snapshot(
        Trigger::Oops,
        format_args!("oops at {:#x}, address {:#x}", frame.pc, frame.address),
        &registers::of_frame(frame),
    );
}

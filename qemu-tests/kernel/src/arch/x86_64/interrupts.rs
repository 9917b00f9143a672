//! Exceptions: an unexpected fault becomes a crash, with the registers of the faulting code; an NMI stops the
//! CPU, or comes from a button.

use dumpcore::format::header::Trigger;
use dumpcore::{Registers, crashdump_mode};
use x86_64::registers::control::{Cr2, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::super::upcalls::{
    kernel_crash, kernel_is_asked_to_stop, kernel_nmi, kernel_snapshot, kernel_stop,
};
use super::frame::{Frame, MACHINE_CHECK, NMI, WAKE};
use super::guard::{self, Known};
pub(crate) use super::tables::load;
use super::{apic, cpu, irq, registers};

core::arch::global_asm!(include_str!("vectors.s"), options(att_syntax));

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

/// Called by every stub. When it returns, the interrupted code continues at `frame.rip`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn exception(frame: &mut Frame) {
    // First the faults of a dump that reads memory: it has little stack, and runs on several CPUs.
    let known = guard::known(frame.vector, frame.rip);
    if frame.vector == MACHINE_CHECK && end_machine_check() && crashdump_mode() {
        // Another CPU or a device hit the error; this CPU was only notified.
        return;
    }
    match known {
        Some(Known::Unreadable { fixup }) => frame.rip = fixup,
        Some(Known::Stumbled { behind }) => {
            oops(frame);
            frame.rip = behind;
        }
        None if frame.vector == NMI => nmi(frame),
        None if frame.vector == WAKE => apic::end_interrupt(),
        None if frame.vector >= irq::FIRST => irq::take(frame.vector),
        None => fault(frame),
    }
}

/// An NMI: another CPU is dumping and stops this one, or it comes from outside.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn nmi(frame: &Frame) {
    if kernel_is_asked_to_stop(cpu::number()) {
        kernel_stop(&registers::of_frame(frame));
    } else if !crashdump_mode() {
        // While a dump runs, the button requests what is already happening.
        kernel_nmi(&registers::of_frame(frame));
    }
}

/// Waits a moment for another CPU's dump, which stops this CPU by NMI.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stand_aside(_: &Registers) {
    core::hint::spin_loop();
}

/// An unexpected fault.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
fn fault(frame: &Frame) -> ! {
    cpu::disable_interrupts();
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("unknown");
    kernel_crash(
        Trigger::Fault,
        format_args!(
            "{name} at {:#x}, error code {:#x}, address {:#x}",
            frame.rip,
            frame.error,
            Cr2::read_raw()
        ),
        &registers::of_frame(frame),
    )
}

/// A fault that the kernel survives, like one in a process: it is dumped nevertheless.
#[inline(never)]
fn oops(frame: &Frame) {
    kernel_snapshot(
        Trigger::Oops,
        format_args!("oops at {:#x}, address {:#x}", frame.rip, Cr2::read_raw()),
        &registers::of_frame(frame),
    );
}

/// Makes this CPU raise machine checks as exceptions; otherwise one resets it.
pub(crate) fn enable_machine_checks() {
    // CPUID leaf 1, edx bit 7: the exception; bit 14: the registers that describe it.
    let wanted = 1 << 7 | 1 << 14;
    if core::arch::x86_64::__cpuid(1).edx & wanted == wanted {
        // SAFETY: it has a handler, with a stack of its own.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    }
}

/// Ends a machine check (Intel SDM vol. 3, 16.3.1.2: IA32_MCG_STATUS), so that another one does not reset the
/// machine. Returns whether the interrupted code is not affected.
#[unsafe(link_section = ".dump_path.text")]
fn end_machine_check() -> bool {
    let mut status = Msr::new(0x17a);
    // SAFETY: a CPU that raises the exception has the register; clearing it ends the machine check.
    let before = unsafe {
        let before = status.read();
        status.write(0);
        before
    };
    // Bit 0: the interrupted code can continue. Bit 1: it hit the error itself.
    before & 0b11 == 0b01
}

//! Registers of a CPU in the order of `dumpcore::format::note::GENERAL_REGISTERS`: pc x1 … x31, and satp
//! sstatus scause stval.

use core::arch::asm;

use dumpcore::Registers;

use super::frame::Frame;

/// The registers of the code interrupted by a trap.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn of_frame(frame: &Frame) -> Registers {
    let mut registers = Registers::ZERO;
    for (slot, value) in registers.general.iter_mut().zip(&frame.general) {
        *slot = *value;
    }
    set_control(&mut registers, [frame.status, frame.cause, frame.value]);
    registers
}

/// The current registers. Inlined, so that they are those of the caller and a debugger can unwind from there.
#[inline(always)]
pub(crate) fn here() -> Registers {
    let mut registers = Registers::ZERO;
    let (status, cause, value): (u64, u64, u64);
    // SAFETY: stores 32 words where there is room for 34, and reads registers. gp belongs to the trap entry
    // and is 0 in every frame.
    unsafe {
        asm!(
            "sd x1, 1*8(a0)",
            "sd x2, 2*8(a0)",
            "sd x4, 4*8(a0)",
            "sd x5, 5*8(a0)",
            "sd x6, 6*8(a0)",
            "sd x7, 7*8(a0)",
            "sd x8, 8*8(a0)",
            "sd x9, 9*8(a0)",
            "sd x10, 10*8(a0)",
            "sd x11, 11*8(a0)",
            "sd x12, 12*8(a0)",
            "sd x13, 13*8(a0)",
            "sd x14, 14*8(a0)",
            "sd x15, 15*8(a0)",
            "sd x16, 16*8(a0)",
            "sd x17, 17*8(a0)",
            "sd x18, 18*8(a0)",
            "sd x19, 19*8(a0)",
            "sd x20, 20*8(a0)",
            "sd x21, 21*8(a0)",
            "sd x22, 22*8(a0)",
            "sd x23, 23*8(a0)",
            "sd x24, 24*8(a0)",
            "sd x25, 25*8(a0)",
            "sd x26, 26*8(a0)",
            "sd x27, 27*8(a0)",
            "sd x28, 28*8(a0)",
            "sd x29, 29*8(a0)",
            "sd x30, 30*8(a0)",
            "sd x31, 31*8(a0)",
            "csrr a1, sstatus",
            "csrr a2, scause",
            "csrr a3, stval",
            "auipc a4, 0",
            "sd a4, 0(a0)",
            in("a0") registers.general.as_mut_ptr(),
            out("a1") status,
            out("a2") cause,
            out("a3") value,
            out("a4") _,
            options(nostack),
        );
    }
    set_control(&mut registers, [status, cause, value]);
    registers
}

/// Sets satp, which a trap does not change, and the registers that it does.
#[inline(always)]
fn set_control(registers: &mut Registers, [status, cause, value]: [u64; 3]) {
    let satp: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("csrr {}, satp", out(reg) satp, options(nomem, nostack)) };
    for (slot, value) in registers.control.iter_mut().zip([satp, status, cause, value]) {
        *slot = value;
    }
}

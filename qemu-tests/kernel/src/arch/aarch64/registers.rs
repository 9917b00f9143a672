//! Registers of a CPU in the order of `dumpcore::format::note::GENERAL_REGISTERS`: x0 to x30 sp pc pstate,
//! and ttbr0_el1 ttbr1_el1 tcr_el1 sctlr_el1 mair_el1 esr_el1 far_el1.

use core::arch::asm;

use dumpcore::Registers;

use super::frame::Frame;

/// The registers of the code interrupted by an exception.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn of_frame(frame: &Frame) -> Registers {
    let mut registers = Registers::ZERO;
    let all = frame.general.iter().chain([&frame.sp, &frame.pc, &frame.pstate]);
    for (slot, value) in registers.general.iter_mut().zip(all) {
        *slot = *value;
    }
    fill_rest(&mut registers, frame.syndrome, frame.address);
    registers
}

/// The current registers. Inlined, so that they are those of the caller and a debugger can unwind from there.
#[inline(always)]
pub(crate) fn here() -> Registers {
    let mut registers = Registers::ZERO;
    // SAFETY: stores 34 words where there is room for 34, and reads the state of this CPU. x8 is clobbered.
    unsafe {
        asm!(
            "stp x0, x1, [x9]",
            "stp x2, x3, [x9, #16]",
            "stp x4, x5, [x9, #32]",
            "stp x6, x7, [x9, #48]",
            "stp x8, x9, [x9, #64]",
            "stp x10, x11, [x9, #80]",
            "stp x12, x13, [x9, #96]",
            "stp x14, x15, [x9, #112]",
            "stp x16, x17, [x9, #128]",
            "stp x18, x19, [x9, #144]",
            "stp x20, x21, [x9, #160]",
            "stp x22, x23, [x9, #176]",
            "stp x24, x25, [x9, #192]",
            "stp x26, x27, [x9, #208]",
            "stp x28, x29, [x9, #224]",
            "mov x8, sp",
            "stp x30, x8, [x9, #240]",
            "adr x8, .",
            "str x8, [x9, #256]",
            "mrs x10, nzcv",
            "mrs x8, daif",
            "orr x10, x10, x8",
            "mrs x8, CurrentEL",
            "orr x10, x10, x8",
            "mrs x8, spsel",
            "orr x10, x10, x8",
            "str x10, [x9, #264]",
            in("x9") registers.general.as_mut_ptr(),
            out("x8") _,
            out("x10") _,
            options(nostack, preserves_flags),
        );
    }
    let (syndrome, address): (u64, u64);
    // SAFETY: reads the registers that the last fault set.
    unsafe {
        asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) syndrome, out(reg) address,
            options(nomem, nostack, preserves_flags));
    }
    fill_rest(&mut registers, syndrome, address);
    registers
}

/// Fills in the registers that an exception does not change, and its syndrome.
#[unsafe(link_section = ".dump_path.text")]
fn fill_rest(registers: &mut Registers, syndrome: u64, address: u64) {
    let (low, high, control, system, attributes): (u64, u64, u64, u64, u64);
    // SAFETY: reads this CPU's translation registers.
    unsafe {
        asm!("mrs {}, ttbr0_el1", "mrs {}, ttbr1_el1", "mrs {}, tcr_el1", "mrs {}, sctlr_el1", "mrs {}, mair_el1",
            out(reg) low, out(reg) high, out(reg) control, out(reg) system, out(reg) attributes,
            options(nomem, nostack, preserves_flags));
    }
    let all = [low, high, control, system, attributes, syndrome, address];
    for (slot, value) in registers.control.iter_mut().zip(all) {
        *slot = value;
    }
}

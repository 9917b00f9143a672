//! Registers of a CPU in the order of `dumpcore::format::note::GENERAL_REGISTERS`: r15 r14 r13 r12 rbp rbx
//! r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs, and cr0 cr2
//! cr3 cr4 efer.

use dumpcore::Registers;
use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4, Efer};
use x86_64::registers::model_specific::{FsBase, GsBase};
use x86_64::registers::segmentation::{CS, DS, ES, FS, GS, SS, Segment};

use super::frame::Frame;

/// orig_rax outside a system call.
const NO_SYSTEM_CALL: u64 = u64::MAX;

/// The registers of the code interrupted by an exception.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn of_frame(frame: &Frame) -> Registers {
    let mut registers = Registers::ZERO;
    registers.general[..15].copy_from_slice(&frame.general);
    registers.general[15..21].copy_from_slice(&[
        NO_SYSTEM_CALL,
        frame.rip,
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss,
    ]);
    fill_rest(&mut registers);
    registers
}

/// The current registers. Inlined, so that they are those of the caller and a debugger can unwind from there.
#[inline(always)]
pub(crate) fn here() -> Registers {
    let mut registers = Registers::ZERO;
    let (rip, rsp, flags): (u64, u64, u64);
    // SAFETY: stores 15 words where there is room for 34, and reads instruction pointer, stack pointer and
    // flags. The push writes below the stack pointer, and the target has no red zone.
    unsafe {
        core::arch::asm!(
            "mov [rdi], r15",
            "mov [rdi + 8], r14",
            "mov [rdi + 16], r13",
            "mov [rdi + 24], r12",
            "mov [rdi + 32], rbp",
            "mov [rdi + 40], rbx",
            "mov [rdi + 48], r11",
            "mov [rdi + 56], r10",
            "mov [rdi + 64], r9",
            "mov [rdi + 72], r8",
            "mov [rdi + 80], rax",
            "mov [rdi + 88], rcx",
            "mov [rdi + 96], rdx",
            "mov [rdi + 104], rsi",
            "mov [rdi + 112], rdi",
            "pushfq",
            "pop rdx",
            "mov rcx, rsp",
            "lea rax, [rip]",
            // rax points here.
            "nop",
            in("rdi") registers.general.as_mut_ptr(),
            out("rax") rip,
            out("rcx") rsp,
            out("rdx") flags,
        );
    }
    registers.general[15..21].copy_from_slice(&[
        NO_SYSTEM_CALL,
        rip,
        CS::get_reg().0.into(),
        flags,
        rsp,
        SS::get_reg().0.into(),
    ]);
    fill_rest(&mut registers);
    registers
}

/// Fills in the registers that an exception does not change.
#[unsafe(link_section = ".dump_path.text")]
fn fill_rest(registers: &mut Registers) {
    registers.general[21..27].copy_from_slice(&[
        FsBase::read().as_u64(),
        GsBase::read().as_u64(),
        DS::get_reg().0.into(),
        ES::get_reg().0.into(),
        FS::get_reg().0.into(),
        GS::get_reg().0.into(),
    ]);
    registers.control[..5].copy_from_slice(&[
        Cr0::read_raw(),
        Cr2::read_raw(),
        Cr3::read_raw().0.start_address().as_u64(),
        Cr4::read_raw(),
        Efer::read_raw(),
    ]);
}

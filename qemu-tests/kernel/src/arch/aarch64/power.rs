//! Ending the machine: reset, power off, or exit from QEMU.

use core::arch::asm;

use super::{cpu, psci};

/// Resets the machine; halts if the firmware does not.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn reset() -> ! {
    psci::reset();
    cpu::halt()
}

/// Switches the machine off; halts if the firmware does not.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn power_off() -> ! {
    psci::power_off();
    cpu::halt()
}

/// Ends QEMU by semihosting (Arm, Semihosting for AArch32 and AArch64: SYS_EXIT_EXTENDED). The exit status is
/// `2 * value + 1`, as on a PC; needs `-semihosting-config enable=on,target=native`. Without that, this is an
/// undefined instruction.
pub(crate) fn exit(value: u32) -> ! {
    // The reason (application exit) and the status.
    let words = [0x2_0026_u64, 2 * u64::from(value) + 1];
    // SAFETY: the call reads the two words.
    unsafe { asm!("hlt #0xf000", in("w0") 0x20, in("x1") words.as_ptr(), options(nostack)) };
    cpu::halt()
}

//! Ending the machine: reset, power off, or exit from QEMU.

use x86_64::instructions::port::Port;

use super::cpu;

/// Resets the machine through the chipset, then through the keyboard controller; halts if neither works.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn reset() -> ! {
    // SAFETY: these ports have no other function (reset control register of PIIX3 and ICH9; pulse of the
    // reset line).
    unsafe {
        Port::<u8>::new(0xcf9).write(0x02_u8);
        Port::<u8>::new(0xcf9).write(0x06_u8);
        Port::<u8>::new(0x64).write(0xfe_u8);
    }
    cpu::halt()
}

/// Switches the machine off: sleep state S5 through the power management block (ACPI 6.5, 4.8.3.2.1), which
/// the firmware of both QEMU machines puts at port 0x600.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn power_off() -> ! {
    // SAFETY: SLP_EN with QEMU's sleep type for S5.
    unsafe { Port::<u16>::new(0x604).write(0x2000_u16) };
    cpu::halt()
}

/// Ends QEMU with exit status `2 * value + 1`; needs `-device isa-debug-exit,iobase=0xf4,iosize=4`. Without
/// that device, halts.
pub(crate) fn exit(value: u32) -> ! {
    // SAFETY: the port belongs to that device, or to none.
    unsafe { Port::<u32>::new(0xf4).write(value) };
    cpu::halt()
}

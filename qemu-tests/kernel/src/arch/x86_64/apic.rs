//! The local APIC, as far as starting and stopping CPUs needs it (Intel SDM vol. 3, chapter 11, xAPIC mode).

use x86_64::instructions::port::Port;

use super::paging::{self, Access};

/// Where QEMU has it, on every CPU.
const BASE: u64 = 0xfee0_0000;
/// Spurious interrupt vector register; bit 8 enables the APIC.
const SPURIOUS: usize = 0xf0;
/// Interrupt command register, low and high half.
const COMMAND: usize = 0x300;
const DESTINATION: usize = 0x310;

/// What one CPU can send to another.
#[derive(Clone, Copy)]
pub(crate) enum Ipi {
    /// Not maskable: stops it.
    Nmi,
    /// Resets it.
    Init,
    /// Starts it at this page below 1 MiB.
    Startup(u8),
}

/// Makes the registers visible.
///
/// # Safety
/// Once, on the boot CPU while booting.
pub(crate) unsafe fn init() -> Result<(), &'static str> {
    // SAFETY: these are the APIC's registers.
    unsafe { paging::map_physical(BASE, 4096, Access::Device) }.map(|_| ())
}

/// Masks the two old interrupt controllers (8259A, OCW1), which firmware leaves with the timer's line open. This kernel
/// polls; a line that stays pending for ever costs a virtual CPU time at every step.
pub(crate) fn mask_legacy() {
    for port in [0x21, 0xa1] {
        // SAFETY: the mask registers of the two controllers; nothing waits for their interrupts.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}

/// Switches this CPU's APIC on.
pub(crate) fn enable() {
    write(SPURIOUS, 0x1ff);
}

/// Sends to the CPU with this APIC id. Bounded: a command that the APIC does not take is given up.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn send(apic_id: u8, ipi: Ipi) {
    let command = match ipi {
        Ipi::Nmi => 0x4400,
        Ipi::Init => 0x4500,
        Ipi::Startup(page) => 0x4600 | u32::from(page),
    };
    write(DESTINATION, u32::from(apic_id) << 24);
    write(COMMAND, command);
    // Bit 12: delivery pending.
    for _ in 0..100_000 {
        if read(COMMAND) & (1 << 12) == 0 {
            break;
        }
        core::hint::spin_loop();
    }
}

fn read(register: usize) -> u32 {
    // SAFETY: init() has mapped the registers; reading these has no side effect.
    unsafe { paging::direct(BASE).add(register).cast::<u32>().read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: init() has mapped the registers; the values above are what the manual gives.
    unsafe { paging::direct(BASE).add(register).cast::<u32>().write_volatile(value) }
}

//! The local APIC, as needed for starting and stopping CPUs (Intel SDM vol. 3, chapter 11, xAPIC mode).

use x86_64::instructions::port::Port;

use super::frame::WAKE;
use super::paging::{self, Access};

/// QEMU's address of it, on every CPU.
const BASE: u64 = 0xfee0_0000;
/// End of interrupt.
const END: usize = 0xb0;
/// Spurious interrupt vector register; bit 8 enables the APIC.
const SPURIOUS: usize = 0xf0;
/// Local vector table: this CPU's second input pin (LINT1).
const PIN_1: usize = 0x360;
/// Local vector table: the timer, used in one-shot mode.
const TIMER: usize = 0x320;
/// Initial count of the timer; writing it starts the timer.
const TIMER_COUNT: usize = 0x380;
/// Divider of the timer's clock.
const TIMER_DIVIDE: usize = 0x3e0;
const TIMER_DIVIDE_BY_1: u32 = 0b1011;
/// Interrupt command register, low and high half.
const COMMAND: usize = 0x300;
const DESTINATION: usize = 0x310;

/// Messages that one CPU can send to another.
#[derive(Clone, Copy)]
pub(crate) enum Ipi {
    /// Non-maskable: stops it.
    Nmi,
    /// An interrupt with the vector [`WAKE`]: ends its rest.
    Wake,
    /// Resets it.
    Init,
    /// Starts it at this page below 1 MiB.
    Startup(u8),
}

/// Maps the registers.
///
/// # Safety
/// Once, on the boot CPU while booting.
pub(crate) unsafe fn init() -> Result<(), &'static str> {
    // SAFETY: these are the APIC's registers.
    unsafe { paging::map_physical(BASE, 4096, Access::Device) }.map(|_| ())
}

/// Masks the two legacy interrupt controllers (8259A, OCW1), where firmware leaves the timer's line enabled.
/// This kernel polls, and a line that stays pending costs a virtual CPU time at every step.
pub(crate) fn mask_legacy() {
    for port in [0x21, 0xa1] {
        // SAFETY: the mask registers of the two controllers; nothing waits for their interrupts.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}

/// Enables this CPU's APIC.
pub(crate) fn enable() {
    write(SPURIOUS, 0x1ff);
}

/// Lets external NMIs through to this CPU: on a PC they arrive at the boot CPU's second pin.
pub(crate) fn connect_nmi() {
    // Delivery mode NMI, not masked.
    write(PIN_1, 0x400);
}

/// Acknowledges an interrupt, so that the next one gets through.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn end_interrupt() {
    write(END, 0);
}

/// Raises the interrupt [`WAKE`] after this many nanoseconds. QEMU's timer counts nanoseconds; a real one is
/// slower and has to be calibrated.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn alarm(nanoseconds: u64) {
    write(TIMER, WAKE as u32);
    write(TIMER_DIVIDE, TIMER_DIVIDE_BY_1);
    // A count of 0 would stop the timer.
    write(TIMER_COUNT, u32::try_from(nanoseconds).unwrap_or(u32::MAX).max(1));
}

/// Sends to the CPU with this APIC id. Bounded: gives up if the APIC does not take the command.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn send(apic_id: u8, ipi: Ipi) {
    let command = match ipi {
        Ipi::Nmi => 0x4400,
        Ipi::Wake => 0x4000 | WAKE as u32,
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
    // SAFETY: init() has mapped the registers; the values above are those in the manual.
    unsafe { paging::direct(BASE).add(register).cast::<u32>().write_volatile(value) }
}

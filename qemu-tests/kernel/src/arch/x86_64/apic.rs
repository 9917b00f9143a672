//! The local APIC, as far as starting and stopping CPUs needs it (Intel SDM vol. 3, chapter 11, xAPIC mode).

use x86_64::instructions::port::Port;

use super::frame::WAKE;
use super::paging::{self, Access};

/// Where QEMU has it, on every CPU.
const BASE: u64 = 0xfee0_0000;
/// End of interrupt.
const END: usize = 0xb0;
/// Spurious interrupt vector register; bit 8 enables the APIC.
const SPURIOUS: usize = 0xf0;
/// Local vector table: what this CPU's second input pin does.
const PIN_1: usize = 0x360;
/// Local vector table: the timer, which here counts down once.
const TIMER: usize = 0x320;
/// What the timer counts down from; writing it starts the timer.
const TIMER_COUNT: usize = 0x380;
/// By what the timer divides its clock.
const TIMER_DIVIDE: usize = 0x3e0;
const TIMER_DIVIDE_BY_1: u32 = 0b1011;
/// Interrupt command register, low and high half.
const COMMAND: usize = 0x300;
const DESTINATION: usize = 0x310;

/// What one CPU can send to another.
#[derive(Clone, Copy)]
pub(crate) enum Ipi {
    /// Not maskable: stops it.
    Nmi,
    /// An interrupt with the vector [`WAKE`]: ends its rest.
    Wake,
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

/// Lets NMIs from outside through to this CPU: on a PC they come in at the boot CPU's second pin.
pub(crate) fn connect_nmi() {
    // Delivery mode NMI, not masked.
    write(PIN_1, 0x400);
}

/// Ends an interrupt that is not an exception, so that the next one gets through.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn end_interrupt() {
    write(END, 0);
}

/// Has the interrupt [`WAKE`] come in so many nanoseconds. The timer of QEMU counts nanoseconds; a real one is slower, and has
/// to be measured.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn alarm(nanoseconds: u64) {
    write(TIMER, WAKE as u32);
    write(TIMER_DIVIDE, TIMER_DIVIDE_BY_1);
    // A count of 0 would be none.
    write(TIMER_COUNT, u32::try_from(nanoseconds).unwrap_or(u32::MAX).max(1));
}

/// Sends to the CPU with this APIC id. Bounded: a command that the APIC does not take is given up.
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
    // SAFETY: init() has mapped the registers; the values above are what the manual gives.
    unsafe { paging::direct(BASE).add(register).cast::<u32>().write_volatile(value) }
}

//! The serial console: QEMU's first PL011 (Arm PrimeCell UART, DDI 0183), polled. Its address is hard-coded,
//! because errors in the device tree are reported through it.

use super::paging::{self, Access, direct};

/// Address of its registers.
const BASE: u64 = 0x0900_0000;
/// Registers: data, flags, line control, control, interrupts.
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPTS: usize = 0x38;
/// In the flags: the transmit buffer is full.
const FULL: u32 = 1 << 5;
/// Line control: 8 bits, buffers on.
const EIGHT_BITS: u32 = 0b11 << 5 | 1 << 4;
/// Control: transmitter, receiver and UART enabled.
const ON: u32 = 1 << 9 | 1 << 8 | 1;
/// Maximum number of polls for the transmitter to become ready; then the byte is written anyway.
const PATIENCE: u32 = 100_000;

fn register(offset: usize) -> *mut u32 {
    direct(BASE).wrapping_add(offset).cast()
}

/// 8 bits, no parity, at the firmware's baud rate; no interrupts. The boot tables map all devices.
pub(crate) fn init() {
    for (offset, value) in [(CONTROL, 0), (INTERRUPTS, 0), (LINE, EIGHT_BITS), (CONTROL, ON)] {
        // SAFETY: registers of the console, which is ours.
        unsafe { register(offset).write_volatile(value) };
    }
}

/// Maps the registers in the final page tables.
///
/// # Safety
/// On the boot CPU while booting.
pub(super) unsafe fn map() -> Result<(), &'static str> {
    // SAFETY: the registers of the console; the caller is booting.
    unsafe { paging::map_physical(BASE, 4096, Access::Device) }.map(|_| ())
}

/// Sends a byte as soon as the console is ready, or after a timeout.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn put(byte: u8) {
    for _ in 0..PATIENCE {
        // SAFETY: reading the console's flags has no side effect.
        if unsafe { register(FLAGS).read_volatile() } & FULL == 0 {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the transmit register of the console.
    unsafe { register(DATA).write_volatile(byte.into()) };
}

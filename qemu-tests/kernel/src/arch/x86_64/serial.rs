//! The serial console: COM1 (NS16550A), polled.

use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;
/// Maximum number of polls for the transmitter to become ready; then the byte is written anyway.
const PATIENCE: u32 = 100_000;

/// 115200 baud, 8 bits, no parity; no interrupts.
pub(crate) fn init() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0x07), (4, 0x03)] {
        // SAFETY: the registers of COM1.
        unsafe { Port::<u8>::new(COM1 + register).write(value) };
    }
}

/// Sends a byte as soon as the console is ready, or after a timeout.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn put(byte: u8) {
    let mut status = Port::<u8>::new(COM1 + 5);
    for _ in 0..PATIENCE {
        // SAFETY: reading the line status of COM1 loses at most an error bit that is not used.
        if unsafe { status.read() } & 0x20 != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the transmit register of COM1.
    unsafe { Port::<u8>::new(COM1).write(byte) };
}

//! The serial console: COM1 (NS16550A), polled, as the firmware has set it up.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;
/// Looks at a transmitter that does not become ready, before the byte is written anyway.
const PATIENCE: u32 = 100_000;

static BUSY: AtomicBool = AtomicBool::new(false);

/// 115200 baud, 8 bits, no parity; no interrupts.
pub(crate) fn init() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0x07), (4, 0x03)] {
        // SAFETY: the registers of COM1.
        unsafe { Port::<u8>::new(COM1 + register).write(value) };
    }
}

/// Writes text, whole lines in one piece. A CPU that died while writing is waited for a moment only.
pub(crate) fn write(text: &str) {
    let mut ours = false;
    for _ in 0..1_000_000 {
        ours = BUSY.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if ours {
            break;
        }
        core::hint::spin_loop();
    }
    write_raw(text);
    if ours {
        BUSY.store(false, Ordering::Release);
    }
}

/// Writes text at once. For the dump: takes no lock and changes no memory.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn write_raw(text: &str) {
    for byte in text.bytes() {
        if byte == b'\n' {
            put(b'\r');
        }
        put(byte);
    }
}

#[unsafe(link_section = ".dump_path.text")]
fn put(byte: u8) {
    let mut status = Port::<u8>::new(COM1 + 5);
    for _ in 0..PATIENCE {
        // SAFETY: reading the line status of COM1 loses at most an error bit that nobody looks at.
        if unsafe { status.read() } & 0x20 != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the transmit register of COM1.
    unsafe { Port::<u8>::new(COM1).write(byte) };
}

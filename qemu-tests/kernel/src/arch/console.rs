//! Text on the console, whatever it is: the architecture sends the bytes.

use core::sync::atomic::{AtomicBool, Ordering};

use super::serial::put;

/// A CPU is writing.
static BUSY: AtomicBool = AtomicBool::new(false);

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

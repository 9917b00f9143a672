//! Text output on the architecture's serial console.

use core::sync::atomic::{AtomicBool, Ordering};

use super::serial::put;

/// Set while a CPU is writing.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Writes text without mixing it with that of other CPUs. If a CPU died while writing, waits only a moment.
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

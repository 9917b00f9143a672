//! Calls to the firmware (RISC-V Supervisor Binary Interface 1.0). The firmware's own work bounds a call; it
//! only changes the firmware's memory, which is not part of the kernel's RAM.

/// Console, one byte at a time: legacy, and the only one that every firmware has.
const CONSOLE: u64 = 1;
/// Timer.
const TIME: u64 = 0x5449_4d45;
/// Interrupts between harts.
const IPI: u64 = 0x0073_5049;
/// Starting harts.
const HSM: u64 = 0x0048_534d;
/// Reset of the machine.
const SRST: u64 = 0x5352_5354;

/// Kinds of reset, for [`SRST`].
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Reset {
    /// Power off.
    Shutdown = 0,
    /// Power off and on.
    Cold = 1,
}

/// Calls function `function` of an extension; returns the error, 0 if there was none.
#[inline(always)]
fn call(extension: u64, function: u64, arguments: [u64; 3]) -> u64 {
    let [first, second, third] = arguments;
    let error;
    // SAFETY: the calls below follow the specification. All other registers are preserved (chapter 3), and so
    // is memory, because no call gets an address.
    unsafe {
        core::arch::asm!(
            "ecall",
            inlateout("a0") first => error,
            inlateout("a1") second => _,
            in("a2") third,
            in("a6") function,
            in("a7") extension,
            options(nostack),
        );
    }
    error
}

/// Writes to the firmware's console, before another one is available.
pub(super) fn write(text: &str) {
    for byte in text.bytes() {
        let _ = call(CONSOLE, 0, [byte.into(), 0, 0]);
    }
}

/// Raises this hart's timer interrupt when `time` reaches this count, and clears a pending one.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn set_timer(count: u64) {
    // Every SBI since 0.2 has it; without it, a rest lasts until another CPU ends it.
    let _ = call(TIME, 0, [count, 0, 0]);
}

/// Raises the software interrupt of another hart.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn send_ipi(hart: u64) {
    // One bit, relative to this hart. A missing hart does not respond, which the caller notices.
    let _ = call(IPI, 0, [1, hart, 0]);
}

/// Starts a hart at a physical address, with paging off. With OpenSBI up to 1.1, it may arrive at the
/// kernel's entry instead.
pub(super) fn start_hart(hart: u64, at: u64) -> Result<(), u64> {
    match call(HSM, 0, [hart, at, 0]) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Resets the machine; returns only if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn reset(how: Reset) {
    // No reason is given: the firmware has no use for it.
    let _ = call(SRST, 0, [how as u64, 0, 0]);
}

//! Calls of the firmware below (RISC-V Supervisor Binary Interface 1.0). A call is bounded by the firmware's own work; it
//! changes no memory but the firmware's, which is not the kernel's RAM.

/// Console, one byte at a time: old, and the only one that every firmware has.
const CONSOLE: u64 = 1;
/// Timer.
const TIME: u64 = 0x5449_4d45;
/// Interrupts between harts.
const IPI: u64 = 0x0073_5049;
/// Starting harts.
const HSM: u64 = 0x0048_534d;
/// Reset of the machine.
const SRST: u64 = 0x5352_5354;

/// What a reset is to do, of [`SRST`].
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Reset {
    /// Power off.
    Shutdown = 0,
    /// Power off and on.
    Cold = 1,
}

/// Calls function `function` of an extension; gives the error, 0 if there was none.
#[inline(always)]
fn call(extension: u64, function: u64, arguments: [u64; 3]) -> u64 {
    let [first, second, third] = arguments;
    let error;
    // SAFETY: the calls below do what the specification says. Registers but these two are kept (chapter 3), and so is
    // memory, which none of them is given.
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

/// Writes to the firmware's console, for when there is no other yet.
pub(super) fn write(text: &str) {
    for byte in text.bytes() {
        let _ = call(CONSOLE, 0, [byte.into(), 0, 0]);
    }
}

/// Raises this hart's timer interrupt when `time` reaches this count, and ends the one that is raised.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn set_timer(count: u64) {
    // Every SBI since 0.2 has it, and without it a rest lasts until another CPU ends it.
    let _ = call(TIME, 0, [count, 0, 0]);
}

/// Raises the software interrupt of another hart.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn send_ipi(hart: u64) {
    // One bit, counted from this hart on. A hart that is not there stays silent, as the caller sees.
    let _ = call(IPI, 0, [1, hart, 0]);
}

/// Starts a hart at a physical address, with paging off. With OpenSBI up to 1.1 it may come to the kernel's entry instead.
pub(super) fn start_hart(hart: u64, at: u64) -> Result<(), u64> {
    match call(HSM, 0, [hart, at, 0]) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Resets the machine; comes back only if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn reset(how: Reset) {
    // No reason is given: a crashed kernel has asked for it, but the firmware has no use for that.
    let _ = call(SRST, 0, [how as u64, 0, 0]);
}

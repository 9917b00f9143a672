//! Power State Coordination Interface (Arm DEN 0022): the firmware, or QEMU in its place, controls the power
//! of CPUs and machine.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::arch::virt::device_tree;

/// Starts a CPU. Arguments: its affinity, its physical start address, and its value of x0.
const CPU_ON: u32 = 0xc400_0003;
/// Switches the machine off.
const SYSTEM_OFF: u32 = 0x8400_0008;
/// Resets the machine.
const SYSTEM_RESET: u32 = 0x8400_0009;

/// How to call the firmware; 0 if unknown.
static METHOD: AtomicU8 = AtomicU8::new(0);
const HVC: u8 = 1;
const SMC: u8 = 2;

/// Finds out how to call the firmware.
pub(super) fn init() -> Result<(), &'static str> {
    let method = match device_tree::at("/psci").and_then(|psci| device_tree::text(psci, "method")) {
        Some("hvc") => HVC,
        Some("smc") => SMC,
        _ => return Err("the device tree does not say how PSCI is called"),
    };
    METHOD.store(method, Ordering::Relaxed);
    Ok(())
}

/// Calls the firmware; `None` if it cannot be called.
#[unsafe(link_section = ".dump_path.text")]
fn call(function: u32, words: [u64; 3]) -> Option<i64> {
    let [first, second, third] = words;
    let mut result = u64::from(function);
    match METHOD.load(Ordering::Relaxed) {
        // SAFETY: the firmware follows the C calling convention (Arm DEN 0028).
        HVC => unsafe {
            asm!("hvc #0", inout("x0") result, in("x1") first, in("x2") second, in("x3") third, clobber_abi("C"));
        },
        // SAFETY: as above.
        SMC => unsafe {
            asm!("smc #0", inout("x0") result, in("x1") first, in("x2") second, in("x3") third, clobber_abi("C"));
        },
        _ => return None,
    }
    Some(result as i64)
}

/// Starts the CPU with this affinity at a physical address, with `word` in x0; returns whether the firmware
/// accepts.
pub(super) fn start(affinity: u64, address: u64, word: u64) -> bool {
    call(CPU_ON, [affinity, address, word]) == Some(0)
}

/// Switches the machine off; returns only if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn power_off() {
    call(SYSTEM_OFF, [0; 3]);
}

/// Resets the machine; returns only if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn reset() {
    call(SYSTEM_RESET, [0; 3]);
}

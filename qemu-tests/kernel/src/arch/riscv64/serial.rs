//! The serial console: an NS16550A in memory, polled, as the firmware has set it up.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Registers: transmit; interrupts; line status.
const TRANSMIT: usize = 0;
const INTERRUPTS: usize = 1;
const STATUS: usize = 5;
/// In the line status: there is room for a byte.
const READY: u8 = 1 << 5;
/// Registers that it has.
const REGISTERS: u64 = 8;
/// Looks at a transmitter that does not become ready, before the byte is written anyway.
const PATIENCE: u32 = 100_000;

/// Where it is seen; 0 if it is not known yet.
static START: AtomicUsize = AtomicUsize::new(0);
/// From one register to the next, as a power of two.
static SHIFT: AtomicU32 = AtomicU32::new(0);
/// Finds it in the device tree. The direct map of the boot tables shows it, as that of the final ones will when [`map`] was
/// called.
pub(crate) fn init() {
    let Some(node) = device_tree::find("ns16550a") else { return };
    let Some((address, size)) = device_tree::registers(node, 0) else { return };
    let shift = device_tree::number(node, "reg-shift").unwrap_or(0).min(3);
    if size >= REGISTERS << shift {
        SHIFT.store(shift, Ordering::Relaxed);
        START.store(paging::direct(address) as usize, Ordering::Release);
        write_register(INTERRUPTS, 0);
    }
}

/// Has the final tables show it.
///
/// # Safety
/// Once, on the boot CPU, on the boot tables, when there are final ones.
pub(super) unsafe fn map() -> Result<(), &'static str> {
    let start = START.load(Ordering::Relaxed);
    if start != 0 {
        let length = REGISTERS << SHIFT.load(Ordering::Relaxed);
        // SAFETY: these are its registers; the caller is booting.
        unsafe { paging::map_physical(paging::physical(start as *const u8), length, Access::Device)? };
    }
    Ok(())
}

/// Sends a byte, as soon as the console takes it, or when it has been waited for long enough.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn put(byte: u8) {
    let Some(status) = register(STATUS) else { return };
    for _ in 0..PATIENCE {
        // SAFETY: reading the line status loses at most an error bit that nobody looks at.
        if unsafe { status.read_volatile() } & READY != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    write_register(TRANSMIT, byte);
}

#[unsafe(link_section = ".dump_path.text")]
fn register(number: usize) -> Option<*mut u8> {
    let start = START.load(Ordering::Relaxed) as *mut u8;
    let offset = number << (SHIFT.load(Ordering::Relaxed) & 3);
    (!start.is_null()).then(|| start.wrapping_add(offset))
}

#[unsafe(link_section = ".dump_path.text")]
fn write_register(number: usize, value: u8) {
    if let Some(register) = register(number) {
        // SAFETY: one of its registers, which is visible.
        unsafe { register.write_volatile(value) };
    }
}

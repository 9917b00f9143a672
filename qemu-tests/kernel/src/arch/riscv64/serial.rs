//! The serial console: a memory-mapped NS16550A, polled, as configured by the firmware.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Registers: transmit; interrupts; line status.
const TRANSMIT: usize = 0;
const INTERRUPTS: usize = 1;
const STATUS: usize = 5;
/// In the line status: the transmitter is ready for a byte.
const READY: u8 = 1 << 5;
/// Number of registers.
const REGISTERS: u64 = 8;
/// Maximum number of polls for the transmitter to become ready; then the byte is written anyway.
const PATIENCE: u32 = 100_000;

/// Its virtual address; 0 if not known yet.
static START: AtomicUsize = AtomicUsize::new(0);
/// log2 of the distance between registers.
static SHIFT: AtomicU32 = AtomicU32::new(0);
/// Finds it in the device tree. It is in the direct map of the boot tables, and after [`map`] in that of the
/// final ones.
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

/// Maps it in the final tables.
///
/// # Safety
/// Once, on the boot CPU, on the boot tables, when the final ones exist.
pub(super) unsafe fn map() -> Result<(), &'static str> {
    let start = START.load(Ordering::Relaxed);
    if start != 0 {
        let length = REGISTERS << SHIFT.load(Ordering::Relaxed);
        // SAFETY: these are its registers; the caller is booting.
        unsafe { paging::map_physical(paging::physical(start as *const u8), length, Access::Device)? };
    }
    Ok(())
}

/// Sends a byte as soon as the console is ready, or after a timeout.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn put(byte: u8) {
    let Some(status) = register(STATUS) else { return };
    for _ in 0..PATIENCE {
        // SAFETY: reading the line status loses at most an error bit that is not used.
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
        // SAFETY: one of its registers, which is mapped.
        unsafe { register.write_volatile(value) };
    }
}

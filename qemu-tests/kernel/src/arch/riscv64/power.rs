//! Ending the machine: reset, power off, or exit from QEMU.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::cpu;
use super::sbi::{self, Reset};
use crate::arch::clock;
use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Bytes of the test device's registers.
const TEST_SIZE: u64 = 4;
/// Writing this ends QEMU with the exit code in the upper half.
const TEST_FAIL: u32 = 0x3333;

/// How long QEMU may take to exit, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// Virtual address of the test device (SiFive's, which QEMU turns into an exit code); 0 if there is none.
static TEST: AtomicUsize = AtomicUsize::new(0);

/// Finds the test device.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(super) unsafe fn init() -> Result<(), &'static str> {
    let test = device_tree::find("sifive,test0").and_then(|node| device_tree::registers(node, 0));
    if let Some((address, size)) = test
        && size >= TEST_SIZE
    {
        // SAFETY: these are its registers; the caller is booting.
        let seen = unsafe { paging::map_physical(address, TEST_SIZE, Access::Device)? };
        TEST.store(seen as usize, Ordering::Relaxed);
    }
    Ok(())
}

/// Resets the machine; halts if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn reset() -> ! {
    sbi::reset(Reset::Cold);
    cpu::halt()
}

/// Switches the machine off; halts if the firmware cannot.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn power_off() -> ! {
    sbi::reset(Reset::Shutdown);
    cpu::halt()
}

/// Ends QEMU with exit status `2 * value + 1`, as on x86_64. Without the test device, switches the machine
/// off.
pub(crate) fn exit(value: u32) -> ! {
    let test = TEST.load(Ordering::Relaxed) as *mut u32;
    if !test.is_null() {
        // SAFETY: init() has mapped the register.
        unsafe { test.write_volatile((2 * value + 1) << 16 | TEST_FAIL) };
        // QEMU does not exit at once, and powering off through the firmware meanwhile would change the exit
        // status.
        let begin = clock::now();
        while clock::now().saturating_sub(begin) < PATIENCE {
            core::hint::spin_loop();
        }
    }
    power_off()
}

//! How the machine ends: reset, power off, or QEMU's way out.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::cpu;
use super::sbi::{self, Reset};
use crate::arch::clock;
use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Bytes of the test device's registers.
const TEST_SIZE: u64 = 4;
/// What written to it ends QEMU with an exit code, which goes into the upper half.
const TEST_FAIL: u32 = 0x3333;

/// How long QEMU may take to end, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// Where the test device is seen (SiFive's, of which QEMU makes an exit code); 0 if there is none.
static TEST: AtomicUsize = AtomicUsize::new(0);

/// Learns where the test device is.
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

/// Resets the machine, and if the firmware cannot, stays.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn reset() -> ! {
    sbi::reset(Reset::Cold);
    cpu::halt()
}

/// Switches the machine off, and if the firmware cannot, stays.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn power_off() -> ! {
    sbi::reset(Reset::Shutdown);
    cpu::halt()
}

/// Ends QEMU, whose exit status becomes `2 * value + 1`, as on x86_64. Without the test device, switches the machine off.
pub(crate) fn exit(value: u32) -> ! {
    let test = TEST.load(Ordering::Relaxed) as *mut u32;
    if !test.is_null() {
        // SAFETY: init() has mapped the register.
        unsafe { test.write_volatile((2 * value + 1) << 16 | TEST_FAIL) };
        // QEMU does not end at once, and the firmware's way to switch off would give it another exit status meanwhile.
        let begin = clock::now();
        while clock::now().saturating_sub(begin) < PATIENCE {
            core::hint::spin_loop();
        }
    }
    power_off()
}

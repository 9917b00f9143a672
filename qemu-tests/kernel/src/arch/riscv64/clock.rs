//! Time: nanoseconds from the `time` counter, with the frequency in the device tree; time of day from QEMU's
//! clock (Goldfish RTC).

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Registers of the Goldfish RTC: nanoseconds since 1970. Reading the lower half latches the upper one.
const TIME_LOW: usize = 0x00;
const TIME_HIGH: usize = 0x04;
const RTC_SIZE: u64 = 8;
const SECOND: u64 = 1_000_000_000;

/// The counter when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Counts per nanosecond, times 2^32.
static INVERSE: AtomicU64 = AtomicU64::new(1 << 32);
/// Virtual address of the clock's registers; 0 if there is none.
static RTC: AtomicUsize = AtomicUsize::new(0);

#[inline(always)]
fn counter() -> u64 {
    let count;
    // SAFETY: the firmware lets supervisor mode read the counter, which has no side effect.
    unsafe { core::arch::asm!("rdtime {}", out(reg) count, options(nomem, nostack)) };
    count
}

/// Determines the counter's frequency and finds the clock.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(super) unsafe fn init() -> Result<(), &'static str> {
    let frequency = device_tree::at("/cpus").and_then(|cpus| device_tree::number(cpus, "timebase-frequency"));
    let frequency = u64::from(frequency.ok_or("the device tree does not say how fast time goes")?.max(1));
    SCALE.store(((SECOND << 32) / frequency).max(1), Ordering::Relaxed);
    INVERSE.store((frequency << 32) / SECOND, Ordering::Relaxed);
    START.store(counter(), Ordering::Relaxed);
    let rtc = device_tree::find("google,goldfish-rtc").and_then(|node| device_tree::registers(node, 0));
    if let Some((address, size)) = rtc
        && size >= RTC_SIZE
    {
        // SAFETY: these are the clock's registers; the caller is booting.
        RTC.store(
            unsafe { paging::map_physical(address, RTC_SIZE, Access::Device)? } as usize,
            Ordering::Relaxed,
        );
    }
    Ok(())
}

fn scaled(value: u64, scale: &AtomicU64) -> u64 {
    ((u128::from(value) * u128::from(scale.load(Ordering::Relaxed))) >> 32) as u64
}

/// Nanoseconds since the kernel started. The counters of all CPUs are synchronous. Writes no memory, because
/// the dump calls it while reading memory.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn now() -> u64 {
    scaled(counter().wrapping_sub(START.load(Ordering::Relaxed)), &SCALE)
}

/// The counter's value this many nanoseconds from now.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn count_after(nanoseconds: u64) -> u64 {
    counter().saturating_add(scaled(nanoseconds, &INVERSE))
}

/// Busy-waits, in the healthy kernel.
pub(crate) fn pause(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Seconds since 1970-01-01 UTC, `None` without a clock.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wall_clock() -> Option<u64> {
    let rtc = RTC.load(Ordering::Relaxed) as *const u8;
    if rtc.is_null() {
        return None;
    }
    // SAFETY: init() has mapped these registers; reading them only latches the upper half.
    let [low, high] = [TIME_LOW, TIME_HIGH]
        .map(|register| u64::from(unsafe { rtc.add(register).cast::<u32>().read_volatile() }));
    Some((high << 32 | low) / SECOND)
}

//! Time: nanoseconds from the generic timer (Arm ARM, D11), time of day from the PL031 clock.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// The counter when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Virtual address of the clock's registers; 0 if there is none.
static CLOCK: AtomicU64 = AtomicU64::new(0);

fn counter() -> u64 {
    let count;
    // SAFETY: reads the counter; the barrier keeps that from happening early.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags)) };
    count
}

/// Counter frequency in Hz.
fn frequency() -> u64 {
    let hertz;
    // SAFETY: reads the frequency that the firmware has set.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
    hertz
}

/// Starts the clock and finds the PL031.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(super) unsafe fn init() -> Result<(), &'static str> {
    let scale = (1_000_000_000_u64 << 32).checked_div(frequency()).ok_or("the timer has no frequency")?;
    SCALE.store(scale.max(1), Ordering::Relaxed);
    START.store(counter(), Ordering::Relaxed);
    if let Some((address, size)) =
        device_tree::find("arm,pl031").and_then(|clock| device_tree::registers(clock, 0))
    {
        // SAFETY: these are the clock's registers; the caller is booting.
        let registers = unsafe { paging::map_physical(address, size, Access::Device)? };
        CLOCK.store(registers as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Nanoseconds since the kernel started. All CPUs have the same counter.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn now() -> u64 {
    let counts = counter().wrapping_sub(START.load(Ordering::Relaxed));
    ((u128::from(counts) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Busy-waits, in the healthy kernel.
pub(crate) fn pause(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Makes the timer interrupt this CPU after this many nanoseconds.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn set_alarm(nanoseconds: u64) {
    let counts = ((u128::from(nanoseconds) << 32) / u128::from(SCALE.load(Ordering::Relaxed).max(1)))
        .min(i32::MAX as u128);
    // SAFETY: only this code uses the virtual timer; control 1 switches on the timer and its interrupt.
    unsafe {
        asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) counts as u64, in(reg) 1_u64,
            options(nostack, preserves_flags));
    }
}

/// Cancels the alarm, or acknowledges it.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn end_alarm() {
    // SAFETY: as in set_alarm().
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack, preserves_flags)) };
}

/// Seconds since 1970-01-01 UTC (Arm PrimeCell Real Time Clock PL031, DDI 0224: register RTCDR).
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wall_clock() -> Option<u64> {
    let registers = CLOCK.load(Ordering::Relaxed) as *const u32;
    // SAFETY: init() has mapped the clock's registers; reading this one has no side effect.
    let seconds = if registers.is_null() { 0 } else { unsafe { registers.read_volatile() } };
    (seconds != 0).then_some(seconds.into())
}

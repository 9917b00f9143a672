//! A platform that is only a clock, advanced by hand: each look at it lets a step pass, for the fake device too.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use dumpcore::platform::{Nanoseconds, Platform, RamRange, ResetPolicy};

use super::VirtioBlkFake;

/// Time, and a device that lives in it.
pub struct ClockPlatform {
    now: AtomicU64,
    step: Nanoseconds,
    device: Option<VirtioBlkFake>,
    pats: AtomicU64,
}

impl ClockPlatform {
    /// A clock that moves by `step` nanoseconds with each look, and `device` with it.
    pub fn new(step: Nanoseconds, device: Option<VirtioBlkFake>) -> ClockPlatform {
        ClockPlatform { now: AtomicU64::new(1), step, device, pats: AtomicU64::new(0) }
    }

    /// The time, without moving it.
    pub fn peek(&self) -> Nanoseconds {
        self.now.load(Ordering::Relaxed)
    }

    /// How often the watchdog was patted.
    pub fn pats(&self) -> u64 {
        self.pats.load(Ordering::Relaxed)
    }
}

// SAFETY: there is no memory and no code to make promises about, and on_stack is the default.
unsafe impl Platform for ClockPlatform {
    fn now(&self) -> Nanoseconds {
        if let Some(device) = &self.device {
            device.tick();
        }
        self.now.fetch_add(self.step, Ordering::Relaxed)
    }

    fn console(&self, _: &str) {}

    fn ram(&self, _: &mut dyn FnMut(RamRange)) {}

    fn page(&self, _: u64) -> Option<NonNull<u8>> {
        None
    }

    fn reset(&self, _: ResetPolicy) {}

    fn pat_watchdog(&self) {
        self.pats.fetch_add(1, Ordering::Relaxed);
    }
}

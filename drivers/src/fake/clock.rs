//! A platform that is only a clock, advanced by hand: each read of it advances the time by a step, for the
//! fake device too. For memory that is not coherent, it does the cache maintenance.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use dumpcore::platform::{Nanoseconds, Platform, RamRange, ResetPolicy};

use super::{DmaMemory, Tick};

/// The time, and a device that shares it.
pub struct ClockPlatform {
    now: AtomicU64,
    step: Nanoseconds,
    device: Option<Box<dyn Tick>>,
    memory: Option<DmaMemory>,
    pats: AtomicU64,
}

impl ClockPlatform {
    /// A clock that advances by `step` nanoseconds with each read.
    pub fn new(step: Nanoseconds) -> ClockPlatform {
        ClockPlatform { now: AtomicU64::new(1), step, device: None, memory: None, pats: AtomicU64::new(0) }
    }

    /// Adds a device that shares the time.
    #[must_use]
    pub fn with(mut self, device: impl Tick + 'static) -> ClockPlatform {
        self.device = Some(Box::new(device));
        self
    }

    /// Adds the caches of this memory.
    #[must_use]
    pub fn over(mut self, memory: DmaMemory) -> ClockPlatform {
        self.memory = Some(memory);
        self
    }

    /// The time, without advancing it.
    pub fn peek(&self) -> Nanoseconds {
        self.now.load(Ordering::Relaxed)
    }

    /// How often the watchdog was patted.
    pub fn pats(&self) -> u64 {
        self.pats.load(Ordering::Relaxed)
    }
}

// SAFETY: there is no memory to read and no code to make promises about, and on_stack is the default.
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

    fn clean_for_device(&self, start: *const u8, length: usize) {
        if let Some(memory) = &self.memory {
            memory.clean(start, length);
        }
    }

    fn invalidate_from_device(&self, start: *const u8, length: usize) {
        if let Some(memory) = &self.memory {
            memory.invalidate(start, length);
        }
    }
}

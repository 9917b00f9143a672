//! The kernel's platform with sabotage: some scenarios disturb the dump from inside. A real kernel has
//! nothing like this.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dumpcore::deferred::HostQueues;
use dumpcore::format::Block;
use dumpcore::platform::{ClassRun, CodeRange, Guarded, Nanoseconds, RamRange};
use dumpcore::{Platform, Registers, ResetPolicy};

use super::footprint;
use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::{clock, hotplug};
use crate::{platform, stop};

/// The kernel's platform, with the disturbances of scenarios.
pub(crate) struct Sabotaged;

// SAFETY: all promises are those of the kernel's own platform.
unsafe impl Platform for Sabotaged {
    fn now(&self) -> Nanoseconds {
        platform::get().now()
    }

    fn console(&self, text: &str) {
        SABOTAGE.at_console();
        platform::get().console(text);
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        platform::get().ram(visit);
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        SABOTAGE.at_page();
        platform::get().page(pfn)
    }

    fn has_guard(&self) -> bool {
        platform::get().has_guard()
    }

    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        platform::get().guarded_copy(from, to)
    }

    fn class(&self, pfn: u64) -> ClassRun {
        platform::get().class(pfn)
    }

    fn still(&self, pfn: u64) -> Option<u64> {
        platform::get().still(pfn)
    }

    fn reset(&self, policy: ResetPolicy) {
        footprint::report();
        platform::get().reset(policy);
    }

    fn cpu(&self) -> u32 {
        platform::get().cpu()
    }

    fn cpus(&self) -> u32 {
        platform::get().cpus()
    }

    fn stop_cpus(&self) {
        platform::get().stop_cpus();
    }

    fn all_stopped(&self) -> bool {
        platform::get().all_stopped()
    }

    fn rest(&self, nanoseconds: Nanoseconds) {
        platform::get().rest(nanoseconds);
    }

    fn resume_cpus(&self) {
        platform::get().resume_cpus();
    }

    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        platform::get().entropy(bytes)
    }

    fn registers(&self, cpu: u32) -> Option<Registers> {
        platform::get().registers(cpu)
    }

    fn pat_watchdog(&self) {
        SABOTAGE.at_watchdog();
        platform::get().pat_watchdog();
    }

    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        platform::get().log(offset, piece)
    }

    fn log_length(&self) -> u64 {
        platform::get().log_length()
    }

    fn wall_clock(&self) -> Option<u64> {
        platform::get().wall_clock()
    }

    fn build_id(&self) -> &[u8] {
        platform::get().build_id()
    }

    fn system(&self) -> &str {
        platform::get().system()
    }

    fn code_ranges(&self) -> &[CodeRange] {
        platform::get().code_ranges()
    }

    fn host_queues(&self) -> Option<&dyn HostQueues> {
        platform::get().host_queues()
    }

    fn clean_for_device(&self, start: *const u8, length: usize) {
        platform::get().clean_for_device(start, length);
    }

    fn invalidate_from_device(&self, start: *const u8, length: usize) {
        platform::get().invalidate_from_device(start, length);
    }

    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        platform::get().on_stack(stack, run)
    }
}

/// The requested disturbances.
pub(crate) struct Sabotage {
    console: AtomicBool,
    pages: AtomicU32,
    /// At which page read a helper is disturbed; 0 if none is, or one was already.
    helper_page: AtomicU32,
    /// Number of page reads of each CPU.
    helper_looks: [AtomicU32; MAX_CPUS],
    /// How late it is, in nanoseconds; 0 means forever.
    helper_late: AtomicU64,
    /// The PCI slot that may be ejected, as a bit.
    slot: AtomicU32,
}

/// Inactive, unless a scenario activates it.
pub(crate) static SABOTAGE: Sabotage = Sabotage {
    console: AtomicBool::new(false),
    pages: AtomicU32::new(0),
    helper_page: AtomicU32::new(0),
    helper_looks: [const { AtomicU32::new(0) }; MAX_CPUS],
    helper_late: AtomicU64::new(0),
    slot: AtomicU32::new(0),
};

impl Sabotage {
    /// Makes the next line on the console panic.
    pub(crate) fn set_console(&self) {
        self.console.store(true, Ordering::Relaxed);
    }

    /// Makes the `pages`th page read from now on panic.
    pub(crate) fn set_pages(&self, pages: u32) {
        self.pages.store(pages, Ordering::Relaxed);
    }

    /// Makes the first helper that reads its `page`th page late by this many nanoseconds, or never return.
    pub(crate) fn set_helper(&self, page: u32, late: Option<Nanoseconds>) {
        self.helper_late.store(late.unwrap_or(0), Ordering::Relaxed);
        self.helper_page.store(page, Ordering::Relaxed);
    }

    /// Lets the disk in this PCI slot be ejected during the dump, on request.
    pub(crate) fn set_unplug(&self, slot: u32) {
        self.slot.store(slot, Ordering::Relaxed);
    }

    fn at_console(&self) {
        if self.console.load(Ordering::Relaxed) {
            self.console.store(false, Ordering::Relaxed);
            panic!("the console panics, as the scenario asks");
        }
    }

    fn at_page(&self) {
        let left = self.pages.load(Ordering::Relaxed);
        if left > 0 {
            self.pages.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                panic!("the memory access panics, as the scenario asks");
            }
        }
        let page = self.helper_page.load(Ordering::Relaxed);
        if page > 0 {
            self.at_helpers_page(page);
        }
    }

    fn at_helpers_page(&self, page: u32) {
        let own = cpu::number();
        let Some(looks) = self.helper_looks.get(own).filter(|_| stop::registers(own).is_some()) else {
            return;
        };
        let now = looks.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if now != page || self.helper_page.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        match self.helper_late.load(Ordering::Relaxed) {
            0 => cpu::halt(),
            late => clock::pause(late),
        }
    }

    fn at_watchdog(&self) {
        let slot = self.slot.load(Ordering::Relaxed);
        if slot != 0 {
            hotplug::eject_if_asked(slot);
        }
    }
}

//! The `Platform` of a Linux kernel.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use dumpcore::format::{Block, PAGE_BYTES};
use dumpcore::platform::{
    ClassRun, CodeRange, Guarded, Nanoseconds, PageClass, Platform, RamRange, Registers, ResetPolicy,
};

use crate::lent::{Lent, clock};
use crate::{cpus, kernel, stop};

/// The platform.
pub(crate) struct Linux {
    /// Set before arming.
    facts: UnsafeCell<Facts>,
    /// The state in the arena; null if nothing is armed.
    lent: AtomicPtr<Lent>,
}

/// Facts that do not change while armed.
struct Facts {
    code: [CodeRange; 2],
    build_id: ([u8; BUILD_ID], usize),
    system: ([u8; SYSTEM], usize),
}

/// Maximum length of a build id in bytes.
const BUILD_ID: usize = 32;

/// Maximum length of the system's name in bytes.
const SYSTEM: usize = 128;

// SAFETY: the facts only change in prepare(), when nothing is armed.
unsafe impl Sync for Linux {}

impl Linux {
    /// A platform without state.
    pub(crate) const fn new() -> Linux {
        Linux {
            facts: UnsafeCell::new(Facts {
                code: [const { CodeRange { start: core::ptr::null(), length: 0 } }; 2],
                build_id: ([0; BUILD_ID], 0),
                system: ([0; SYSTEM], 0),
            }),
            lent: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// The state in the arena; `None` if nothing is armed.
    pub(crate) fn lent(&self) -> Option<&'static Lent> {
        // SAFETY: lend() stored it; it is taken back only when nothing is armed here and no CPU is stopped.
        unsafe { self.lent.load(Ordering::Acquire).as_ref() }
    }

    /// Sets the state.
    pub(crate) fn lend(&self, lent: &'static Lent) {
        self.lent.store(core::ptr::from_ref(lent).cast_mut(), Ordering::Release);
    }

    /// Removes the state.
    pub(crate) fn take_back(&self) {
        self.lent.store(core::ptr::null_mut(), Ordering::Release);
    }

    /// Collects the facts.
    ///
    /// # Safety
    /// Nothing is armed, and no other CPU does this at the same time.
    pub(crate) unsafe fn prepare(&self, vmcoreinfo: &[u8]) {
        // SAFETY: as the caller promises.
        let facts = unsafe { &mut *self.facts.get() };
        for (index, slot) in (0..).zip(&mut facts.code) {
            let (start, length) = kernel::code(index);
            *slot = CodeRange { start, length };
        }
        let value = |key: &str| {
            let mut lines = vmcoreinfo.split(|byte| *byte == b'\n');
            lines.find_map(|line| line.strip_prefix(key.as_bytes())).unwrap_or_default()
        };
        let (bytes, length) = &mut facts.build_id;
        *length = 0;
        for (slot, pair) in bytes.iter_mut().zip(value("BUILD-ID=").as_chunks::<2>().0) {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let [high, low] = *pair;
            let (Some(high), Some(low)) = (digit(high), digit(low)) else { break };
            *slot = (high << 4 | low) as u8;
            *length = length.saturating_add(1);
        }
        let (bytes, length) = &mut facts.system;
        let name = b"Linux ".iter().chain(value("OSRELEASE="));
        *length = 0;
        for (slot, byte) in bytes.iter_mut().zip(name) {
            *slot = *byte;
            *length = length.saturating_add(1);
        }
    }

    fn facts(&self) -> &Facts {
        // SAFETY: not changed while in use; see prepare().
        unsafe { &*self.facts.get() }
    }
}

// SAFETY: page() returns addresses in the direct map of all RAM, which stays; guarded_copy() catches faults
// on unmapped ones. code_ranges() names this module's own code. on_stack() calls its closure once.
unsafe impl Platform for Linux {
    fn now(&self) -> Nanoseconds {
        clock(self.lent().map_or(0, |lent| lent.scale))
    }

    fn uptime(&self, moment: Nanoseconds) -> Nanoseconds {
        let since = moment.wrapping_add(self.lent().map_or(0, |lent| lent.booted));
        // The counter is unknown if the machine was suspended and lost it.
        if since > i64::MAX as u64 { 0 } else { since }
    }

    fn console(&self, text: &str) {
        if let Some(lent) = self.lent() {
            lent.console.write(self, text);
        }
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        kernel::walk_ram(visit);
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        let address = self.lent()?.direct_map.checked_add(pfn.checked_mul(PAGE_BYTES)?)?;
        NonNull::new(address as *mut u8)
    }

    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        if kernel::copy(from.as_ptr() as u64, to) { Guarded::Copied } else { Guarded::Faulted }
    }

    fn has_guard(&self) -> bool {
        true
    }

    fn class(&self, pfn: u64) -> ClassRun {
        self.lent().map_or(ClassRun { class: PageClass::Unknown, pages: u64::MAX }, |lent| lent.class(pfn))
    }

    fn reset(&self, _: ResetPolicy) {
        // Always returns: panic.rs decides what happens after the dump.
    }

    fn cpu(&self) -> u32 {
        let number = kernel::cpu();
        self.lent().map_or(number, |lent| cpus::place(lent.cpus, number) as u32)
    }

    fn cpus(&self) -> u32 {
        // CPUs without registers count too; the dump lists them as silent.
        self.lent().map_or(1, |lent| lent.cpus.len().saturating_add(lent.more_cpus) as u32)
    }

    fn stop_cpus(&self) {
        if let Some(lent) = self.lent() {
            stop::stop_others(lent);
        }
    }

    fn all_stopped(&self) -> bool {
        self.lent().is_none_or(stop::all_stopped)
    }

    fn rest(&self, nanoseconds: Nanoseconds) {
        stop::rest(self, nanoseconds);
    }

    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        kernel::random(bytes);
        true
    }

    fn registers(&self, cpu: u32) -> Option<Registers> {
        stop::registers(self.lent()?, cpu as usize)
    }

    fn pat_watchdog(&self) {
        kernel::pat_watchdog();
    }

    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        self.lent().map_or(0, |lent| lent.log.read(offset, piece))
    }

    fn log_length(&self) -> u64 {
        self.lent().map_or(0, |lent| lent.log.length())
    }

    fn wall_clock(&self) -> Option<u64> {
        Some(kernel::seconds()).filter(|seconds| *seconds > 0)
    }

    fn build_id(&self) -> &[u8] {
        let (bytes, length) = &self.facts().build_id;
        bytes.get(..*length).unwrap_or_default()
    }

    fn system(&self) -> &str {
        let (bytes, length) = &self.facts().system;
        bytes.get(..*length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn vmcoreinfo(&self) -> &[u8] {
        self.lent().map_or(&[], |lent| lent.vmcoreinfo())
    }

    fn code_ranges(&self) -> &[CodeRange] {
        &self.facts().code
    }

    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        // SAFETY: the stack is the caller's to lend, and aligned as promised.
        unsafe { kernel::run_on(dumpcore::stack::top(stack), run) };
        true
    }
}

//! Stopping the other CPUs: the request, and which of them have stopped.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dump_linux::apic;
use dumpcore::Platform;
use dumpcore::platform::{Nanoseconds, Registers};
use dumpcore::wait::{SECOND, Wait};

use crate::apic::OwnApic;
use crate::cpus::place;
use crate::lent::Lent;
use crate::{kernel, notes};

/// How long the other CPUs may take to stop, all together.
const PATIENCE: Nanoseconds = SECOND;

/// The phase of a panic.
mod phase {
    pub(super) const HEALTHY: u32 = 0;
    pub(super) const FREEZING: u32 = 1;
    pub(super) const OVER: u32 = 2;
}

static PHASE: AtomicU32 = AtomicU32::new(phase::HEALTHY);

/// The CPU that stops the others and dumps, until the dump is over; [`NOBODY`] before and after.
static DUMPING: AtomicU32 = AtomicU32::new(NOBODY);

/// No CPU has this number.
const NOBODY: u32 = u32::MAX;

/// Number of stopped CPUs that have no slot.
pub(crate) static STOPPED_WITHOUT_SLOT: AtomicU32 = AtomicU32::new(0);

/// The kernel stopped the other CPUs itself, on the way to kdump.
pub(crate) static BY_KERNEL: AtomicBool = AtomicBool::new(false);

/// We already waited for the other CPUs before the dump, when the kernel called our hook to stop them.
static WAITED: AtomicBool = AtomicBool::new(false);

/// Claims the dump for this CPU and masks its NMI sources: an NMI that it took for the request to stop would
/// end the dump for good. Returns false if a CPU is already dumping.
pub(crate) fn claim() -> bool {
    let claimed = DUMPING.compare_exchange(NOBODY, kernel::cpu(), Ordering::SeqCst, Ordering::Relaxed);
    if claimed.is_ok() {
        apic::mask_nmis(&OwnApic);
    }
    claimed.is_ok()
}

/// The dumping CPU, if there is one.
pub(crate) fn dumping() -> Option<u32> {
    Some(DUMPING.load(Ordering::Acquire)).filter(|cpu| *cpu != NOBODY)
}

/// Whether a CPU is dumping or about to: armed state must stay.
pub(crate) fn has_begun() -> bool {
    DUMPING.load(Ordering::SeqCst) != NOBODY
}

/// Whether the other CPUs have been told to stop, and are to help.
pub(crate) fn is_freezing() -> bool {
    PHASE.load(Ordering::Acquire) == phase::FREEZING
}

/// Tells all other CPUs to stop, unless they have been told. CPUs that do not stop have no registers in the
/// dump.
pub(crate) fn stop_others(lent: &Lent) {
    if BY_KERNEL.load(Ordering::Acquire)
        || PHASE
            .compare_exchange(phase::HEALTHY, phase::FREEZING, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        return;
    }
    apic::send_nmi_to_others(&OwnApic, kernel::cpu(), lent.started);
}

/// Whether all CPUs to be waited for have stopped. No waiting is needed for CPUs that the kernel stopped, or
/// that were waited for before.
pub(crate) fn all_stopped(lent: &Lent) -> bool {
    if BY_KERNEL.load(Ordering::Acquire)
        || WAITED.load(Ordering::Acquire)
        || PHASE.load(Ordering::Acquire) != phase::FREEZING
    {
        return true;
    }
    let own = kernel::cpu();
    let mut others = lent.cpus.iter().filter(|slot| slot.number != own);
    let all = others.all(|slot| slot.stopped.load(Ordering::Acquire));
    // Only the number of CPUs without a slot is known, and this CPU may be one of them.
    let more = lent.more_cpus.saturating_sub(usize::from(place(lent.cpus, own) >= lent.cpus.len()));
    all && STOPPED_WITHOUT_SLOT.load(Ordering::Acquire) as usize >= more
}

/// Tells all other CPUs to stop and waits for them, ahead of the dump, which then does not wait again for
/// silent ones.
pub(crate) fn stop_and_wait(lent: &Lent, platform: &dyn Platform) {
    stop_others(lent);
    let wait = Wait::aside(platform, u64::MAX);
    let _ = wait.until("stopping the other CPUs", PATIENCE, || all_stopped(lent).then_some(()));
    WAITED.store(true, Ordering::Release);
}

/// The dump is over, or there is none: releases the helpers.
pub(crate) fn over() {
    PHASE.store(phase::OVER, Ordering::Release);
    DUMPING.store(NOBODY, Ordering::Release);
}

/// The registers of the CPU with this index; `None` if they are not known.
pub(crate) fn registers(lent: &Lent, place: usize) -> Option<Registers> {
    let slot = lent.cpus.get(place)?;
    if let Some(recorded) = slot.recorded() {
        return Some(recorded);
    }
    if !BY_KERNEL.load(Ordering::Acquire) {
        return None;
    }
    notes::read(lent, slot)
}

/// Waits about this many nanoseconds. A CPU in an NMI cannot sleep: nothing would wake it.
pub(crate) fn rest(platform: &dyn Platform, nanoseconds: Nanoseconds) {
    let end = platform.now().saturating_add(nanoseconds);
    // Bounded, in case the clock stands still.
    for _ in 0..1_000_000 {
        if platform.now() >= end {
            break;
        }
        core::hint::spin_loop();
    }
}

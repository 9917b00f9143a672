//! Deferred work of the healthy kernel, outside interrupt handlers: timers and tasklets.
//!
//! Any code may request it, including interrupt handlers. The boot CPU does it wherever it waits, with
//! interrupts on; each read of the clock there is a timer tick. A handler keeps its table entry for good, so
//! requesting takes no lock, and no CPU can die holding one.
//!
//! A driver that keeps its own code through a dump uses [`dumpcore::deferred::Queues`], which forwards to
//! this.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dumpcore::deferred::{DeferError, Handler, HostQueues};
use dumpcore::platform::Nanoseconds;
use spin::Once;

use crate::arch::clock;

/// Maximum number of handlers.
const PLACES: usize = 64;
/// Expiry of an inactive timer.
const NEVER: Nanoseconds = Nanoseconds::MAX;

/// A handler with its pending work.
struct Place {
    handler: Once<Handler>,
    /// When its timer expires.
    expires: AtomicU64,
    /// Whether it is scheduled as a tasklet.
    scheduled: AtomicBool,
}

static TABLE: [Place; PLACES] = [const {
    Place { handler: Once::new(), expires: AtomicU64::new(NEVER), scheduled: AtomicBool::new(false) }
}; PLACES];
/// Number of entries in use.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// The kernel's queues, as seen by dumpcore.
pub(crate) struct Kernel;
/// There is only one.
pub(crate) static KERNEL: Kernel = Kernel;

/// The entry of a handler.
fn find(handler: Handler) -> Option<&'static Place> {
    TABLE.iter().find(|place| place.handler.get() == Some(&handler))
}

/// The entry of a handler; a new one gets an entry.
fn find_or_add(handler: Handler) -> Result<&'static Place, DeferError> {
    if let Some(place) = find(handler) {
        return Ok(place);
    }
    // If an interrupt adds the same handler at this moment, it gets a second entry and may run once more.
    let place =
        TABLE.get(GIVEN.fetch_add(1, Ordering::Relaxed)).ok_or(DeferError::Full { capacity: PLACES })?;
    place.handler.call_once(|| handler);
    Ok(place)
}

impl HostQueues for Kernel {
    fn set_timer(&self, handler: Handler, expires: Nanoseconds) -> Result<(), DeferError> {
        find_or_add(handler)?.expires.store(expires.min(NEVER - 1), Ordering::Release);
        Ok(())
    }

    fn delete_timer(&self, handler: Handler) -> bool {
        find(handler).is_some_and(|place| place.expires.swap(NEVER, Ordering::AcqRel) != NEVER)
    }

    fn schedule_tasklet(&self, handler: Handler) -> Result<(), DeferError> {
        find_or_add(handler)?.scheduled.store(true, Ordering::Release);
        Ok(())
    }
}

/// Runs each expired timer and each scheduled tasklet. For the boot CPU, where it waits.
pub(crate) fn run() {
    let now = clock::now();
    for place in &TABLE {
        let Some(handler) = place.handler.get() else { continue };
        let expires = place.expires.load(Ordering::Acquire);
        // Unless an interrupt has just moved it.
        let due = expires <= now
            && place.expires.compare_exchange(expires, NEVER, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if due {
            (handler.run)(handler.word);
        }
        if place.scheduled.swap(false, Ordering::AcqRel) {
            (handler.run)(handler.word);
        }
    }
}

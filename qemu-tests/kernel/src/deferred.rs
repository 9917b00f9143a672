//! Work that the healthy kernel does later, outside of interrupt handlers: timers and tasklets.
//!
//! Anybody may ask for it, interrupt handlers included. The boot CPU does it wherever it waits, with interrupts on; the
//! clock that it looks at there is the timers' tick. A handler keeps its place for ever, so asking takes no
//! lock, and nobody can die with one.
//!
//! A driver that keeps its own code through a dump asks through [`dumpcore::deferred::Queues`], which hands through to here.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dumpcore::deferred::{DeferError, Handler, HostQueues};
use dumpcore::platform::Nanoseconds;
use spin::Once;

use crate::arch::clock;

/// Handlers that there can be, in all.
const PLACES: usize = 64;
/// Of a timer that does not wait.
const NEVER: Nanoseconds = Nanoseconds::MAX;

/// A handler, and what it waits for.
struct Place {
    handler: Once<Handler>,
    /// When its timer expires.
    expires: AtomicU64,
    /// Whether it is to run as a tasklet.
    scheduled: AtomicBool,
}

static TABLE: [Place; PLACES] = [const {
    Place { handler: Once::new(), expires: AtomicU64::new(NEVER), scheduled: AtomicBool::new(false) }
}; PLACES];
/// Places given away.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// The kernel's queues, as dumpcore sees them.
pub(crate) struct Kernel;
/// There is only one.
pub(crate) static KERNEL: Kernel = Kernel;

/// Where a handler has its place.
fn find(handler: Handler) -> Option<&'static Place> {
    TABLE.iter().find(|place| place.handler.get() == Some(&handler))
}

/// The same; a new one gets a place.
fn find_or_add(handler: Handler) -> Result<&'static Place, DeferError> {
    if let Some(place) = find(handler) {
        return Ok(place);
    }
    // An interrupt that asks for the same in between gets a second place for it. Then it may run once more often.
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

/// Runs each timer that is due and each tasklet that is scheduled. For the boot CPU, where it waits.
pub(crate) fn run() {
    let now = clock::now();
    for place in &TABLE {
        let Some(handler) = place.handler.get() else { continue };
        let expires = place.expires.load(Ordering::Acquire);
        // Unless it was moved just now, by an interrupt.
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

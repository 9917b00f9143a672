//! The two sides: the armed dump, and the one being armed to replace it. The old one is dismantled only when
//! the new one is complete, so that a crash finds a complete one at any moment.

use core::sync::atomic::{AtomicPtr, Ordering};

use dumpcore::Dump;

use crate::platform::Linux;
use crate::stop;

/// A dump, and the platform it is armed for.
pub(crate) struct Side {
    pub(crate) dump: Dump<'static>,
    pub(crate) linux: Linux,
}

static SIDES: [Side; 2] = [const { Side { dump: Dump::new(), linux: Linux::new() } }; 2];

/// The side that a crash finds; null if nothing is armed.
static CURRENT: AtomicPtr<Side> = AtomicPtr::new(core::ptr::null_mut());

/// The side that was armed when a CPU began to dump. It stays pinned, whatever is armed meanwhile.
static PINNED: AtomicPtr<Side> = AtomicPtr::new(core::ptr::null_mut());

/// The side that a crash finds; `None` if nothing is armed.
pub(crate) fn current() -> Option<&'static Side> {
    // SAFETY: one of SIDES, or nowhere.
    unsafe { CURRENT.load(Ordering::SeqCst).as_ref() }
}

/// The other side, to be armed.
pub(crate) fn spare() -> &'static Side {
    let [first, second] = &SIDES;
    if current().is_some_and(|side| core::ptr::eq(side, first)) { second } else { first }
}

/// From now on, a crash finds this side.
pub(crate) fn switch_to(side: Option<&'static Side>) {
    let side = side.map_or(core::ptr::null(), core::ptr::from_ref);
    CURRENT.store(side.cast_mut(), Ordering::SeqCst);
}

/// Claims the dump for this CPU, if no CPU has; returns the pinned side, if anything was armed.
pub(crate) fn begin() -> Option<&'static Side> {
    if stop::claim() {
        // Code that is about to dismantle a side checks stop::has_begun() first.
        let current = current().map_or(core::ptr::null(), core::ptr::from_ref);
        PINNED.store(current.cast_mut(), Ordering::Release);
    }
    pinned()
}

/// The side that the dumping CPU found armed.
pub(crate) fn pinned() -> Option<&'static Side> {
    // SAFETY: one of the two, or null.
    unsafe { PINNED.load(Ordering::Acquire).as_ref() }
}

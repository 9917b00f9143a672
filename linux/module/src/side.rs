//! The two dumps that there can be: the one that is armed, and the one that is armed in its stead. That one is taken back only when this
//! one is complete, so that a crash at any moment finds a whole one.

use core::sync::atomic::{AtomicPtr, Ordering};

use dumpcore::Dump;

use crate::platform::Linux;
use crate::stop;

/// A dump, and the platform that it is armed for.
pub(crate) struct Side {
    pub(crate) dump: Dump<'static>,
    pub(crate) linux: Linux,
}

static SIDES: [Side; 2] = [const { Side { dump: Dump::new(), linux: Linux::new() } }; 2];

/// The one that a crash finds; nowhere if nothing is armed.
static CURRENT: AtomicPtr<Side> = AtomicPtr::new(core::ptr::null_mut());

/// What was armed when a CPU began to dump, which stays, whatever is armed in its stead meanwhile.
static PINNED: AtomicPtr<Side> = AtomicPtr::new(core::ptr::null_mut());

/// The one that a crash finds; none if nothing is armed.
pub(crate) fn current() -> Option<&'static Side> {
    // SAFETY: one of SIDES, or nowhere.
    unsafe { CURRENT.load(Ordering::SeqCst).as_ref() }
}

/// The one that a crash does not find, to be armed.
pub(crate) fn spare() -> &'static Side {
    let [first, second] = &SIDES;
    if current().is_some_and(|side| core::ptr::eq(side, first)) { second } else { first }
}

/// From now on, a crash finds this one.
pub(crate) fn switch_to(side: Option<&'static Side>) {
    let side = side.map_or(core::ptr::null(), core::ptr::from_ref);
    CURRENT.store(side.cast_mut(), Ordering::SeqCst);
}

/// This CPU dumps what is given, if anything is armed.
pub(crate) fn begin() -> Option<&'static Side> {
    if stop::claim() {
        // Who is about to take it apart looks at stop::has_begun() first.
        let current = current().map_or(core::ptr::null(), core::ptr::from_ref);
        PINNED.store(current.cast_mut(), Ordering::Release);
    }
    pinned()
}

/// What the CPU that dumps has found armed.
pub(crate) fn pinned() -> Option<&'static Side> {
    // SAFETY: one of the two, or nowhere.
    unsafe { PINNED.load(Ordering::Acquire).as_ref() }
}

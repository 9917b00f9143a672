//! The dump, and its platform.

use dumpcore::{Dump, Platform};

use crate::arch::cpu;

/// The dump: a static, for the panic handler.
pub(crate) static DUMP: Dump<'static> = Dump::new();

/// The platform of the dump.
static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();

/// Sets the platform. Once, before anything else.
pub(crate) fn lend(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
}

/// The platform.
pub(crate) fn platform() -> &'static dyn Platform {
    match PLATFORM.get() {
        Some(platform) => *platform,
        // Too early: nothing can be done yet.
        None => cpu::halt(),
    }
}

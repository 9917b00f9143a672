//! The dump, and the platform that it is lent.

use dumpcore::{Dump, Platform};

use crate::arch::cpu;

/// The dump. One static, known to the panic handler.
pub(crate) static DUMP: Dump<'static> = Dump::new();

/// What the kernel lends to it.
static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();

/// Says what the kernel lends. Once, before anything else is done.
pub(crate) fn lend(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
}

/// What the kernel lends.
pub(crate) fn platform() -> &'static dyn Platform {
    match PLATFORM.get() {
        Some(platform) => *platform,
        // Nothing has begun yet.
        None => cpu::halt(),
    }
}

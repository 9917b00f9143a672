//! The end of a dump for the machine. It is reset here and nowhere else.

use crate::platform::{Platform, ResetPolicy};
use crate::vitals::Vitals;

/// What becomes of the kernel that is dumped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// It has crashed: the reset policy comes last.
    Crashed,
    /// It goes on.
    Live,
}

/// Carries out the reset policy for a kernel that has crashed. The machine is reset where nothing tells the
/// policy.
pub(crate) fn carry_out(platform: &dyn Platform, kernel: Kernel, vitals: Option<&Vitals>) {
    if kernel == Kernel::Crashed {
        platform.reset(vitals.map_or(ResetPolicy::Reset, Vitals::reset));
    }
}

//! The reset policy. This is the only place that resets the machine.

use crate::platform::{Platform, ResetPolicy};
use crate::vitals::Vitals;

/// The state of the kernel that is dumped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// It has crashed: the reset policy follows.
    Crashed,
    /// It continues after the dump.
    Live,
}

/// Carries out the reset policy if the kernel has crashed. Without vitals the policy is unknown, and the
/// machine is reset.
pub(crate) fn carry_out(platform: &dyn Platform, kernel: Kernel, vitals: Option<&Vitals>) {
    if kernel == Kernel::Crashed {
        platform.reset(vitals.map_or(ResetPolicy::Reset, Vitals::reset));
    }
}

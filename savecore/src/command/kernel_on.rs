//! A dump partition is ready, and the kernel is armed: two things, that are shown side by side so that nobody takes one for the other.

use savecore::arming::{Held, KernelOn, System};
use savecore::partition::Verdict;

use crate::output::warning;

/// What the kernel is armed on; if it does not say, the user is told why.
pub(super) fn held(system: &System) -> Option<Held> {
    Held::of(system)
        .inspect_err(|error| warning(&format!("cannot tell whether the kernel is armed: {error}")))
        .ok()
}

/// What the kernel has to do with a partition, as a main clause.
pub(super) fn clause(on: KernelOn) -> &'static str {
    match on {
        KernelOn::Armed => "the kernel is armed on it",
        KernelOn::OtherLabel => "the kernel was armed on it before it was formatted: `savecore arm`",
        KernelOn::NotArmed => "the kernel is not armed on it",
        KernelOn::NoModule => "no kernel is armed on it",
        KernelOn::Cannot => "no kernel can dump there, because it is made of other devices",
    }
}

/// The clause after the state of a partition. "But" is for what a hurried reader of the state does not expect.
pub(super) fn joined(verdict: Verdict, on: KernelOn) -> String {
    let word = match (verdict, on) {
        (Verdict::Damaged, KernelOn::Armed) => "but",
        (_, KernelOn::Armed) => "and",
        (Verdict::Ready, _) => "but",
        (Verdict::Waiting | Verdict::Damaged, _) => "and",
    };
    format!(", {word} {}", clause(on))
}

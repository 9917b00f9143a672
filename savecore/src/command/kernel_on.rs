//! A partition that is ready and a kernel that is armed are two things, shown next to each other so that
//! neither is mistaken for the other.

use savecore::arming::{Held, KernelOn, System};
use savecore::partition::Verdict;

use crate::output::warning;

/// The kernel's armed targets; warns the user if they are unknown.
pub(super) fn held(system: &System) -> Option<Held> {
    Held::of(system)
        .inspect_err(|error| warning(&format!("cannot tell whether the kernel is armed: {error}")))
        .ok()
}

/// The kernel's relation to a partition, as a main clause.
pub(super) fn clause(on: KernelOn) -> &'static str {
    match on {
        KernelOn::Armed => "the kernel is armed on it",
        KernelOn::OtherLabel => "the kernel was armed on it before it was formatted: `savecore arm`",
        KernelOn::NotArmed => "the kernel is not armed on it",
        KernelOn::NoModule => "no kernel is armed on it",
        KernelOn::Cannot => "no kernel can dump there, because it is made of other devices",
    }
}

/// The clause after the state of a partition. "But" marks what a hurried reader of the state does not expect.
pub(super) fn joined(verdict: Verdict, on: KernelOn) -> String {
    let word = match (verdict, on) {
        (Verdict::Damaged, KernelOn::Armed) => "but",
        (_, KernelOn::Armed) => "and",
        (Verdict::Ready, _) => "but",
        (Verdict::Waiting | Verdict::Damaged, _) => "and",
    };
    format!(", {word} {}", clause(on))
}

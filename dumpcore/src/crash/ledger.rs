//! Which targets are out, and the recorded reasons.

use crate::armed::Refusals;
use crate::console::say;
use crate::outcome::Refusal;
use crate::platform::Platform;
use crate::text::{Describe, Line};

/// A set of targets: one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Set(u8);

impl Set {
    pub(super) const EMPTY: Set = Set(0);

    pub(super) fn has(self, target: usize) -> bool {
        self.0 & 1_u8.wrapping_shl(target as u32) != 0
    }

    pub(super) fn add(&mut self, target: usize) {
        self.0 |= 1_u8.wrapping_shl(target as u32);
    }

    /// Adds all targets of another set.
    pub(super) fn add_all(&mut self, other: Set) {
        self.0 |= other.0;
    }
}

/// Takes targets out and records why.
pub(super) struct Ledger<'l> {
    platform: &'l dyn Platform,
    refusals: &'l mut Refusals,
    out: &'l mut Set,
    /// Whether there is only one target: messages then do not name it.
    alone: bool,
}

impl<'l> Ledger<'l> {
    /// A ledger for a dump with this number of `targets`. Targets that are taken out are added to `out`.
    pub(super) fn new(
        platform: &'l dyn Platform,
        refusals: &'l mut Refusals,
        out: &'l mut Set,
        targets: usize,
    ) -> Ledger<'l> {
        Ledger { platform, refusals, out, alone: targets == 1 }
    }

    /// Whether a target is no longer tried.
    pub(super) fn is_out(&self, target: usize) -> bool {
        self.out.has(target)
    }

    /// The recorded refusals.
    pub(super) fn refusals(&self) -> &Refusals {
        self.refusals
    }

    /// Prints a line about a target, naming it if there are several.
    pub(super) fn say(&self, target: usize, words: impl FnOnce(&mut Line)) {
        say(self.platform, |line| {
            if !self.alone {
                line.text("target ").decimal(target as u64).text(": ");
            }
            words(line);
        });
    }

    /// Takes out a target that has no dump, and records why. If it is the only one, the outcome says why.
    #[inline(never)]
    pub(super) fn refuse(&mut self, target: usize, refusal: &Refusal) {
        self.out.add(target);
        self.refusals.refused(target, refusal);
        if !self.alone {
            self.say(target, |line| refusal.describe(line.text("refused: ")));
        }
    }

    /// Takes out a target on which a dump was begun and failed, and records why.
    #[inline(never)]
    pub(super) fn fail(&mut self, target: usize, why: &dyn Describe) {
        self.out.add(target);
        self.refusals.failed(target, why);
    }

    /// Takes out a target whose failure the caller records.
    pub(super) fn put_out(&mut self, target: usize) {
        self.out.add(target);
    }
}

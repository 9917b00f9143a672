//! Which targets are out, and what is on record of them.

use crate::armed::Refusals;
use crate::console::say;
use crate::outcome::Refusal;
use crate::platform::Platform;
use crate::text::{Describe, Line};

/// Which targets: a bit for each.
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

    /// Adds all of another one.
    pub(super) fn add_all(&mut self, other: Set) {
        self.0 |= other.0;
    }
}

/// Puts targets out, and on record why.
pub(super) struct Ledger<'l> {
    platform: &'l dyn Platform,
    refusals: &'l mut Refusals,
    out: &'l mut Set,
    /// Whether there is one target only: then nothing is said of which.
    alone: bool,
}

impl<'l> Ledger<'l> {
    /// A ledger for a dump that has so many `targets`. What is put out is added to `out`.
    pub(super) fn new(
        platform: &'l dyn Platform,
        refusals: &'l mut Refusals,
        out: &'l mut Set,
        targets: usize,
    ) -> Ledger<'l> {
        Ledger { platform, refusals, out, alone: targets == 1 }
    }

    /// Whether a target is not tried any more.
    pub(super) fn is_out(&self, target: usize) -> bool {
        self.out.has(target)
    }

    /// What is on record.
    pub(super) fn refusals(&self) -> &Refusals {
        self.refusals
    }

    /// Says something of a target, and which it is if there are several.
    pub(super) fn say(&self, target: usize, words: impl FnOnce(&mut Line)) {
        say(self.platform, |line| {
            if !self.alone {
                line.text("target ").decimal(target as u64).text(": ");
            }
            words(line);
        });
    }

    /// A target has no dump: it is not tried any more. If it is the only one, the outcome says why.
    #[inline(never)]
    pub(super) fn refuse(&mut self, target: usize, refusal: &Refusal) {
        self.out.add(target);
        self.refusals.refused(target, refusal);
        if !self.alone {
            self.say(target, |line| refusal.describe(line.text("refused: ")));
        }
    }

    /// A target on which a dump was begun has failed: it is not tried any more.
    #[inline(never)]
    pub(super) fn fail(&mut self, target: usize, why: &dyn Describe) {
        self.out.add(target);
        self.refusals.failed(target, why);
    }

    /// A target is not tried any more; why, is put on record by somebody else.
    pub(super) fn put_out(&mut self, target: usize) {
        self.out.add(target);
    }
}

//! What the console is told, in whole lines: the beginning, the progress, and the outcome with its reason.

use crate::console::{Describe, Line};
use crate::crew::foreman::Tally;
use crate::format::chunk::RunKind;
use crate::platform::{Nanoseconds, Platform};
use crate::stream::writer::Written;
use crate::wait::SECOND;

/// How often progress is told.
const EVERY: Nanoseconds = SECOND;

/// Pages in a mebibyte.
const PAGES_PER_MIB: u64 = 256;

/// Prints one line, with our name in front. Not inlined: the line is on the stack only while it is printed.
#[inline(never)]
pub fn say(platform: &dyn Platform, words: impl FnOnce(&mut Line)) {
    let mut line = Line::new();
    line.text("diskdump: ");
    words(&mut line);
    platform.console(line.as_str());
    platform.console("\n");
}

/// Appends seconds with two digits behind the point.
pub fn seconds(line: &mut Line, span: Nanoseconds) {
    let hundredths = (span % SECOND) / 10_000_000;
    line.decimal(span / SECOND).text(if hundredths < 10 { ".0" } else { "." }).decimal(hundredths).text(" s");
}

/// Tells how far long work has come, about once a second.
pub struct Progress<'p> {
    platform: &'p dyn Platform,
    what: &'static str,
    begin: Nanoseconds,
    told: Nanoseconds,
}

impl<'p> Progress<'p> {
    /// Progress of `what`, which begins now.
    pub fn new(platform: &'p dyn Platform, what: &'static str) -> Progress<'p> {
        let now = platform.now();
        Progress { platform, what, begin: now, told: now }
    }

    /// `done` of `all` pages or blocks are done.
    pub fn tell(&mut self, done: u64, all: u64) {
        let now = self.platform.now();
        if now.saturating_sub(self.told) < EVERY {
            return;
        }
        self.told = now;
        say(self.platform, |line| {
            let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
            line.text(self.what).text(" ").decimal(percent).text("%, ");
            line.decimal(done / PAGES_PER_MIB).text(" of ").decimal(all / PAGES_PER_MIB).text(" MiB, ");
            seconds(line, now.saturating_sub(self.begin));
        });
    }
}

/// Prints what a closed dump holds.
pub(crate) fn summary(platform: &dyn Platform, written: &Written, blocks: (u64, u64), took: Nanoseconds) {
    let counts = &written.counts;
    say(platform, |line| {
        line.decimal(counts.of(RunKind::Data)).text(" pages written, ");
        line.decimal(counts.of(RunKind::Zero)).text(" zero, ");
        line.decimal(counts.left_out()).text(" left out, ");
        line.decimal(counts.unreadable()).text(" unreadable; blocks ");
        line.decimal(blocks.0).text(" to ").decimal(blocks.1.saturating_sub(1)).text(", ");
        seconds(line, took);
    });
    if written.packed_from > 0 {
        say(platform, |line| {
            line.text("packed ").decimal(written.packed_from >> 20).text(" MiB into ");
            line.decimal(written.packed_to >> 20).text(" MiB");
        });
    }
}

/// Prints what other CPUs did.
pub(crate) fn helpers(platform: &dyn Platform, tally: &Tally) {
    if tally.helpers == 0 {
        return;
    }
    say(platform, |line| {
        line.decimal(tally.helpers as u64).text(" CPUs helped with ").decimal(tally.by_helpers);
        line.text(" of ").decimal(tally.units).text(" units");
        if tally.lost > 0 {
            line.text("; ")
                .decimal(tally.lost as u64)
                .text(" of them did not finish, their units were done again");
        }
    });
}

/// Prints why nothing was written.
pub(crate) fn refused(platform: &dyn Platform, why: &dyn Describe) {
    say(platform, |line| {
        line.text("refused: ");
        why.describe(line);
    });
}

//! Console output in whole lines: progress of long work, and why nothing was written.

use crate::platform::Platform;
use crate::text::{Describe, Line};
use crate::time::{Nanoseconds, SECOND};

/// Time between two progress lines.
const EVERY: Nanoseconds = SECOND;

/// Pages in a mebibyte.
const PAGES_PER_MIB: u64 = 256;

/// Prints one line, prefixed with our name. Not inlined, so that the line is on the stack only while it is
/// printed.
#[inline(never)]
pub fn say(platform: &dyn Platform, words: impl FnOnce(&mut Line)) {
    let mut line = Line::new();
    line.text("diskdump: ");
    words(&mut line);
    platform.console(line.as_str());
    platform.console("\n");
}

/// Appends seconds with two digits after the point.
pub fn seconds(line: &mut Line, span: Nanoseconds) {
    let hundredths = (span % SECOND) / 10_000_000;
    line.decimal(span / SECOND).text(if hundredths < 10 { ".0" } else { "." }).decimal(hundredths).text(" s");
}

/// Reports progress of long work, about once a second.
pub struct Progress<'p> {
    platform: &'p dyn Platform,
    what: &'static str,
    begin: Nanoseconds,
    last_line: Nanoseconds,
}

impl<'p> Progress<'p> {
    /// Progress of `what`, beginning now.
    pub fn new(platform: &'p dyn Platform, what: &'static str) -> Progress<'p> {
        let now = platform.now();
        Progress { platform, what, begin: now, last_line: now }
    }

    /// Reports that `done` of `all` pages or blocks are done.
    pub fn tell(&mut self, done: u64, all: u64) {
        let now = self.platform.now();
        if now.saturating_sub(self.last_line) < EVERY {
            return;
        }
        self.last_line = now;
        say(self.platform, |line| {
            let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
            line.text(self.what).text(" ").decimal(percent).text("%, ");
            line.decimal(done / PAGES_PER_MIB).text(" of ").decimal(all / PAGES_PER_MIB).text(" MiB, ");
            seconds(line, now.saturating_sub(self.begin));
        });
    }
}

/// Prints why nothing was written.
pub(crate) fn refused(platform: &dyn Platform, why: &dyn Describe) {
    say(platform, |line| {
        line.text("refused: ");
        why.describe(line);
    });
}

//! What the console is told of a dump: what happened, and what became of it.

use super::reset::Kernel;
use crate::armed::Armed;
use crate::console::{say, seconds};
use crate::format::chunk::RunKind;
use crate::helpers::coordinator::Tally;
use crate::outcome::{Crash, Ended};
use crate::partition::range::BlockRange;
use crate::platform::Platform;
use crate::stack::Painted;
use crate::stream::writer::Written;
use crate::text::{Describe, Line};
use crate::time::Nanoseconds;
use crate::vitals::{Step, Vitals};

/// Prints what a closed dump holds.
pub(super) fn summary(platform: &dyn Platform, written: &Written, blocks: BlockRange, took: Nanoseconds) {
    let counts = &written.counts;
    say(platform, |line| {
        line.decimal(counts.of(RunKind::Data)).text(" pages written, ");
        line.decimal(counts.of(RunKind::Zero)).text(" zero, ");
        line.decimal(counts.left_out()).text(" left out, ");
        line.decimal(counts.unreadable()).text(" unreadable; blocks ");
        line.decimal(blocks.from).text(" to ").decimal(blocks.to.saturating_sub(1)).text(", ");
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
pub(super) fn helpers(platform: &dyn Platform, tally: &Tally) {
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

/// Prints where the time went.
#[inline(never)]
pub(super) fn phases(platform: &dyn Platform, vitals: &Vitals, begin: Nanoseconds, took: Nanoseconds) {
    let since = |from: Nanoseconds, to: Nanoseconds| to.saturating_sub(from);
    let (write, close) = (vitals.entered(Step::Begin), vitals.entered(Step::Close));
    let verify = vitals.entered(Step::Verify);
    say(platform, |line| {
        line.text("took over in ");
        seconds(line, since(begin, verify));
        line.text(", checked in ");
        seconds(line, since(verify, write));
        line.text(", wrote in ");
        seconds(line, since(write, close));
        line.text(", closed in ");
        seconds(line, since(close, begin.saturating_add(took)));
    });
}

/// Prints whether a closed dump is whole, and if not, why.
pub(super) fn ended(platform: &dyn Platform, ended: Option<&Ended>) {
    say(platform, |line| match ended {
        None => {
            line.text("complete");
        }
        Some(ended) => ended.describe(line.text("incomplete: ")),
    });
}

/// Says what happened, whatever comes of it. In a frame of its own, so that the dump need not carry the line
/// along.
#[inline(never)]
pub(crate) fn crash(platform: &dyn Platform, cpu: u32, crash: &Crash<'_>, kernel: Kernel) {
    say(platform, |line| {
        let what = match kernel {
            Kernel::Live => " asks for a dump: ",
            Kernel::Crashed => " crashed: ",
        };
        line.text("cpu ").decimal(cpu.into()).text(what);
        on_one_line(line, crash.message);
    });
}

/// Appends a message with its lines behind one another: Rust's own has the place in the first and what
/// happened in the second. (What `core` has for this can panic, as far as the compiler knows.)
pub(crate) fn on_one_line(line: &mut Line, message: &str) {
    let mut rest = message;
    // Each turn takes a line off.
    while !rest.is_empty() {
        let end = rest.bytes().position(|byte| byte == b'\n').unwrap_or(rest.len());
        let words = rest.get(..end).unwrap_or_default().trim_ascii();
        rest = rest.get(end.saturating_add(1)..).unwrap_or_default().trim_ascii();
        line.text(words).text(if rest.is_empty() { "" } else { " " });
    }
}

/// Says what the dump used of the memory that it was given. In a frame of its own, so that the dump need not
/// carry it along.
#[inline(never)]
pub(super) fn footprint(platform: &dyn Platform, armed: &Armed<'_>, painted: &Painted) {
    say(platform, |line| {
        line.text("used ").decimal(painted.used() as u64);
        line.text(" of ").decimal(painted.length() as u64).text(" bytes of stack, ");
        line.decimal(armed.settings.arena_used).text(" of ");
        line.decimal(armed.settings.arena_length).text(" bytes of arena, ");
        line.decimal(armed.pool.deepest() as u64).text(" requests in flight");
    });
}

//! Console output of a dump: what happened, and how it ended.

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

/// Prints the contents of a closed dump.
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

/// Prints the work of the helpers.
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

/// Prints the time that each phase took.
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

/// Prints whether a closed dump is complete, and if not, why.
pub(super) fn ended(platform: &dyn Platform, ended: Option<&Ended>) {
    say(platform, |line| match ended {
        None => {
            line.text("complete");
        }
        Some(ended) => ended.describe(line.text("incomplete: ")),
    });
}

/// Prints what happened, before anything else. In a frame of its own, so that the line does not stay on the
/// stack during the dump.
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

/// Appends a message as one line: a Rust panic message has the location on its first line and the reason on
/// its second. (For all the compiler knows, `str::lines` can panic.)
pub(crate) fn on_one_line(line: &mut Line, message: &str) {
    let mut rest = message;
    // Each turn removes a line.
    while !rest.is_empty() {
        let end = rest.bytes().position(|byte| byte == b'\n').unwrap_or(rest.len());
        let words = rest.get(..end).unwrap_or_default().trim_ascii();
        rest = rest.get(end.saturating_add(1)..).unwrap_or_default().trim_ascii();
        line.text(words).text(if rest.is_empty() { "" } else { " " });
    }
}

/// Prints how much stack and arena the dump used. In a frame of its own, so that the line does not stay on
/// the stack during the dump.
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

//! What the console is told of a dump: what happened, and what became of it.

use crate::armed::Armed;
use crate::console::{say, seconds};
use crate::format::chunk::RunKind;
use crate::helpers::coordinator::Tally;
use crate::outcome::Crash;
use crate::platform::Platform;
use crate::stack::Painted;
use crate::stream::writer::Written;
use crate::text::Line;
use crate::time::Nanoseconds;

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

/// Says what happened, whatever comes of it. In a frame of its own, so that the dump need not carry the line along.
#[inline(never)]
pub(crate) fn crash(platform: &dyn Platform, cpu: u32, crash: &Crash<'_>, resumes: bool) {
    say(platform, |line| {
        let what = if resumes { " asks for a dump: " } else { " crashed: " };
        line.text("cpu ").decimal(cpu.into()).text(what);
        on_one_line(line, crash.message);
    });
}

/// Appends a message with its lines behind one another: Rust's own has the place in the first and what happened in the second.
/// (What `core` has for this can panic, as far as the compiler knows.)
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

/// Says what the dump used of the memory that it was given. In a frame of its own, so that the dump need not carry it along.
#[inline(never)]
pub(super) fn footprint(platform: &dyn Platform, armed: &Armed<'_>, painted: &Painted) {
    say(platform, |line| {
        line.text("used ").decimal(painted.used() as u64);
        line.text(" of ").decimal(painted.length() as u64).text(" bytes of stack, ");
        line.decimal(armed.sealed.arena_used).text(" of ");
        line.decimal(armed.sealed.arena_length).text(" bytes of arena, ");
        line.decimal(armed.pool.deepest() as u64).text(" requests in flight");
    });
}

//! The end of the kernel's log, with the part about the crash marked.

use maud::{Markup, html};

use crate::dump::Report;
use crate::text::{harmless, size};

/// Maximum bytes of the log to show, from its end.
const MAX_LOG: usize = 1 << 20;

/// Number of last lines to search for the crash.
const MAX_LINES: usize = 400;

/// The start of a kernel's crash messages.
const BEGINNINGS: [&str; 9] = [
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Unable to handle kernel",
    "general protection fault",
    "Internal error:",
    "Kernel panic",
    "watchdog: BUG",
    "panicked at",
];

pub(super) fn section(report: &Report, log: &[u8]) -> Markup {
    let shown = &log[log.len().saturating_sub(MAX_LOG)..];
    let text = harmless(&String::from_utf8_lossy(shown));
    let (before, crash) = text.split_at(begin(report, &text));
    html! {
        section #log {
            h2 { "Log" }
            @if log.is_empty() {
                p { "The dump has no log." }
            } @else {
                @if shown.len() < log.len() {
                    p.note { "Its last " (size(shown.len() as u64)) " of " (size(log.len() as u64)) "." }
                }
                // Browsers drop one line end after the tag.
                pre { "\n" (before) mark { (crash) } }
            }
        }
    }
}

/// The start of the crash in the log: the first of the last lines with a crash message, or else the one with
/// the panic message, or else the end.
fn begin(report: &Report, text: &str) -> usize {
    let mut starts: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    starts.insert(0, 0);
    let last = &starts[starts.len().saturating_sub(MAX_LINES)..];
    let line = |start: &usize| text[*start..].lines().next().unwrap_or_default();
    let message = harmless(report.message.lines().next().unwrap_or_default());
    let begins = |start: &&usize| {
        let line = line(start);
        BEGINNINGS.iter().any(|beginning| line.contains(beginning))
            || (!message.is_empty() && line.contains(message.as_str()))
    };
    last.iter().find(begins).copied().unwrap_or(text.len())
}

//! A dump as one page for people: self-contained HTML, without scripts and network.
//!
//! All data from the dump or from a kernel's file is text here: it is stripped of characters with an effect
//! on a browser ([`harmless`]), and maud escapes it. A policy in the page forbids a browser everything except
//! the page's own style. However large a dump is, or claims to be, the page has at most some MiB.

mod log;
mod map;
mod markup;
mod pictures;
mod processors;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::markup::said;
use crate::backtrace::Backtraces;
use crate::dump::{Dump, Report};
use crate::text::{count, cut, harmless, headline, pages, size};

/// The style of the page.
const STYLE: &str = include_str!("style.css");

/// The browser's policy for the page: only its own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Maximum bytes of the panic message, and of any other single text.
const MAX_MESSAGE: usize = 16 << 10;
const MAX_HEADING: usize = 300;

/// Maximum number of rows of a table.
const MAX_ROWS: usize = 64;

/// The page about a dump. `report` must be of the same dump.
pub fn html(dump: &Dump<'_>, report: &Report, backtraces: Option<&Backtraces>) -> String {
    let message = harmless(&cut(report.message.trim_end(), MAX_MESSAGE));
    let message = if message.is_empty() { "(no message)" } else { &message };
    let heading = cut(headline(message), MAX_HEADING);
    let title = format!("{} on CPU {}", report.trigger, report.crashing_cpu);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (title) ": " (cut(&heading, 80)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header #crash {
                    p.kind { (title) }
                    h1 { (heading) }
                    @if heading != message { pre { (message) } }
                    (verdict(report))
                    dl.facts {
                        (fact("When", &report.when()))
                        (fact("Kernel", if report.system.is_empty() { "unknown" } else { &report.system }))
                        (fact("Machine", &format!("{}, {}", report.arch, count(report.cpu_count.into(), "CPU", "CPUs"))))
                        (fact("Memory", &size(report.pages.total.saturating_mul(4096))))
                    }
                }
                main {
                    (whereabouts(report, backtraces))
                    (missing(report))
                    (processors::section(dump, backtraces))
                    (log::section(report, &dump.facts().log))
                    (memory(dump, report))
                    (making(report))
                    (facts(report))
                }
                footer { "Made by savecore " (env!("CARGO_PKG_VERSION")) " from what was on the dump partition." }
            }
        }
    };
    page.into_string()
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (said(value)) } } }
}

/// How reliable the dump is, in plain words.
fn verdict(report: &Report) -> Markup {
    let missing = report.pages.missing();
    let (class, text) = match (report.whole, report.damaged) {
        _ if report.encryption == "sealed" || report.encryption == "refused" => {
            ("part", "The dump is encrypted and was not decrypted: only its headers are shown.".to_owned())
        }
        _ if report.status == "saved" => (
            "part",
            "The dump was saved before, and its blocks are being freed: there is nothing left to show."
                .to_owned(),
        ),
        (true, _) => ("good", "The dump is complete and undamaged.".to_owned()),
        (false, true) => (
            "bad",
            format!(
                "The dump is damaged. {} not known that should be; everything else was verified.",
                is_known(missing)
            ),
        ),
        (false, false) if missing > 0 => (
            "part",
            format!(
                "The dump is not complete. {} not known that should be; everything else was verified.",
                is_known(missing)
            ),
        ),
        (false, false) => ("part", "The dump is not complete, though no page is missing.".to_owned()),
    };
    let state = report.state();
    html! {
        p #verdict class={ "verdict " (class) } {
            (text) @if state != "complete" { " " span.state { "State: " (said(&state)) "." } }
        }
    }
}

fn is_known(missing: u64) -> String {
    format!("{} {}", pages(missing), if missing == 1 { "is" } else { "are" })
}

/// Where the crashing CPU was.
fn whereabouts(report: &Report, backtraces: Option<&Backtraces>) -> Markup {
    let crashing = backtraces.and_then(Backtraces::crashing);
    let ip = report.cpus.iter().find(|cpu| cpu.cpu == report.crashing_cpu).and_then(|cpu| cpu.ip.as_deref());
    html! {
        section #where {
            h2 { "Where it happened" }
            @match crashing {
                Some(trace) => (processors::trace(trace)),
                None => p {
                    @match ip {
                        Some(ip) => { "CPU " (report.crashing_cpu) " was at " code { (ip) } ". " }
                        None => { "Where CPU " (report.crashing_cpu) " was is not known. " }
                    }
                    "Functions have names here when savecore is given the ELF file of the kernel"
                    @if !report.build_id.is_empty() { " with the build id " code { (said(&report.build_id)) } }
                    " (--kernel)."
                },
            }
        }
    }
}

/// The missing pages, and why.
fn missing(report: &Report) -> Markup {
    let reasons = report.missing_by_reason();
    let nothing = reasons.is_empty() && report.damage.is_empty() && !report.notes_damaged;
    html! {
        section #missing {
            h2 { "What is missing, and why" }
            @if nothing { p { "Nothing is missing." } }
            @if !reasons.is_empty() {
                ul { @for (number, why) in &reasons { li { (pages(*number)) " " (why) } } }
            }
            @if report.notes_damaged {
                p { "Notes are missing: registers, texts and the memory map may be incomplete." }
            }
            @if !report.missing.is_empty() {
                (table(&["from", "to", "pages", "why"], report.missing.iter().map(|missing| {
                    [missing.start.clone(), missing.end.clone(), missing.pages.to_string(), missing.why.to_owned()]
                }), report.missing_unlisted))
            }
            @if !report.damage.is_empty() {
                h3 { "Damaged blocks of the partition" }
                (table(&["stripe", "block", "blocks", "what"], report.damage.iter().map(|damage| {
                    let stripe = (u64::from(damage.stripe) + 1).to_string();
                    [stripe, damage.block.to_string(), damage.count.to_string(), damage.what.clone()]
                }), report.damage_unlisted))
            }
        }
    }
}

/// A table of at most [`MAX_ROWS`] rows; `more` is the number of rows already left out.
fn table<const COLUMNS: usize>(
    head: &[&str; COLUMNS],
    rows: impl ExactSizeIterator<Item = [String; COLUMNS]>,
    more: u64,
) -> Markup {
    let more = more > 0 || rows.len() > MAX_ROWS;
    html! {
        div.scroll { table {
            thead { tr { @for name in head { th { (name) } } } }
            tbody { @for row in rows.take(MAX_ROWS) { tr { @for cell in row { td { (said(&cell)) } } } } }
        } }
        @if more { p.note { "And more: savecore info --json lists them." } }
    }
}

/// Physical memory, and its fate.
fn memory(dump: &Dump<'_>, report: &Report) -> Markup {
    html! {
        section #memory {
            h2 { "Memory" }
            (map::picture(dump))
            h3 { "What became of it" }
            (pictures::composition(report))
            details {
                summary { (count(report.memory.len() as u64, "range", "ranges")) " of physical memory" }
                (table(&["from", "to", "what"], report.memory.iter().map(|range| {
                    let kind = if range.kind == "arena" { "the dump's own arena" } else { "RAM" };
                    [range.start.clone(), range.end.clone(), kind.to_owned()]
                }), 0))
            }
        }
    }
}

/// How the dump was made.
fn making(report: &Report) -> Markup {
    let Some(metrics) = &report.metrics else {
        return html! {
            section #making { h2 { "How the dump was made" } p { "Not recorded: the dump's headers were not closed." } }
        };
    };
    html! {
        section #making {
            h2 { "How the dump was made" }
            @if report.elapsed_seconds > 0.0 {
                p {
                    (format!("It took {:.2} s", report.elapsed_seconds))
                    @if metrics.first_write_seconds > 0.0 {
                        (format!("; the first block was written {:.3} s after the crash", metrics.first_write_seconds))
                    }
                    "."
                }
            }
            (pictures::phases(metrics))
            @if metrics.passes.iter().any(|pass| pass.pages > 0) {
                (table(&["pass", "pages", "written", "seconds", "MB/s"], metrics.passes.iter().map(|pass| {
                    let speed = pass.megabytes_per_second.map_or_else(String::new, |speed| format!("{speed:.0}"));
                    [pass.name.to_owned(), pass.pages.to_string(), size(pass.bytes), format!("{:.3}", pass.seconds), speed]
                }), 0))
            }
            ul {
                @if let Some(ratio) = metrics.compression {
                    li { (size(metrics.packed_from)) " of memory were packed into " (size(metrics.packed_to)) ", " (format!("{ratio:.2} to 1")) }
                }
                @if metrics.helpers > 0 {
                    li {
                        (count(metrics.helpers.into(), "other CPU", "other CPUs")) " did " (metrics.units_by_helpers) " of "
                        (metrics.units) " units of work"
                        @if metrics.helpers_lost > 0 { "; " (metrics.helpers_lost) " did not finish" }
                    }
                }
                li {
                    "Target " (u64::from(metrics.target) + 1) ", at most " (metrics.depth) " of " (metrics.buffers)
                    " buffers in flight, " (count(metrics.checked_blocks, "block", "blocks")) " of pattern checked"
                }
                @for refused in metrics.refused.iter().take(MAX_ROWS) {
                    li { "Target " (u64::from(refused.target) + 1) " was refused before: " (said(&refused.why)) }
                }
            }
        }
    }
}

/// The other facts.
fn facts(report: &Report) -> Markup {
    let level = report.level.map_or_else(|| "unknown".to_owned(), |level| level.to_string());
    let lacks = match &report.lacks {
        None => "unknown".to_owned(),
        Some(lacks) if lacks.is_empty() => "nothing".to_owned(),
        Some(lacks) => lacks.join(", "),
    };
    let chunks = match report.chunks_expected {
        Some(expected) => format!("{} of {expected}", report.chunks),
        None => report.chunks.to_string(),
    };
    html! {
        section #dump {
            h2 { "The dump" }
            dl.facts {
                (fact("Number", &format!("{} on its partition", report.sequence)))
                (fact("Nonce", &report.nonce))
                @if !report.build_id.is_empty() { (fact("Build id", &report.build_id)) }
                (fact("Dump level", &level))
                (fact("Encoding", report.encoding.unwrap_or("unknown")))
                (fact("Encryption", report.encryption))
                (fact("Chunks", &chunks))
                (fact("VMCOREINFO", if report.vmcoreinfo { "yes" } else { "no" }))
                (fact("The kernel had no", &lacks))
            }
            (table(&["partition", "stripe", "first block", "behind the last", "status"], report.parts.iter().map(|part| {
                let stripe = format!("{} of {}", u64::from(part.stripe) + 1, report.stripes);
                [part.uuid.to_string(), stripe, part.first_block.to_string(), part.end_block.to_string(), part.status.to_owned()]
            }), 0))
        }
    }
}

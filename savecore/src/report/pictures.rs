//! Bars: the fate of memory, and the time spent.

use maud::{Markup, html};

use super::map::Fate;
use crate::dump::{MetricsReport, Report};
use crate::text::{pages, size};

/// Width of a bar in its own units.
const WIDTH: f64 = 1000.0;

/// The minimum width of a part.
const LEAST: f64 = 3.0;

/// A bar of parts with a class, a name and a size each; parts of size 0 are omitted.
fn bar(name: &str, parts: &[(String, String, f64)]) -> Markup {
    let parts: Vec<_> = parts.iter().filter(|(_, _, size)| *size > 0.0).collect();
    let total: f64 = parts.iter().map(|(_, _, size)| size).sum();
    // Parts too small to be visible take their width from all others.
    let widths: Vec<f64> = parts.iter().map(|(_, _, size)| (size / total * WIDTH).max(LEAST)).collect();
    let scale = WIDTH / widths.iter().sum::<f64>();
    let begins = widths.iter().scan(0.0, |end, width| {
        let begin = *end;
        *end += width * scale;
        Some(begin)
    });
    html! {
        svg.bar viewBox="0 0 1000 28" preserveAspectRatio="none" role="img" aria-label=(name) {
            @for (((class, name, _), width), begin) in parts.iter().zip(&widths).zip(begins) {
                @let (x, width) = (format!("{begin:.2}"), format!("{:.2}", width * scale));
                rect class=(class) x=(x) y="0" width=(width) height="28" { title { (name) } }
            }
        }
    }
}

fn legend(parts: &[(String, String, String)]) -> Markup {
    html! {
        ul.legend {
            @for (class, name, number) in parts {
                li {
                    svg viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} }
                    span { (name) } b { (number) }
                }
            }
        }
    }
}

/// The fate of all pages.
pub(super) fn composition(report: &Report) -> Markup {
    let all = report.pages;
    let missing = all.missing() - all.damaged;
    let fates = [
        (Fate::Data, all.data),
        (Fate::Zero, all.zero),
        (Fate::LeftOut, all.left_out() - all.arena),
        (Fate::Arena, all.arena),
        (Fate::Encrypted, all.sealed),
        (Fate::Missing, missing),
        (Fate::Damaged, all.damaged),
    ];
    let fates: Vec<_> = fates.into_iter().filter(|(_, number)| *number > 0).collect();
    let total = all.total.max(1) as f64;
    let share = |number: u64| format!("{}, {:.1} %", pages(number), number as f64 / total * 100.0);
    let parts: Vec<_> = (fates.iter())
        .map(|(fate, number)| {
            (fate.class().to_owned(), format!("{}: {}", fate.name(), share(*number)), *number as f64)
        })
        .collect();
    let named: Vec<_> = (fates.iter())
        .map(|(fate, number)| (fate.class().to_owned(), fate.name().to_owned(), share(*number)))
        .collect();
    html! {
        (bar("What became of memory", &parts))
        (legend(&named))
        @if all.left_out() > 0 {
            p.note {
                "Left out on purpose: "
                @for (index, (number, reason)) in report.left_out_by_reason().iter().enumerate() {
                    @if index > 0 { ", " }
                    (size(number.saturating_mul(4096))) " " (reason)
                }
                "."
            }
        }
    }
}

/// The time spent in each phase.
pub(super) fn phases(metrics: &MetricsReport) -> Markup {
    let phases: Vec<_> = metrics.phases.iter().filter(|phase| phase.seconds > 0.0).collect();
    let class = |index: usize| format!("p{}", index % 6);
    let parts: Vec<_> = (phases.iter().enumerate())
        .map(|(index, phase)| {
            (class(index), format!("{}: {:.3} s", phase.name, phase.seconds), phase.seconds)
        })
        .collect();
    let named: Vec<_> = (phases.iter().enumerate())
        .map(|(index, phase)| (class(index), phase.name.to_owned(), format!("{:.3} s", phase.seconds)))
        .collect();
    html! { @if !phases.is_empty() { (bar("Where the time went", &parts)) (legend(&named)) } }
}

//! The CPUs: backtraces and registers.

use dumpcore::format::note::CpuCondition;
use maud::{Markup, html};

use super::markup::{call, said};
use crate::backtrace::{Backtraces, By, Call, CpuBacktrace};
use crate::dump::{Dump, Register, condition, condition_name, control_registers, general_registers};
use crate::text::count;

/// Maximum number of CPUs.
const MAX_CPUS: usize = 256;

/// All CPUs, the crashing one first.
pub(super) fn section(dump: &Dump<'_>, backtraces: Option<&Backtraces>) -> Markup {
    let facts = dump.facts();
    let crashing = facts.crashing(dump.found().header.crashing_cpu.get());
    let others = facts.cpus.iter().filter(|state| Some(state.cpu) != crashing.map(|state| state.cpu));
    let more = facts.cpus.len().saturating_sub(MAX_CPUS);
    html! {
        section #processors {
            h2 { "Processors" }
            @if facts.cpus.is_empty() { p { "Nothing is known about them." } }
            @for (index, state) in crashing.into_iter().chain(others).take(MAX_CPUS).enumerate() {
                @let condition = condition(state);
                @let number = state.cpu.get();
                @let trace = backtraces.and_then(|all| all.cpus.iter().find(|cpu| cpu.cpu == number));
                details.cpu open[index == 0] {
                    summary {
                        b { "CPU " (number) } " " span.tag { (condition_name(condition)) }
                        @if let Some(name) = trace.and_then(innermost) { " " code { (said(name)) } }
                    }
                    @if condition == CpuCondition::Silent {
                        p { "It did not answer: its registers are not known." }
                    } @else {
                        @if index > 0 && let Some(trace) = trace { (self::trace(trace)) }
                        @match dump.arch() {
                            None => p { "The architecture is not known, so its registers have no names." },
                            Some(arch) => {
                                (registers("General registers", &general_registers(arch, state)))
                                (registers("Control registers", &control_registers(arch, state)))
                            }
                        }
                    }
                }
            }
            @if more > 0 { p.note { "And " (count(more as u64, "more CPU", "more CPUs")) "." } }
        }
    }
}

/// A CPU's function: for the crashing one, the function that crashed.
fn innermost(trace: &CpuBacktrace) -> Option<&str> {
    let own = |call: &&Call| !call.inlined;
    let call = match trace.condition {
        "crashing" => trace.calls().nth(trace.origin()?)?.1?,
        _ => trace.calls().filter_map(|(_, call)| call).find(own)?,
    };
    Some(&call.function)
}

fn registers(name: &str, registers: &[Register]) -> Markup {
    html! {
        @if !registers.is_empty() {
            h4 { (name) }
            dl.registers {
                @for register in registers {
                    div { dt { (register.name) } dd class=[(register.value == 0).then_some("none")] { (format!("{:016x}", register.value)) } }
                }
            }
        }
    }
}

/// A backtrace; the function that crashed stands out from those that handle the crash.
pub(super) fn trace(trace: &CpuBacktrace) -> Markup {
    let origin = trace.origin();
    let guessed = trace.frames.iter().any(|frame| frame.by == By::Scan);
    html! {
        ol.trace start="0" {
            @for (number, (frame, known)) in trace.calls().enumerate() {
                li class=[(Some(number) == origin).then_some("origin")] {
                    span.address { (frame.address) }
                    @if frame.by == By::Scan { span.tag { "?" } " " }
                    @match known {
                        Some(known) => (call(known)),
                        None => span.place { (frame.nameless().trim_matches(['(', ')'])) },
                    }
                    @if let Some(remark) = frame.remark(known) { " " span.tag { (remark) } }
                }
            }
        }
        @if let Some(text) = trace.end.text() { p.note { "The backtrace ends here: " (text) "." } }
        @if guessed {
            p.note { "? marks frames that were found by scanning the stack for addresses: they may be left over from calls that had returned." }
        }
    }
}

//! A dump's facts, for the user.

use std::io::{self, Write};

use savecore::backtrace::{Backtraces, By};
use savecore::dump::{CpuReport, MetricsReport, Report};
use savecore::text::harmless;

use crate::output::{BAD, FAINT, GOOD, STRONG, WARNING, count, pages, paint, size};

/// Maximum number of lines of CPUs, memory ranges, missing ranges and damages; `--json` has more.
const SHOWN: usize = 16;

/// Maximum number of characters of the panic message.
const MESSAGE: usize = 4096;

/// Maximum number of functions of the crashing CPU.
const FRAMES: usize = 8;

fn row(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    // Keep text with several lines in its column.
    let mut lines = text.lines();
    writeln!(out, "  {} {}", paint(FAINT, format_args!("{name:<9}")), lines.next().unwrap_or_default())?;
    for line in lines {
        writeln!(out, "            {line}")?;
    }
    Ok(())
}

fn cpu_row(cpu: &CpuReport) -> String {
    let place = match (&cpu.ip, &cpu.sp) {
        (Some(ip), Some(sp)) => format!("ip {ip}, sp {sp}"),
        _ => "did not answer; its registers are unknown".to_owned(),
    };
    format!("{:<8} {place}", cpu.condition)
}

/// The full description of one dump: urgent facts first, then the rest. `next` is the next step.
pub(crate) fn tell(
    out: &mut dyn Write,
    report: &Report,
    backtraces: Option<&Backtraces>,
    next: &str,
) -> io::Result<()> {
    let title = format!("Dump {}: {} on CPU {}", report.sequence, report.trigger, report.crashing_cpu);
    writeln!(out, "{}, {}", paint(STRONG, title), report.when())?;
    tell_message(out, &report.message)?;
    if report.status != "saved" {
        tell_where(out, report, backtraces)?;
    }
    let style = match (report.whole, report.damaged) {
        (true, _) => GOOD,
        (false, false) => WARNING,
        (false, true) => BAD,
    };
    let elapsed = match report.elapsed_seconds {
        0.0 => String::new(),
        seconds => format!("; took {seconds:.2} s"),
    };
    row(out, "state", &format!("{}{elapsed}", paint(style, report.state())))?;
    row(out, "next", next)?;
    writeln!(out)?;
    let mut system =
        if report.system.is_empty() { "unknown kernel".to_owned() } else { harmless(&report.system) };
    system.push_str(&format!(", {}", report.arch));
    if !report.build_id.is_empty() {
        system.push_str(&format!(", build id {}", report.build_id));
    }
    row(out, "system", &system)?;
    if report.status == "saved" {
        // Its blocks are being freed: the rest says nothing.
        return tell_place(out, report);
    }
    tell_cpus(out, report)?;
    tell_pages(out, report)?;
    tell_damage(out, report)?;
    match &report.lacks {
        None => row(out, "lacks", "unknown")?,
        Some(lacks) if lacks.is_empty() => row(out, "lacks", "nothing")?,
        Some(lacks) => row(out, "lacks", &lacks.join(", "))?,
    }
    if let Some(metrics) = &report.metrics {
        tell_metrics(out, metrics)?;
    }
    tell_place(out, report)
}

/// The panic message, up to a readable length.
fn tell_message(out: &mut dyn Write, message: &str) -> io::Result<()> {
    if message.is_empty() {
        return row(out, "why", "(no message)");
    }
    let begin: String = message.chars().take(MESSAGE).collect();
    let told = harmless(&begin);
    let lines: Vec<&str> = told.lines().take(SHOWN).collect();
    row(out, "why", &lines.join("\n"))?;
    if begin.len() < message.len() || told.lines().nth(SHOWN).is_some() {
        row(out, "", "and more; --json has it")?;
    }
    Ok(())
}

/// Where the crashing CPU was, from the function that crashed outwards.
fn tell_where(out: &mut dyn Write, report: &Report, backtraces: Option<&Backtraces>) -> io::Result<()> {
    let calls: Vec<_> = backtraces.and_then(Backtraces::crashing).map_or_else(Vec::new, |cpu| {
        let origin = cpu.origin().unwrap_or(0);
        cpu.calls().skip(origin).collect()
    });
    if calls.is_empty() {
        let crashing = report.cpus.iter().find(|cpu| cpu.cpu == report.crashing_cpu);
        let text = match crashing.and_then(|cpu| cpu.ip.as_ref()) {
            _ if backtraces.is_some() => "unknown: the CPU's registers are not in the dump".to_owned(),
            Some(ip) => format!("{ip}; --kernel PATH, of the kernel with its symbols, names the function"),
            None => "not known".to_owned(),
        };
        return row(out, "where", &text);
    }
    for (index, (frame, call)) in calls.iter().take(FRAMES).enumerate() {
        let text =
            call.map_or_else(|| format!("{} {}", frame.address, frame.nameless()), |call| call.to_string());
        let sure = if frame.by == By::Scan { "? " } else { "" };
        let remark = frame.remark(*call).map_or_else(String::new, |remark| format!(" ({remark})"));
        let text = format!("{sure}{text}{remark}");
        if index == 0 {
            row(out, "where", &paint(STRONG, text))?;
        } else {
            row(out, "", &text)?;
        }
    }
    if calls.len() > FRAMES {
        row(out, "", &format!("and {} more; --backtrace shows all, of all CPUs", calls.len() - FRAMES))?;
    }
    Ok(())
}

fn tell_place(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for (index, part) in report.parts.iter().enumerate() {
        let blocks = part.end_block - part.first_block;
        let mut text =
            format!("blocks {} to {}, {}", part.first_block, part.end_block - 1, size(blocks * 4096));
        if report.stripes > 1 {
            let (stripe, uuid) = (u64::from(part.stripe) + 1, part.uuid);
            text.push_str(&format!(" of partition {uuid}: stripe {stripe} of {}", report.stripes));
        }
        row(out, if index == 0 { "place" } else { "" }, &text)?;
    }
    Ok(())
}

fn tell_cpus(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for cpu in report.cpus.iter().take(SHOWN) {
        row(out, &format!("CPU {}", cpu.cpu), &cpu_row(cpu))?;
    }
    if report.cpus.len() > SHOWN {
        row(out, "", &format!("and {} more CPUs", report.cpus.len() - SHOWN))?;
    }
    let unknown = (report.cpu_count as usize).saturating_sub(report.cpus.len());
    if unknown > 0 {
        row(
            out,
            "CPUs",
            &format!("nothing is known of {}", count(unknown as u64, "other CPU", "other CPUs")),
        )?;
    }
    Ok(())
}

fn tell_pages(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for (index, range) in report.memory.iter().take(SHOWN).enumerate() {
        let kind = if range.kind == "arena" { ", the dump's own arena" } else { "" };
        let name = if index == 0 { "memory" } else { "" };
        row(out, name, &format!("{} to {}{kind}", range.start, range.end))?;
    }
    if report.memory.len() > SHOWN {
        row(out, "", &format!("and {} more ranges", report.memory.len() - SHOWN))?;
    }
    let all = report.pages;
    let fates = [
        (all.data, "with data"),
        (all.sealed, "with data, encrypted"),
        (all.zero, "zero"),
        (all.left_out(), "left out"),
    ];
    let told: Vec<String> = fates
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, fate)| format!("{number} {fate}"))
        .collect();
    let total = size(all.total.saturating_mul(4096));
    row(out, "pages", &format!("{} in all ({total}): {}", all.total, told.join(", ")))?;
    for (number, reason) in report.left_out_by_reason() {
        row(out, "left out", &format!("{} {reason}", pages(number)))?;
    }
    for (number, why) in report.missing_by_reason() {
        row(out, "missing", &paint(WARNING, format_args!("{} {why}", pages(number))))?;
    }
    for missing in report.missing.iter().take(SHOWN) {
        row(out, "", &format!("{} to {}, {}", missing.start, missing.end, missing.why))?;
    }
    let ranges = report.missing.len().saturating_sub(SHOWN);
    if ranges > 0 || report.missing_unlisted > 0 {
        row(out, "", &format!("and {ranges} more ranges; --json lists them"))?;
    }
    Ok(())
}

fn tell_damage(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for damage in report.damage.iter().take(SHOWN) {
        let place = match damage.count {
            1 => format!("block {}", damage.block),
            _ => format!("blocks {} to {}", damage.block, damage.block + damage.count - 1),
        };
        let style = if damage.what == "not written" { WARNING } else { BAD };
        let stripe = match report.stripes {
            0 | 1 => String::new(),
            _ => format!("stripe {}, ", u64::from(damage.stripe) + 1),
        };
        row(out, "damage", &format!("{stripe}{place}: {}", paint(style, &damage.what)))?;
    }
    if report.damage.len() > SHOWN || report.damage_unlisted > 0 {
        row(out, "", "and more; --json lists them")?;
    }
    if let Some(expected) = report.chunks_expected.filter(|expected| *expected != report.chunks) {
        let text = format!("{} of {expected} chunks are there", report.chunks);
        row(out, "damage", &paint(BAD, text))?;
    }
    if report.notes_damaged {
        let text = "notes are missing: registers, texts and the memory map may be incomplete";
        row(out, "damage", &paint(WARNING, text))?;
    }
    Ok(())
}

/// The dump's metrics.
fn tell_metrics(out: &mut dyn Write, metrics: &MetricsReport) -> io::Result<()> {
    let phases: Vec<String> = (metrics.phases.iter())
        .filter(|phase| phase.seconds > 0.0)
        .map(|phase| format!("{} {:.3} s", phase.name, phase.seconds))
        .collect();
    if !phases.is_empty() {
        row(out, "time", &phases.join(", "))?;
        row(out, "first block", &format!("{:.3} s after the crash", metrics.first_write_seconds))?;
    }
    for pass in metrics.passes.iter().filter(|pass| pass.pages > 0 || pass.bytes > 0) {
        let speed = match pass.megabytes_per_second {
            Some(speed) => format!(" ({speed:.0} MB/s)"),
            None => String::new(),
        };
        let (number, bytes) = (pages(pass.pages), size(pass.bytes));
        row(
            out,
            "pass",
            &format!("{}: {number}, {bytes} written in {:.3} s{speed}", pass.name, pass.seconds),
        )?;
    }
    if let Some(ratio) = metrics.compression {
        let (from, to) = (size(metrics.packed_from), size(metrics.packed_to));
        let stored = match metrics.units_stored {
            0 => String::new(),
            units => format!("; {} did not shrink", count(units, "unit", "units")),
        };
        row(out, "packed", &format!("{from} into {to}, {ratio:.2} to 1{stored}"))?;
    }
    if metrics.helpers > 0 {
        let helpers = count(metrics.helpers.into(), "other CPU", "other CPUs");
        let mut text =
            format!("{helpers} did {} of {} units of work", metrics.units_by_helpers, metrics.units);
        if metrics.helpers_lost > 0 || metrics.units_redone > 0 {
            let redone = count(metrics.units_redone, "unit was", "units were");
            text.push_str(&format!("; {} did not finish, {redone} done again", metrics.helpers_lost));
        }
        row(out, "help", &text)?;
    }
    let device = format!(
        "target {}, at most {} of {} buffers in flight, {} of pattern checked",
        u64::from(metrics.target) + 1,
        metrics.depth,
        metrics.buffers,
        count(metrics.checked_blocks, "block", "blocks")
    );
    row(out, "device", &device)?;
    for refused in &metrics.refused {
        let begun = if refused.begun { " (a dump was begun there)" } else { "" };
        let target = u64::from(refused.target) + 1;
        row(out, "refused", &format!("target {target}: {}{begun}", harmless(&refused.why)))?;
    }
    let untold = u64::from(metrics.refusals).saturating_sub(metrics.refused.len() as u64);
    if untold > 0 {
        row(out, "", &format!("and {}", count(untold, "more target", "more targets")))?;
    }
    Ok(())
}

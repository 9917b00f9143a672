//! A dump's facts, told to a person.

use std::io::{self, Write};

use savecore::dump::{CpuReport, Report};

use crate::output::{BAD, FAINT, GOOD, STRONG, WARNING, count, harmless, pages, paint, size};

/// Lines of CPUs, memory ranges, missing ranges and damages that are shown; `--json` has more.
const SHOWN: usize = 16;

/// In a few words: complete or not, and why not.
pub(crate) fn state(report: &Report) -> String {
    let mut text = match report.status {
        "complete" => "complete".to_owned(),
        "incomplete" => match report.reason {
            Some(reason) => format!("incomplete: {reason}"),
            None => "incomplete".to_owned(),
        },
        "saved" => "harvested before; its blocks are not free yet".to_owned(),
        _ => "unfinished: the machine stopped while it was written".to_owned(),
    };
    if let Some(headers) = report.headers {
        text = format!("{text}; {headers}");
    }
    if report.damaged {
        text.push_str("; damaged");
    }
    text
}

/// When it crashed, as well as the machine knew.
pub(crate) fn when(report: &Report) -> String {
    let uptime = format!("{:.1} s after boot", report.uptime_seconds);
    match &report.time {
        Some(time) => format!("{}, {uptime}", time.replace('T', " ").replace('Z', " UTC")),
        None => format!("time unknown, {uptime}"),
    }
}

fn row(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    // A text of several lines stays in its column.
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
        _ => "did not answer, its registers are unknown".to_owned(),
    };
    format!("{:<8} {place}", cpu.condition)
}

/// The whole story of one dump.
pub(crate) fn tell(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let title = format!("Dump {}: {} on CPU {}", report.sequence, report.trigger, report.crashing_cpu);
    writeln!(out, "{}, {}", paint(STRONG, title), when(report))?;
    let message = if report.message.is_empty() { "(none)".to_owned() } else { harmless(&report.message) };
    row(out, "message", &message)?;
    let mut system =
        if report.system.is_empty() { "unknown kernel".to_owned() } else { harmless(&report.system) };
    system.push_str(&format!(", {}", report.arch));
    if !report.build_id.is_empty() {
        system.push_str(&format!(", build id {}", report.build_id));
    }
    row(out, "system", &system)?;
    let style = match (report.whole, report.damaged) {
        (true, _) => GOOD,
        (false, false) => WARNING,
        (false, true) => BAD,
    };
    let elapsed = match report.elapsed_seconds {
        0.0 => String::new(),
        seconds => format!("; took {seconds:.2} s"),
    };
    row(out, "state", &format!("{}{elapsed}", paint(style, state(report))))?;
    if report.status == "saved" {
        // Its blocks are being freed: what is still there tells nothing.
        return row(out, "place", &place(report));
    }
    tell_cpus(out, report)?;
    tell_pages(out, report)?;
    tell_damage(out, report)?;
    match &report.lacks {
        None => row(out, "lacks", "unknown")?,
        Some(lacks) if lacks.is_empty() => row(out, "lacks", "nothing")?,
        Some(lacks) => row(out, "lacks", &lacks.join(", "))?,
    }
    row(out, "place", &place(report))
}

fn place(report: &Report) -> String {
    let blocks = report.end_block - report.first_block;
    format!("blocks {} to {}, {}", report.first_block, report.end_block - 1, size(blocks * 4096))
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
    let fates = [(all.data, "with data"), (all.zero, "zero"), (all.arena, "left out (the dump's own arena)")];
    let told: Vec<String> = fates
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, fate)| format!("{number} {fate}"))
        .collect();
    let total = size(all.total.saturating_mul(4096));
    row(out, "pages", &format!("{} in all ({total}): {}", all.total, told.join(", ")))?;
    let fates = [
        (all.unreadable, "the kernel could not read"),
        (all.damaged, "damaged in the dump"),
        (all.not_written, "not written in time"),
        (all.absent, "not in the dump"),
    ];
    for (number, fate) in fates.into_iter().filter(|(number, _)| *number > 0) {
        row(out, "missing", &paint(WARNING, format_args!("{} {fate}", pages(number))))?;
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
        row(out, "damage", &format!("{place}: {}", paint(style, damage.what)))?;
    }
    if report.damage.len() > SHOWN || report.damage_unlisted > 0 {
        row(out, "", "and more; --json lists them")?;
    }
    if let Some(expected) = report.chunks_expected.filter(|expected| *expected != report.chunks) {
        let text = format!("{} of {expected} chunks are there", report.chunks);
        row(out, "damage", &paint(BAD, text))?;
    }
    if report.notes_damaged {
        let text = "notes are missing: registers, texts and the memory map may not be whole";
        row(out, "damage", &paint(WARNING, text))?;
    }
    Ok(())
}

//! A dump's facts, told to a person.

use std::io::{self, Write};

use savecore::dump::{CpuReport, MetricsReport, Report};
use savecore::text::harmless;

use crate::output::{BAD, FAINT, GOOD, STRONG, WARNING, count, pages, paint, size};

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
    match report.encryption {
        "sealed" => text.push_str("; encrypted, and not opened: --identity opens it"),
        "opened" => text.push_str("; encrypted, and opened"),
        "refused" => text.push_str("; encrypted, and not for this identity or damaged all over"),
        _ => {}
    }
    if report.authentic == Some(false) && report.encryption == "opened" {
        text.push_str("; its headers are not as the dump wrote them");
    }
    for stripe in report.missing_stripes.iter().take(SHOWN) {
        text.push_str(&format!("; stripe {} of {} was not given", u64::from(*stripe) + 1, report.stripes));
    }
    if report.missing_stripes.len() > SHOWN {
        text.push_str("; nor were others");
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
    let reasons = [
        (all.free, "free"),
        (all.user, "of user processes"),
        (all.cache, "of the page cache"),
        (all.cache_private, "of the page cache with private data"),
        (all.not_kernel, "not known to be the kernel's"),
        (all.device, "a device's"),
        (all.arena, "the dump's own arena"),
    ];
    for (number, reason) in reasons.into_iter().filter(|(number, _)| *number > 0) {
        row(out, "left out", &format!("{} {reason}", pages(number)))?;
    }
    let fates = [
        (all.unreadable, "the kernel could not read"),
        (all.faulted, "faulted when the kernel read them"),
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
        let text = "notes are missing: registers, texts and the memory map may not be whole";
        row(out, "damage", &paint(WARNING, text))?;
    }
    Ok(())
}

/// What the dump took and met.
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

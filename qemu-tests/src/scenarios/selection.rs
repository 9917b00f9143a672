//! Which memory a dump contains: what its level leaves out, and what is written first.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use dumpcore::format::PAGE_SIZE;

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::{accounts, counts, crash, halt, info, is_whole, number, readable, says};
use super::readers::kernel_in_gdb;
use crate::compare::Core;

/// A level, the class that memory is filled as, and what has to be left out: the reason by savecore's name,
/// and the class by the kernel's.
type Row = (u32, &'static str, &'static [(&'static str, &'static str)]);

/// makedumpfile's bits, one by one and together, and "kernel only".
const LEVELS: [Row; 9] = [
    (1, "user", &[]),
    (2, "cache", &[("cache", "cache")]),
    (2, "cacheprivate", &[]),
    (4, "cache", &[("cache", "cache")]),
    (4, "cacheprivate", &[("cache_private", "cacheprivate")]),
    (8, "user", &[("user", "user")]),
    (16, "user", &[("free", "free")]),
    (31, "cacheprivate", &[("cache_private", "cacheprivate"), ("free", "free")]),
    (32, "user", &[("user", "user"), ("free", "free"), ("not_kernel", "unknown")]),
];

/// All reasons that depend on a level.
const REASONS: [&str; 6] = ["cache", "cache_private", "user", "free", "not_kernel", "device"];

pub(super) fn levels(case: &Case) -> Result<String> {
    // All dumps one after another.
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let mut crashes = Vec::new();
    for (number, (level, fill, _)) in LEVELS.iter().enumerate() {
        let machine = case
            .machine(&disk, "panic")
            .word(format!("level={level}"))
            .word("fill=16")
            .word("fill.kind=text")
            .word(format!("fill.class={fill}"));
        crashes.push(crash(case, &machine, &format!("level-{number}"), exit::COMPLETE)?);
    }
    let dumps = info(case, &disk, LEVELS.len())?;
    let mut left_out = Vec::new();
    for ((dump, crashed), (level, fill, leaves)) in dumps.iter().zip(&crashes).zip(&LEVELS) {
        let check = || -> Result<()> {
            is_whole(dump)?;
            counts(dump, "level", u64::from(*level))?;
            let filled = crashed.class(fill)?;
            ensure(filled == 16 << 8, || format!("the kernel counts {filled} pages of class {fill}"))?;
            for reason in REASONS {
                let class = leaves.iter().find(|(name, _)| *name == reason).map(|(_, class)| *class);
                let expected = class.map_or(Ok(0), |class| crashed.class(class))?;
                counts(dump, &format!("pages.{reason}"), expected)?;
            }
            Ok(())
        };
        check().with_context(|| format!("level {level}, filled as {fill}"))?;
        let pages = number(dump, "pages.data")? + number(dump, "pages.zero")?;
        left_out.push(format!("{level}: {}", number(dump, "pages.total")? - pages));
    }
    // The cores contain the rest.
    let (cores, _) = case.save(&disk, "cores", LEVELS.len())?;
    for (dump, core) in dumps.iter().zip(&cores) {
        accounts(dump, &Core::open(core)?)?;
    }
    Ok(format!("pages left out as the kernel counts them: {}", left_out.join(", ")))
}

pub(super) fn level_31(case: &Case) -> Result<String> {
    const FILL: u64 = 32;
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine =
        case.machine(&disk, "panic").cpus(2).memory(256).word(format!("fill={FILL}")).word("level=31");
    let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
    is_whole(&halted.dump)?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = cores.first().context("no core")?;
    let compared = halted.equals(core)?;
    // Not just the same number: exactly the pages that the kernel filled are missing.
    let filled = halted.filled()?;
    ensure(filled.len() as u64 == FILL << 8, || {
        format!("the machine holds {} filled pages instead of {}", filled.len(), FILL << 8)
    })?;
    counts(&halted.dump, "pages.user", FILL << 8)?;
    let covers = Core::open(core)?.covers();
    let in_core: BTreeSet<u64> = covers
        .into_iter()
        .flat_map(|range| range.start / PAGE_SIZE as u64..range.end / PAGE_SIZE as u64)
        .collect();
    let wrong = filled.intersection(&in_core).count();
    ensure(wrong == 0, || format!("{wrong} pages of class user are in the core"))?;
    Ok(format!(
        "{} of {} in the core, none of {} user pages; no byte differs",
        mib(compared.bytes),
        mib(halted.bytes()),
        filled.len()
    ))
}

pub(super) fn kernel_only(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(4).memory(256).word("fill=64").word("level=32");
    let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
    is_whole(&halted.dump)?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = cores.first().context("no core")?;
    let compared = halted.equals(core)?;
    let mut kernel = 0;
    for class in ["text", "data", "stack", "pagetable", "slab"] {
        kernel += halted.crashed.class(class)?;
    }
    let arena = number(&halted.dump, "pages.arena")?;
    ensure(compared.bytes == (kernel - arena) * PAGE_SIZE as u64, || {
        format!("{} bytes are in the core instead of {} pages", compared.bytes, kernel - arena)
    })?;
    readable(case, core, 4)?;
    kernel_in_gdb(case, core, 4, 0)?;
    Ok(format!("{} of {} in the core, enough for gdb", mib(compared.bytes), mib(halted.bytes())))
}

pub(super) fn passes(case: &Case) -> Result<String> {
    // 24 MiB for 96 MiB of noise and the kernel.
    let disk = case.formatted("disk", USUAL_BLOCKS / 2)?;
    let machine = case.machine(&disk, "panic").cpus(4).memory(256).word("fill=96");
    let halted = halt(case, &machine, "diskdump: incomplete", &disk, &[])?;
    let dump = &halted.dump;
    says(dump, "status", "incomplete")?;
    says(dump, "reason", "the partition was full")?;
    let count = |classes: &[&str]| -> Result<u64> {
        classes.iter().try_fold(0, |sum, class| Ok(sum + halted.crashed.class(class)?))
    };
    let (early, kernel) = (count(&["stack", "pagetable"])?, count(&["text", "data", "slab"])?);
    // The arena is classified as kernel data, and is recorded in the last pass.
    let kernel = kernel - number(dump, "pages.arena")?;
    counts(dump, "metrics.passes.1.pages", early)?;
    counts(dump, "metrics.passes.2.pages", kernel)?;
    let rest = count(&["user", "free", "unknown"])?;
    let written = number(dump, "metrics.passes.3.pages")?;
    ensure(written > 0 && written < rest, || format!("{written} of {rest} other pages were written"))?;
    ensure(number(dump, "pages.absent")? > 0, || "nothing is missing".to_owned())?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = cores.first().context("no core")?;
    halted.equals(core)?;
    readable(case, core, 4)?;
    kernel_in_gdb(case, core, 4, 0)?;
    Ok(format!(
        "all {early} pages of stacks and page tables, all {kernel} of the kernel, {written} of {rest} others; enough for gdb"
    ))
}

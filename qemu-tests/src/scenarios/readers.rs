//! gdb, readelf, and the machine itself, as judges of a core.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::halt;
use crate::debugger;

/// The magic of the kernel's witnesses: "WITNESS!" as a number.
const MAGIC: u64 = 0x5749_544e_4553_5321;
/// Number of nodes in the kernel's linked list.
const NODES: u64 = 32;
const CPUS: u64 = 4;

pub(super) fn gdb(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(CPUS as u32).memory(512).word("cpu=2");
    case.crash(&machine, "crash", exit::COMPLETE)?;
    let kernel = case.kernel().to_str().context("a kernel whose path is not UTF-8")?;
    let told = case.savecore.expect(0, "info", &disk, &["--kernel", kernel])?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = cores.first().context("no core")?;
    let readelf = debugger::readelf(core, &case.folder, case.left())?;
    let shown = kernel_in_gdb(case, core, CPUS, 2)?;
    let calls = backtraces_are_gdbs(&told.value, &shown)?;
    let registers = debugger::prstatus_notes(&readelf) as u64;
    ensure(registers == CPUS, || format!("readelf finds the registers of {registers} CPUs"))?;
    Ok(format!(
        "{CPUS} backtraces, a global, a list of {NODES} nodes; savecore names the same {calls} calls; readelf is clean"
    ))
}

/// Checks that the backtraces in savecore's `info --json` equal gdb's: for each CPU the same functions in the
/// same order, including inlined ones. Returns their number.
fn backtraces_are_gdbs(told: &Value, shown: &str) -> Result<usize> {
    let gdb = debugger::backtraces(shown);
    let mut calls = 0;
    let cpus = told.pointer("/dumps/0/backtraces/cpus").and_then(Value::as_array);
    let cpus = cpus.context("savecore has no backtraces")?;
    ensure(cpus.len() == gdb.len(), || format!("savecore has {} backtraces, gdb {}", cpus.len(), gdb.len()))?;
    for cpu in cpus {
        let number = cpu.get("cpu").and_then(Value::as_u64).context("a CPU without a number")?;
        // Thread numbers start at 1.
        let expected = gdb.get(&(number + 1)).with_context(|| format!("gdb has no CPU {number}"))?;
        let frames = cpu.get("frames").and_then(Value::as_array).into_iter().flatten();
        let named =
            frames.flat_map(|frame| frame.get("calls").and_then(Value::as_array).into_iter().flatten());
        let named = named.filter_map(|call| call.get("function")?.as_str());
        let ours: Vec<&str> = named.map(debugger::last_part).collect();
        ensure(ours == *expected, || format!("CPU {number}: savecore says {ours:?}, gdb {expected:?}"))?;
        calls += ours.len();
    }
    Ok(calls)
}

/// Checks that gdb shows the kernel in a core: the calls of all CPUs with their arguments, with `crashed`
/// panicking, a global, and a list that can be followed. Returns gdb's output.
pub(super) fn kernel_in_gdb(case: &Case, core: &Path, cpus: u64, crashed: u64) -> Result<String> {
    // gdb uses the language of the crashed code: Rust.
    let follow = "set $node = test_kernel::witness::WITNESS_LIST\nset $sum = 0\nset $nodes = 0\n\
                  while $node as u64 != 0\nset $sum = $sum + (*$node).value\nset $nodes = $nodes + 1\n\
                  set $node = (*$node).next\nend\n";
    let script = case.folder.join("follow.gdb");
    std::fs::write(&script, follow).context("cannot write a script for gdb")?;
    let source = format!("source {}", script.display());
    let commands = [
        "info threads",
        "thread apply all bt",
        "print/x test_kernel::witness::WITNESS.magic",
        "print/s test_kernel::witness::WITNESS.name",
        &source,
        "print $nodes",
        "print $sum",
    ];
    let shown = debugger::gdb(case.kernel(), core, &commands, &case.folder, case.left())?;
    let log = case.folder.join("gdb.log");
    let must = |part: &str| {
        ensure(shown.contains(part), || format!("gdb does not show `{part}`; log: {}", log.display()))
    };
    for cpu in 0..cpus {
        for call in [
            format!("witness_outer (cpu={cpu}, token={})", 0x1000 + cpu),
            format!("witness_middle (cpu={cpu}, doubled={}, list=", 2 * (0x1000 + cpu)),
            format!("witness_inner (cpu={cpu}, depth={}, magic={MAGIC})", 2 * (0x1000 + cpu) + 1),
        ] {
            must(&call)?;
        }
    }
    must(&format!("crash_by_panic (cpu={crashed})"))?;
    must(&format!("= {MAGIC:#x}"))?;
    must("the kernel remembers")?;
    let sum: u64 = (0..NODES).map(|index| index * index).sum();
    must(&format!("= {NODES}\n"))?;
    must(&format!("= {sum}\n"))?;
    let threads = shown.lines().filter(|line| line.contains(" LWP ") && line.contains(" at ")).count() as u64;
    ensure(threads == cpus, || format!("gdb lists {threads} threads; log: {}", log.display()))?;
    Ok(shown)
}

pub(super) fn equals_machine(case: &Case, kind: &'static str, cpus: u32, memory: u32) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").kind(kind).cpus(cpus).memory(memory).word("fill=32");
    let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let compared = halted.equals(cores.first().context("no core")?)?;
    // Only the arena may be missing, and memory reserved by firmware below 1 MiB and at the top.
    let arena = halted.arena_bytes();
    ensure(compared.bytes + arena + (2 << 20) >= u64::from(memory) << 20, || {
        format!("only {} of {memory} MiB were compared", mib(compared.bytes))
    })?;
    Ok(format!("{} bytes compared, none differs; the arena's {arena} excepted", compared.bytes))
}

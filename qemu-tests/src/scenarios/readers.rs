//! gdb, readelf, and the machine itself, as judges of a core.

use std::path::Path;

use anyhow::{Context, Result};

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::halt;
use crate::debugger;

/// What the kernel's witnesses say of themselves: "WITNESS!" as a number.
const MAGIC: u64 = 0x5749_544e_4553_5321;
/// Nodes of the kernel's linked list.
const NODES: u64 = 32;
const CPUS: u64 = 4;

pub(super) fn gdb(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(CPUS as u32).memory(512).word("cpu=2");
    case.crash(&machine, "crash", exit::COMPLETE)?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = cores.first().context("no core")?;
    let readelf = debugger::readelf(core, &case.folder, case.left())?;
    kernel_in_gdb(case, core, CPUS, 2)?;
    let registers = debugger::prstatus_notes(&readelf) as u64;
    ensure(registers == CPUS, || format!("readelf finds the registers of {registers} CPUs"))?;
    Ok(format!("{CPUS} backtraces, a global, a list of {NODES} nodes; readelf is clean"))
}

/// Makes sure that gdb shows the kernel in a core: the calls of all CPUs with their arguments, of which `crashed`
/// panicked, a global, and a list that can be followed.
pub(super) fn kernel_in_gdb(case: &Case, core: &Path, cpus: u64, crashed: u64) -> Result<()> {
    // gdb takes the language of the crashed code: Rust.
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
    ensure(threads == cpus, || format!("gdb lists {threads} threads; log: {}", log.display()))
}

pub(super) fn equals_machine(case: &Case, kind: &'static str, cpus: u32, memory: u32) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").kind(kind).cpus(cpus).memory(memory).word("fill=32");
    let halted = halt(case, &machine, "diskdump: complete", &disk, &[])?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    let compared = halted.equals(cores.first().context("no core")?)?;
    // Nothing may be missing but the arena, and what the firmware keeps below 1 MiB and at the top.
    let arena = halted.arena_bytes();
    ensure(compared.bytes + arena + (2 << 20) >= u64::from(memory) << 20, || {
        format!("only {} of {memory} MiB were compared", mib(compared.bytes))
    })?;
    Ok(format!("{} bytes compared, none differs; the arena's {arena} excepted", compared.bytes))
}

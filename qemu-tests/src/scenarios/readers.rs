//! gdb, readelf, and the machine itself, as judges of a core.

use std::fs::File;

use anyhow::{Context, Result};

use super::case::{Case, USUAL_BLOCKS, ensure, exit, mib};
use crate::compare::{self, Core, Saved};
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
    let shown = debugger::gdb(&case.programs.kernel, core, &commands, &case.folder, case.left())?;
    let log = case.folder.join("gdb.log");
    let must = |part: &str| {
        ensure(shown.contains(part), || format!("gdb does not show `{part}`; log: {}", log.display()))
    };
    for cpu in 0..CPUS {
        for call in [
            format!("witness_outer (cpu={cpu}, token={})", 0x1000 + cpu),
            format!("witness_middle (cpu={cpu}, doubled={}, list=", 2 * (0x1000 + cpu)),
            format!("witness_inner (cpu={cpu}, depth={}, magic={MAGIC})", 2 * (0x1000 + cpu) + 1),
        ] {
            must(&call)?;
        }
    }
    must("crash_by_panic (cpu=2)")?;
    must(&format!("= {MAGIC:#x}"))?;
    must("the kernel remembers")?;
    let sum: u64 = (0..NODES).map(|index| index * index).sum();
    must(&format!("= {NODES}\n"))?;
    must(&format!("= {sum}\n"))?;
    let threads = shown.lines().filter(|line| line.contains(" LWP ") && line.contains(" at ")).count() as u64;
    ensure(threads == CPUS, || format!("gdb lists {threads} threads; log: {}", log.display()))?;
    let registers = debugger::prstatus_notes(&readelf) as u64;
    ensure(registers == CPUS, || format!("readelf finds the registers of {registers} CPUs"))?;
    Ok(format!("{CPUS} backtraces, a global, a list of {NODES} nodes; readelf is clean"))
}

pub(super) fn equals_machine(case: &Case, kind: &'static str, cpus: u32, memory: u32) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    let machine =
        case.machine(&disk, "panic").kind(kind).cpus(cpus).memory(memory).word("fill=32").word("reset=halt");
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("diskdump: complete", case.left())?;
    running.wait_for("testkernel: halted", case.left())?;
    running.qmp.stop()?;

    // The machine stands still, with all that the dump has written on its disk.
    let answer = case.savecore.expect(0, "info", &disk, &[])?;
    let map = memory_map(&answer.value)?;
    let arena =
        compare::union(map.iter().filter(|range| range.is_arena).map(|range| range.bytes.clone()).collect());
    let arena_bytes = compare::bytes(&arena);
    ensure((1..=1 << 20).contains(&arena_bytes), || {
        format!("savecore says the arena has {arena_bytes} bytes")
    })?;
    let all = compare::union(map.into_iter().map(|range| range.bytes).collect());
    let mut saved = Vec::new();
    for (number, range) in all.into_iter().enumerate() {
        let path = case.folder.join(format!("machine-{number}.memory"));
        running.qmp.pmemsave(range.start, range.end - range.start, &path)?;
        let file =
            File::open(&path).with_context(|| format!("QEMU did not save memory to {}", path.display()))?;
        saved.push(Saved { range, file });
    }
    drop(running);

    let (cores, _) = case.save(&disk, "cores", 1)?;
    let core = Core::open(cores.first().context("no core")?)?;
    let compared = compare::compare(&core, &saved, &arena)?;
    ensure(compared.different_pages == 0, || {
        let pages: Vec<String> = compared.different.iter().map(|page| format!("{page:#x}")).collect();
        format!("{} pages of the core differ from the machine: {}", compared.different_pages, pages.join(" "))
    })?;
    // Nothing may be missing but the arena, and what the firmware keeps below 1 MiB and at the top.
    ensure(compared.bytes + arena_bytes + (2 << 20) >= u64::from(memory) << 20, || {
        format!("only {} of {memory} MiB were compared", mib(compared.bytes))
    })?;
    Ok(format!("{} bytes compared, none differs; the arena's {arena_bytes} excepted", compared.bytes))
}

/// A range of the dump's memory map.
struct Mapped {
    bytes: compare::Range,
    is_arena: bool,
}

/// The memory map in what savecore says of the only dump.
fn memory_map(info: &serde_json::Value) -> Result<Vec<Mapped>> {
    let number = |range: &serde_json::Value, key: &str| {
        let text = range.get(key)?.as_str()?.strip_prefix("0x")?;
        u64::from_str_radix(text, 16).ok()
    };
    info.pointer("/dumps/0/memory")
        .and_then(serde_json::Value::as_array)
        .context("savecore info has no memory map")?
        .iter()
        .map(|range| {
            let bytes = number(range, "start").context("a range without a start")?
                ..number(range, "end").context("a range without an end")?;
            Ok(Mapped { bytes, is_arena: range.get("kind").is_some_and(|kind| kind == "arena") })
        })
        .collect()
}

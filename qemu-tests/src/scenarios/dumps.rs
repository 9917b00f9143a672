//! Dumps that succeed, completely or partly. After each, foreign data must be unchanged, bit by bit.

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{Case, Crashed, USUAL_BLOCKS, ensure, exit, mib};
use super::judge::{crash, facts, info, number, partial, readable, says, text, whole};
use crate::bed::drive_id;
use crate::compare::{self, Core};
use crate::debugger;
use crate::serial;

/// Maximum arena of a dump: the default, 1 MiB.
pub const ARENA_LIMIT: u64 = 1 << 20;
/// Maximum stack of a dump: half of what a Linux kernel has.
pub const STACK_LIMIT: u64 = 8 << 10;

pub(super) fn panic(case: &Case, kind: &'static str, cpus: u32, memory: u32) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // The last CPU, so that it is not always the boot CPU.
    let machine = case
        .machine(&disk, "panic")
        .kind(kind)
        .cpus(cpus)
        .memory(memory)
        .word(format!("cpu={}", cpus - 1))
        .word("reset=reset");
    let crashed = crash(case, &machine, "crash", exit::RESET)?;
    crashed.said("diskdump: complete")?;
    let (core, dump) = whole(case, &disk, cpus as usize)?;
    says(&dump, "trigger", "panic")?;
    ensure(text(&dump, "message").contains("panics, as the command line asks"), || {
        format!("savecore says the message was `{}`", text(&dump, "message"))
    })?;
    ensure(number(&dump, "crashing_cpu")? == u64::from(cpus - 1), || "another CPU crashed".to_owned())?;
    // All RAM except the arena and memory reserved by firmware.
    let covered = compare::bytes(&Core::open(&core)?.covers());
    let least = (u64::from(memory) << 20) - (4 << 20);
    ensure(covered >= least, || format!("the core has only {} of {memory} MiB of RAM", mib(covered)))?;
    case.check_ready(&disk)?;
    facts(&core, &dump)
}

pub(super) fn above_4_gib(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(6144);
    crash(case, &machine, "crash", exit::COMPLETE)?;
    let (core, dump) = whole(case, &disk, 2)?;
    let covers = Core::open(&core)?.covers();
    let low = compare::without(&covers, std::slice::from_ref(&(4 << 30..u64::MAX)));
    let high = compare::bytes(&covers) - compare::bytes(&low);
    ensure(high > 2 << 30, || format!("the core has only {} above 4 GiB", mib(high)))?;
    Ok(format!("{} above 4 GiB; {}", mib(high), facts(&core, &dump)?))
}

pub(super) fn fault(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "fault").cpus(2).word("cpu=1");
    crash(case, &machine, "crash", exit::COMPLETE)?;
    let (core, dump) = whole(case, &disk, 2)?;
    says(&dump, "trigger", "fault")?;
    // The faulting instruction is in the function that was made to fault, not in the handler.
    let shown = debugger::gdb(case.kernel(), &core, &["thread 2", "bt 1"], &case.folder, case.left())?;
    ensure(shown.contains("crash_by_fault"), || {
        format!("gdb does not show the faulting function; log: {}", case.folder.join("gdb.log").display())
    })?;
    Ok(text(&dump, "message").to_owned())
}

/// Crashes a guest with four CPUs and measures the resources of its dump: with helpers, compressed,
/// encrypted, checked while it is written.
///
/// # Errors
/// If the dump fails, or the guest does not print the numbers.
pub fn measure_footprint(case: &Case) -> Result<Footprint> {
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    case.savecore.format_for(&disk, &case.savecore.keygen("secret.key")?)?;
    let machine = case
        .machine(&disk, "footprint")
        .able()
        .cpus(4)
        .memory(512)
        .word("fill=24")
        .word("encoding=lz4")
        .word("verify=ahead");
    Footprint::of(&crash(case, &machine, "crash", exit::COMPLETE)?)
}

pub(super) fn footprint(case: &Case) -> Result<String> {
    let footprint = measure_footprint(case)?;
    let (arena, stack) = (footprint.arena, footprint.stack());
    ensure(arena <= ARENA_LIMIT, || format!("the arena is {arena} bytes, more than 1 MiB"))?;
    ensure(stack <= STACK_LIMIT, || format!("the dump used {stack} bytes of stack, more than 8 KiB"))?;
    Ok(format!(
        "arena {arena} of {ARENA_LIMIT} bytes; stack {stack} of {STACK_LIMIT} ({} of the crashing code's, {} of the dump's own)",
        footprint.borrowed, footprint.own
    ))
}

/// The resources that a dump needed, as measured by the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// Bytes of arena.
    pub arena: u64,
    /// Bytes of the crashed stack, from `crash()` on.
    pub borrowed: u64,
    /// Bytes of the dump's own stack, in the arena.
    pub own: u64,
}

impl Footprint {
    /// Total stack used from `crash()` on.
    pub fn stack(self) -> u64 {
        self.borrowed + self.own
    }

    /// Parses it from the guest's lines: `diskdump: used N of N bytes of stack, N of N bytes of arena, …` and
    /// `testkernel: stack used=N of=N`.
    ///
    /// # Errors
    /// If the guest did not print them.
    pub fn of(crashed: &Crashed) -> Result<Footprint> {
        let own = crashed.said("bytes of stack, ")?;
        let numbers: Vec<u64> = own.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
        let [own_used, _, _, arena, ..] = numbers.as_slice() else {
            anyhow::bail!("cannot read the footprint in `{own}`");
        };
        let line = crashed.said("testkernel: stack used=")?;
        let borrowed = serial::number(line, "used").context("cannot read how much stack was used")?;
        Ok(Footprint { arena: *arena, borrowed, own: *own_used })
    }
}

pub(super) fn nested_after_write(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    // After many chunks, because the last few may still be in flight. On the dumping CPU: a panicking helper
    // would just be lost.
    let machine = case
        .machine(&disk, "nested-after-write")
        .cpus(2)
        .memory(256)
        .word("fill=16")
        .word("nested.page=12000")
        .word("helpers=0");
    let crashed = crash(case, &machine, "crash", exit::NESTED)?;
    crashed.said("crashed itself while")?;
    let (_, dump) = partial(case, &disk, "unfinished", 2)?;
    Ok(format!("{} pages saved", number(&dump, "pages.data")?))
}

pub(super) fn double_panic(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "double-panic").cpus(4).memory(256);
    let crashed = crash(case, &machine, "crash", exit::COMPLETE)?;
    let begun = crashed.serial.lines().iter().filter(|line| line.text.contains("begins at block")).count();
    ensure(begun == 1, || format!("{begun} dumps were begun"))?;
    let (core, dump) = whole(case, &disk, 4)?;
    facts(&core, &dump)
}

pub(super) fn two_dumps(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(256);
    crash(case, &machine, "first", exit::COMPLETE)?;
    crash(case, &machine.word("cpu=1"), "second", exit::COMPLETE)?;
    let dumps = info(case, &disk, 2)?;
    let (mut end, mut places) = (1, Vec::new());
    for (dump, cpu) in dumps.iter().zip(0..) {
        says(dump, "status", "complete")?;
        ensure(number(dump, "crashing_cpu")? == cpu, || "the dumps are not in their order".to_owned())?;
        let first = number(dump, "first_block")?;
        ensure(first == end, || format!("a dump begins at block {first} instead of {end}"))?;
        end = number(dump, "end_block")?;
        places.push(format!("{first} to {}", end - 1));
    }
    let (cores, _) = case.save(&disk, "cores", 2)?;
    for core in &cores {
        readable(case, core, 2)?;
    }
    case.check_ready(&disk)?;
    Ok(format!("blocks {}; both saved", places.join(" and ")))
}

pub(super) fn harvest_and_again(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let fresh = disk.fingerprint()?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(256);
    let mut facts = Vec::new();
    for name in ["first", "second"] {
        crash(case, &machine, name, exit::COMPLETE)?;
        let (_, answer) = case.save(&disk, name, 1)?;
        case.check_ready(&disk)?;
        ensure(disk.fingerprint()? == fresh, || {
            "the partition is not what it was after its formatting".to_owned()
        })?;
        facts.push(format!("{:.1} s", answer.took.as_secs_f32()));
    }
    Ok(format!("harvested in {}; the image is as freshly formatted", facts.join(" and ")))
}

pub(super) fn full_partition(case: &Case) -> Result<String> {
    // 16 MiB for 64 MiB of filled memory.
    let disk = case.formatted("disk", 4096)?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(256).word("fill=64");
    let crashed = crash(case, &machine, "crash", exit::INCOMPLETE)?;
    crashed.said("diskdump: incomplete")?;
    let (core, dump) = partial(case, &disk, "incomplete", 2)?;
    says(&dump, "reason", "the partition was full")?;
    let pages = number(&dump, "pages.data")?;
    // Headers, checksums and notes take a few percent of the blocks.
    ensure(pages > 3800, || format!("only {pages} pages are in a partition of 4096 blocks"))?;
    let shown = debugger::gdb(case.kernel(), &core, &["info threads", "bt"], &case.folder, case.left())?;
    ensure(shown.contains("crash_by_panic"), || {
        format!("gdb shows no backtrace; log: {}", case.folder.join("gdb.log").display())
    })?;
    Ok(format!("{pages} pages in 4096 blocks; gdb shows the backtrace"))
}

pub(super) fn budget(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 6 * USUAL_BLOCKS)?;
    // 192 MiB to write at 16 MiB a second, in four seconds.
    let machine = case
        .machine(&disk, "panic")
        .cpus(2)
        .memory(512)
        .word("fill=192")
        .word("verify=ahead")
        .word("budget=4000")
        .drive("throttling.bps-write=16777216");
    let crashed = crash(case, &machine, "crash", exit::INCOMPLETE)?;
    crashed.said("diskdump: incomplete")?;
    let (_, dump) = partial(case, &disk, "incomplete", 2)?;
    says(&dump, "reason", "the time budget was spent")?;
    let seconds = dump.get("elapsed_seconds").and_then(Value::as_f64).context("no duration")?;
    ensure(seconds <= 4.0, || format!("the dump took {seconds:.1} s of a budget of 4 s"))?;
    Ok(format!("{} pages in {seconds:.1} s of 4 s", number(&dump, "pages.data")?))
}

pub(super) fn stuck_midway(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", 2 * USUAL_BLOCKS)?;
    // Slow enough to be interrupted in the middle, then stopped for good: one byte per second.
    let machine = case
        .machine(&disk, "panic")
        .cpus(2)
        .memory(256)
        .word("fill=64")
        .word("timeout=1000")
        .word("budget=20000")
        .word("verify=ahead")
        .drive("throttling.bps-write=16777216");
    let foreign = disk.foreign_fingerprint()?;
    let mut running = machine.start(&case.folder, "crash")?;
    running.wait_for("diskdump: dumped", case.left())?;
    running.qmp.throttle(&drive_id(0), 1, 1)?;
    let begin = std::time::Instant::now();
    let code = running.wait_exit(case.left())?;
    let took = begin.elapsed().as_secs_f32();
    running.serial.update()?;
    let crashed = Crashed { code, serial: running.serial };
    let said = crashed.said("diskdump: incomplete")?.trim_start_matches("diskdump: ").to_owned();
    ensure(took < 20.0, || format!("it took {took:.1} s to end, with a budget of 20 s"))?;
    ensure(disk.foreign_fingerprint()? == foreign, || {
        "blocks outside of the dump partition were changed".to_owned()
    })?;
    let dumps = info(case, &disk, 1)?;
    let dump = dumps.first().context("no dump")?;
    let status = text(dump, "status").to_owned();
    ensure(["incomplete", "unfinished"].contains(&status.as_str()), || {
        format!("savecore says it is {status}")
    })?;
    let (cores, _) = case.save(&disk, "cores", 1)?;
    readable(case, cores.first().context("no core")?, 2)?;
    Ok(format!("{} pages saved; ended {took:.1} s later: {said}", number(dump, "pages.data")?))
}

pub(super) fn verify_ahead(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(256).word("fill=24").word("verify=ahead");
    crash(case, &machine, "good", exit::COMPLETE)?;
    let (_, dump) = whole(case, &disk, 2)?;
    let whole_pages = number(&dump, "pages.data")?;
    // A foreign block in the way: everything before it is dumped, and the block itself is kept.
    let foreign = 4000;
    disk.flip(foreign, 9)?;
    let before = disk.read(foreign)?;
    let crashed = crash(case, &machine, "foreign", exit::INCOMPLETE)?;
    crashed.said("diskdump: incomplete")?;
    ensure(disk.read(foreign)? == before, || format!("the foreign block {foreign} was overwritten"))?;
    let dumps = info(case, &disk, 1)?;
    let dump = dumps.first().context("no dump")?;
    says(dump, "status", "incomplete")?;
    says(dump, "reason", "a block ahead did not hold its pattern")?;
    let pages = number(dump, "pages.data")?;
    ensure(pages > 0 && pages < whole_pages, || format!("{pages} pages of {whole_pages} were dumped"))?;
    Ok(format!("whole: {whole_pages} pages; stopped at foreign block {foreign}: {pages} pages"))
}

pub(super) fn verify_sample(case: &Case) -> Result<String> {
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").cpus(2).memory(256).word("verify=sample:64");
    crash(case, &machine, "good", exit::COMPLETE)?;
    let (core, dump) = whole(case, &disk, 2)?;
    // Block 1 is the first sample, block 1 + 64 * 100 another one.
    let foreign = 1 + 64 * 100;
    disk.flip(foreign, 9)?;
    let before = disk.fingerprint()?;
    let crashed = crash(case, &machine, "foreign", exit::REFUSED)?;
    crashed.said(&format!("block {foreign} does not hold its pattern"))?;
    ensure(disk.fingerprint()? == before, || "a refused dump changed the image".to_owned())?;
    Ok(format!("{}; refused at block {foreign}", facts(&core, &dump)?))
}

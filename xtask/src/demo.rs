//! `cargo xtask demo`: a kernel panics in QEMU, its memory is saved as a core file, and gdb reads it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::bed::{Bed, X86_64};
use qemu_tests::debugger;
use qemu_tests::image::Disk;
use qemu_tests::machine::{Machine, Running};
use qemu_tests::savecore::Savecore;
use qemu_tests::scenarios::Build;

use crate::ui::{self, Mark};
use crate::{build, folders, setup};

const CPUS: u32 = 4;
/// MiB of RAM.
const MEMORY: u32 = 512;
/// Blocks of 4096 bytes of the dump partition: 64 MiB.
const BLOCKS: u64 = 16 * 1024;
/// A step that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(60);

/// The task.
pub(crate) fn task() -> Result<bool> {
    let begin = Instant::now();
    ui::section("diskdump demo: a kernel crashes, its memory is saved, gdb opens it");
    step("tools and toolchain", || Ok((setup::bring(&setup::Needs::demo())?, String::new())))?;
    let kernel =
        step("build the test kernel", || Ok((build::kernel(Build::release(X86_64))?, String::new())))?;
    let savecore = step("build savecore", || Ok((build::savecore()?, String::new())))?;

    let folder = folders::target_folder().join("demo");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let savecore = Savecore::new(&savecore, &folder, LIMIT);

    let disk = step("make and format a disk", || {
        let disk = Disk::create(&folder.join("disk.raw"), BLOCKS)?;
        savecore.format(&disk)?;
        Ok((disk, format!("{} MiB of pattern in its own partition", BLOCKS / 256)))
    })?;
    crash(&kernel, &disk, &folder)?;
    let core = step("harvest with savecore", || {
        let (cores, _) = savecore.save(&disk, &folder.join("cores"), false)?;
        let core = cores.into_iter().next().context("savecore saved no core")?;
        Ok((core, "core file written, dump freed".to_owned()))
    })?;
    let shown = step("open the core in gdb", || {
        let shown = debugger::gdb(&kernel, &core, &COMMANDS, &folder, LIMIT)?;
        complete(&shown).with_context(|| format!("log: {}", folder.join("gdb.log").display()))?;
        Ok((shown, format!("{CPUS} backtraces, the variable, the list")))
    })?;

    ui::text("");
    ui::section("What gdb shows of the dead kernel");
    for line in pleasant(&shown) {
        ui::text(&line);
    }
    ui::text("");
    ui::text(&format!("core file  {}", core.display()));
    ui::text(&format!("kernel     {}", kernel.display()));
    ui::text(&format!("look round gdb {} {}", kernel.display(), core.display()));
    ui::text(&format!("took {:.1} s", begin.elapsed().as_secs_f32()));
    Ok(true)
}

/// Checks that gdb shows everything that the demo is about.
fn complete(shown: &str) -> Result<()> {
    let calls = (0..CPUS).map(|cpu| format!("witness_outer (cpu={cpu}, "));
    let values = ["the kernel remembers", "0x5749544e45535321", "index: 2, value: 4"].map(str::to_owned);
    match calls.chain(values).find(|part| !shown.contains(part.as_str())) {
        Some(part) => bail!("gdb does not show `{part}`"),
        None => Ok(()),
    }
}

const COMMANDS: [&str; 6] = [
    "thread apply all -ascending bt",
    "echo \\nThe variable WITNESS, and the third node of a linked list:\\n",
    "print test_kernel::witness::WITNESS.name",
    "print/x test_kernel::witness::WITNESS.magic",
    "set $list = test_kernel::witness::WITNESS_LIST",
    "print *(*(*$list).next).next",
];

/// Runs a step and prints its line.
fn step<T>(what: &str, run: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    ui::running(what);
    let begin = Instant::now();
    match run() {
        Ok((result, facts)) => {
            ui::done(Mark::Ok, what, &facts, Some(begin.elapsed()));
            Ok(result)
        }
        Err(error) => {
            ui::done(Mark::Failed, what, "", Some(begin.elapsed()));
            Err(error)
        }
    }
}

/// Boots the kernel, lets it panic and dump, and reports the progress that the guest reports.
fn crash(kernel: &Path, disk: &Disk, folder: &Path) -> Result<()> {
    let machine = Machine::new(Bed::usual(), kernel)
        .cpus(CPUS)
        .memory(MEMORY)
        .disk(disk)
        .word("scenario=panic")
        .word("cpu=2")
        .word("reset=reset");
    let mut running: Running = machine.start(folder, "demo")?;
    let mut last = Duration::ZERO;
    let milestones = [
        ("boot, and arm the dump", "testkernel: armed", "testkernel: "),
        ("panic", "diskdump: cpu", "diskdump: "),
        ("take the disk over", "diskdump: took over", "diskdump: "),
        ("check every block", "begins at block", "diskdump: "),
        ("write memory out", "pages written", "diskdump: "),
    ];
    for (what, needle, prefix) in milestones {
        ui::running(what);
        let line = running.wait_for(needle, LIMIT)?;
        let said = line.text.split_once(prefix).map_or(line.text.as_str(), |(_, said)| said);
        ui::done(Mark::Ok, what, &cut(said, 76), Some(line.at.saturating_sub(last)));
        last = line.at;
    }
    running.wait_for("diskdump: complete", LIMIT)?;
    let code = running.wait_exit(LIMIT)?;
    if code != 0 {
        bail!("QEMU ended with {code} instead of a reset; log: {}", running.serial.path().display());
    }
    Ok(())
}

/// Cuts a text to `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// gdb's output without the noise: greeting, folders, and addresses. Its threads are CPUs, numbered from 1.
fn pleasant(shown: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = false;
    for line in shown.lines() {
        let cpu = line.strip_prefix("Thread ").and_then(|rest| {
            let number: u32 = rest.split_once("(LWP ")?.1.split_once(')')?.0.parse().ok()?;
            number.checked_sub(1)
        });
        begun |= cpu.is_some();
        if !begun {
            continue;
        }
        lines.push(match cpu {
            Some(cpu) => format!("  CPU {cpu}"),
            None => format!("  {}", frame(line).unwrap_or_else(|| line.to_owned())),
        });
    }
    lines
}

/// A frame of a backtrace, shortened; `None` for other lines.
fn frame(line: &str) -> Option<String> {
    let (number, rest) = line.strip_prefix('#')?.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let call = match rest.split_once(" in ") {
        Some((address, call)) if address.starts_with("0x") => call,
        _ => rest,
    };
    let (call, place) = match call.rsplit_once(" at ") {
        Some((call, place)) => (call, format!("  {}", place.rsplit('/').next().unwrap_or(place))),
        None => (call, String::new()),
    };
    Some(format!("  #{number:<2} {call}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_folders_and_addresses_go() {
        let shown = "GNU gdb\n[New LWP 1]\n\nThread 2 (LWP 2):\n#0  f (cpu=1) at src/a/b.rs:7\n\
                     #10 0xffffffff80000000 in g (x=\"a at b\") at c.rs:8\n#11 0xff in h ()\n$1 = 5\n";
        let expected = [
            "  CPU 1",
            "    #0  f (cpu=1)  b.rs:7",
            "    #10 g (x=\"a at b\")  c.rs:8",
            "    #11 h ()",
            "  $1 = 5",
        ];
        assert_eq!(pleasant(shown), expected);
    }

    #[test]
    fn a_backtrace_or_a_value_that_is_missing_fails_the_demo() {
        let calls: String = (0..CPUS).map(|cpu| format!("#3 witness_outer (cpu={cpu}, token=1)\n")).collect();
        let values = "\"the kernel remembers\" 0x5749544e45535321 {index: 2, value: 4}";
        assert!(complete(&format!("{calls}{values}")).is_ok());
        assert!(complete(&calls).is_err());
        assert!(complete(values).is_err());
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
    }
}

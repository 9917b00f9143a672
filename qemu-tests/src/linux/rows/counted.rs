//! Compares the pages that a dump leaves out with an independent count: by the kernel itself, just before it
//! crashes. This also works for kernels that no makedumpfile supports yet.
//! also for kernels that no makedumpfile knows yet.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::judge;
use super::run::{self, BEFORE, CRASH};
use super::{Kind, Lab, Row};
use crate::process;
use crate::serial::number;

/// The row.
pub(super) const COUNTED: Kind = (
    "counted",
    "a dump at level 31 leaves out as many pages of each kind as the kernel counts itself, large ones too",
    counted,
);

const COUNT: &str = include_str!("../count.c");

/// Any compiler that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// RAM in MiB: as in all rows, plus the huge pages.
const MEMORY: u32 = run::MEMORY + 192;

/// MiB in huge pages of the page cache, and of user memory.
const CACHE: u64 = 96;
const USER: u64 = 48;

/// Tolerance of a count: processes come and go between the count and the crash.
const DIFFERENT: u64 = 2500;

/// Allocates huge pages, each kind in one file or process, then counts.
fn script() -> String {
    format!(
        r#"
mkdir -p /large
mount -t tmpfs -o huge=always,size=90% none /large || fail "no tmpfs with large pages"
dd if=/dev/urandom of=/large/file bs=1M count={CACHE} 2>/dev/null || fail "the page cache is not filled"
[ "$(awk '/^ShmemHugePages/ {{ print $2 }}' /proc/meminfo)" -gt {} ] || fail "the page cache has no large pages"
echo always >/sys/kernel/mm/transparent_hugepage/enabled
/bin/count hold {USER} &
sleep 3
[ "$(awk '/^AnonHugePages/ {{ print $2 }}' /proc/meminfo)" -gt {} ] || fail "user memory has no large pages"
sync
say "counted $(/bin/count)"
"#,
        CACHE << 9,
        USER << 9,
    )
}

fn counted(lab: &Lab, row: &Row) -> Result<String> {
    let (source, program) = (lab.folder.join("count.c"), lab.folder.join("count"));
    fs::write(&source, COUNT).with_context(|| format!("cannot write {}", source.display()))?;
    let mut command = Command::new("gcc");
    command.args(["-O2", "-static", "-o"]).arg(&program).arg(&source);
    process::run(&mut command, LIMIT, &lab.folder.join("count.log"))?.success("gcc")?;

    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    let script = format!("{BEFORE}\narm \"target=$target\" serial=0x3f8 level=31\n{}\n{CRASH}", script());
    let guest = run::guest(lab, row, &script)?.program(&program)?;
    let machine = run::machine(lab, row, &guest, &disk, row.what)?.memory(MEMORY);
    let serial = run::crash(&machine, lab, row.what)?;
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    let dump = judge::info(lab, &disk)?;
    let mut facts = vec![judge::is_whole(&dump, row.cpus)?];
    let line = serial.find("linux: counted ").context("the kernel counted nothing")?;
    let pages = |kind: &str| {
        let pages = dump.get("pages").and_then(|pages| pages.get(kind)).and_then(Value::as_u64);
        pages.with_context(|| format!("savecore does not say how many pages of {kind} were left out"))
    };
    let ours = [
        ("user", pages("user")?),
        ("cache", pages("cache")? + pages("cache_private")?),
        ("free", pages("free")?),
    ];
    for (kind, ours) in ours {
        let theirs = number(&line.text, kind).with_context(|| format!("the kernel did not count {kind}"))?;
        ensure!(
            ours.abs_diff(theirs) < DIFFERENT,
            "{ours} pages of {kind} memory were left out, and the kernel counts {theirs}; log: {}",
            serial.path().display()
        );
        facts.push(format!("{kind} {ours} of {theirs}"));
    }
    fs::remove_file(&disk.path)?;
    Ok(facts.join(", "))
}

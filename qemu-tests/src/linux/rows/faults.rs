//! Harm done on purpose: the dump is made all the same, or refused, and the kernel takes its next step.

use anyhow::{Context, Result, ensure};

use super::judge;
use super::run::{self, BEFORE, CRASH};
use super::{Kind, Lab, Row};

/// The rows.
pub(super) const KINDS: [Kind; 5] = [
    ("text", "one bit of the module's code turned over: refused, and the kernel goes on", text),
    ("lock", "a panic that holds a lock of the disk's own driver", lock),
    ("notifier", "a fault in another panic notifier, in front of ours", notifier),
    ("deaf", "a CPU that never leaves an NMI", deaf),
    ("memory", "not one page is free", memory),
];

/// What a kernel says that goes on behind its panic.
const REBOOTS: &str = "Rebooting in 1 seconds";

fn text(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let whole = disk.foreign_fingerprint()?;
    let partition = disk.fingerprint()?;
    // A function that runs after the check alone.
    let spoil = r#"
address=$(awk '$2 ~ /[tT]/ && /\[diskdump\]/ && /lz4/ { print "0x" $1; exit }' /proc/kallsyms)
[ -n "$address" ] || fail "no code of diskdump's is known"
harm text "$address"
crash_now
"#;
    let script =
        format!("{BEFORE}\ninsmod /faults.ko\narm \"target=$target\" serial=0x3f8\n{spoil}\nsleep 60");
    // A second to wait, so that the kernel says what it does.
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, "text")?.word("panic=1");
    let serial = run::crash(&machine, lab, "text")?;
    let line =
        serial.lines().iter().find(|line| line.text.contains("diskdump: ") && line.text.contains("refused"));
    let line = line.with_context(|| format!("it was not refused; log: {}", serial.path().display()))?;
    ensure!(serial.find(REBOOTS).is_some(), "the kernel did not go on; log: {}", serial.path().display());
    ensure!(
        disk.fingerprint()? == partition && disk.foreign_fingerprint()? == whole,
        "something was written all the same"
    );
    std::fs::remove_file(&disk.path)?;
    Ok(line.text.clone())
}

fn lock(lab: &Lab, row: &Row) -> Result<String> {
    // The next request of the traffic does it.
    dump(lab, row, "say \"crashes now\"\nharm lock\ntraffic \"$disk\"\nsleep 60", row.cpus)
}

fn notifier(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, &format!("harm notifier\n{CRASH}"), row.cpus)
}

fn memory(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, "traffic \"$disk\"\nsay \"crashes now\"\nharm memory", row.cpus)
}

fn deaf(lab: &Lab, row: &Row) -> Result<String> {
    // The shell stays on CPU 0, so that the other one is the deaf one; its own disk traffic goes on.
    let script = format!("harm deaf 1\ntaskset -p 1 $$ >/dev/null\n{CRASH}");
    dump(lab, row, &script, row.cpus)
}

/// A guest that is armed and does this; the dump is whole.
fn dump(lab: &Lab, row: &Row, script: &str, cpus: u32) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    let script = format!("{BEFORE}\ninsmod /faults.ko\narm \"target=$target\" serial=0x3f8\n{script}");
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, row.what)?;
    let serial = run::crash(&machine, lab, row.what)?;
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok(facts)
}

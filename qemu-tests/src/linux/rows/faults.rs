//! Deliberate damage: the dump is made nevertheless, or refused, and the kernel takes its next step.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::judge;
use super::run::{self, BEFORE, CRASH};
use super::{Kind, Lab, Row};
use crate::serial::Serial;

/// The rows.
pub(super) const KINDS: [Kind; 11] = [
    ("text", "one bit of the module's code turned over: refused, and the kernel goes on", text),
    ("lock", "a panic that holds a lock of the disk's own driver", lock),
    ("notifier", "a fault in another panic notifier, which wants to be the first, too", notifier),
    ("deaf", "a CPU that never leaves an NMI", deaf),
    ("memory", "not one page is free", memory),
    ("nmis", "NMIs to the CPU that dumps, as a hardware watchdog sends them", nmis),
    ("parked", "a CPU that the kernel never started: the others are stopped one by one", parked),
    ("mce", "memory that failed, as a machine check tells: its page is not read again", mce),
    ("heard", "other panic notifiers, and those that keep logs, hear of the panic after the dump", heard),
    ("stuck", "a panic notifier that never comes back: the machine is reset all the same", stuck),
    ("pvpanic", "pvpanic, which was there first, tells the host after the dump", pvpanic),
];

/// The output of a kernel that continues after its panic.
const REBOOTS: &str = "Rebooting in 1 seconds";

fn text(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let whole = disk.foreign_fingerprint()?;
    let partition = disk.fingerprint()?;
    // Any function of `dumpcore::crash::write`, as its mangled name tells: they run only after the check. They
    // are too many and too large for the compiler to put all of them into their callers.
    let spoil = r#"
address=$(awk '$2 ~ /[tT]/ && /\[diskdump\]/ && /8dumpcore5crash5write/ { print "0x" $1; exit }' /proc/kallsyms)
[ -n "$address" ] || fail "/proc/kallsyms names no function of dumpcore::crash::write"
harm text "$address"
crash_now
"#;
    let script =
        format!("{BEFORE}\ninsmod /faults.ko\narm \"target=$target\" serial=0x3f8\n{spoil}\nsleep 60");
    // A second's wait, so that the kernel announces it.
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
    // The next request of the traffic triggers it.
    dump(lab, row, "say \"crashes now\"\nharm lock\ntraffic \"$disk\"\nsleep 60", row.cpus)
}

fn notifier(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, &format!("harm notifier\n{CRASH}"), row.cpus)
}

fn memory(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, "traffic \"$disk\"\nsay \"crashes now\"\nharm memory", row.cpus)
}

fn deaf(lab: &Lab, row: &Row) -> Result<String> {
    // The shell stays on CPU 0, so the other one is deaf; its own disk traffic continues.
    let script = format!("harm deaf 1\ntaskset -p 1 $$ >/dev/null\n{CRASH}");
    dump(lab, row, &script, row.cpus)
}

/// A page in the middle of the guest's RAM.
const FAILED: u64 = 0x800_0000;

fn mce(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let script = format!(
        "{BEFORE}\narm \"target=$target\" serial=0x3f8 level=0\ntraffic \"$disk\"\nsay \"crashes now\"\nsleep 60"
    );
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, row.what)?;
    let mut running = machine.start(&lab.folder, row.what)?;
    run::wait(&mut running, run::CRASHES)?;
    running.qmp.fail_memory(row.cpus - 1, FAILED)?;
    let serial = run::end(running)?;
    run::is_complete(&serial)?;
    let dump = judge::info(lab, &disk)?;
    let facts = judge::is_whole(&dump, row.cpus)?;
    let message = judge::text(&dump, "message");
    ensure!(message.contains("machine check"), "the message is `{message}`");
    let left = dump["pages"]["device"].as_u64();
    ensure!(left == Some(1), "{left:?} pages were not read, instead of one");
    std::fs::remove_file(&disk.path)?;
    Ok(format!("{facts}, `{message}`"))
}

fn parked(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let script = format!(
        "[ \"$(cat /sys/devices/system/cpu/present)\" = 0-{} ] || fail \"there is no CPU that was not started\"\n\
         {BEFORE}\narm \"target=$target\" serial=0x3f8\n{CRASH}",
        row.cpus
    );
    let guest = run::guest(lab, row, &script)?;
    let more = Row { cpus: row.cpus + 1, ..*row };
    let machine = run::machine(lab, &more, &guest, &disk, row.what)?.word(format!("maxcpus={}", row.cpus));
    let serial = run::crash(&machine, lab, row.what)?;
    run::is_complete(&serial)?;
    let dump = judge::info(lab, &disk)?;
    let facts = judge::is_whole(&dump, row.cpus)?;
    let conditions = |cpu: &serde_json::Value| judge::text(cpu, "condition").to_owned();
    let mut conditions: Vec<String> = dump["cpus"].as_array().into_iter().flatten().map(conditions).collect();
    conditions.sort_unstable();
    ensure!(conditions == ["crashing", "stopped"], "the CPUs are {}", conditions.join(" and "));
    std::fs::remove_file(&disk.path)?;
    Ok(facts)
}

/// The output of faults.ko.
const HEARD: [&str; 2] = ["faults: a notifier has heard", "faults: who keeps logs has heard"];

fn heard(lab: &Lab, row: &Row) -> Result<String> {
    let (serial, facts) = others(lab, row, "harm hear", "")?;
    let heard = HEARD.map(|words| serial.find(words).is_some());
    ensure!(
        heard == [true; 2],
        "of the notifier and the log, {heard:?} heard; log: {}",
        serial.path().display()
    );
    ensure!(serial.find(REBOOTS).is_none(), "the kernel went on; log: {}", serial.path().display());
    // Without a guard, the notifiers do not run.
    let (serial, _) = others(lab, &Row { cpus: 1, ..*row }, "harm hear", "")?;
    let heard = HEARD.map(|words| serial.find(words).is_some());
    ensure!(heard == [false; 2], "with one CPU, {heard:?} heard; log: {}", serial.path().display());
    let (serial, _) = others(lab, &Row { cpus: 1, ..*row }, "harm hear", "notify=always")?;
    let heard = HEARD.map(|words| serial.find(words).is_some());
    ensure!(heard == [true; 2], "told to always, {heard:?} heard; log: {}", serial.path().display());
    Ok(facts)
}

fn stuck(lab: &Lab, row: &Row) -> Result<String> {
    // The hanging notifier and later ones come after the dump. The reset must come from the guard, because
    // the kernel itself waits longer.
    let (serial, facts) = others(lab, row, "harm stuck\nharm hear", "")?;
    ensure!(serial.find("faults: stuck").is_some(), "no notifier hung; log: {}", serial.path().display());
    ensure!(serial.find(HEARD[0]).is_none(), "nothing hung; log: {}", serial.path().display());
    Ok(facts)
}

/// A guest that causes this fault, arms with these parameters and crashes; the dump is complete, and the
/// machine is reset.
fn others(lab: &Lab, row: &Row, harm: &str, words: &str) -> Result<(Serial, String)> {
    let disk = run::disk(lab, "disk")?;
    let script =
        format!("{BEFORE}\ninsmod /faults.ko\n{harm}\narm \"target=$target\" serial=0x3f8 {words}\n{CRASH}");
    // If the kernel continued with its panic, it would announce it.
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, row.what)?.word("panic=1");
    let serial = run::crash(&machine, lab, row.what)?;
    run::is_complete(&serial)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, row.cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok((serial, facts))
}

/// By default, QEMU ends the machine on a pvpanic event.
fn pvpanic(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let script = format!(
        "[ -e /sys/bus/pci/drivers/pvpanic-pci/*/events ] || fail \"there is no pvpanic\"\n\
         {BEFORE}\narm \"target=$target\" serial=0x3f8\n{CRASH}"
    );
    let guest = run::guest(lab, row, &script)?.module("pvpanic_pci");
    let mut machine = run::machine(lab, row, &guest, &disk, row.what)?;
    machine.arguments.extend(["-device", "pvpanic-pci"]);
    let mut running = machine.start(&lab.folder, row.what)?;
    let told = running.qmp.event("GUEST_PANICKED", run::LIMIT).context("the host was not told")?;
    let serial = run::end(running)?;
    run::is_complete(&serial)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, row.cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok(format!("{facts}, then {}", told["data"]["action"]))
}

/// QEMU's NMI arrives at a pin that the kernel enables on CPU 0 only.
fn nmis(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    // Uncompressed, the dump takes seconds.
    let script = format!(
        "{BEFORE}\narm \"target=$target\" serial=0x3f8 level=1 compress=none\ntaskset -p 1 $$ >/dev/null\n{CRASH}"
    );
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, row.what)?;
    let mut running = machine.start(&lab.folder, row.what)?;
    run::wait(&mut running, "begins at block")?;
    let mut sent = 0;
    while running.wait_for("diskdump: complete", EVERY).is_err() && sent < MOST {
        if running.qmp.inject_nmi().is_err() {
            break;
        }
        sent += 1;
    }
    let serial = run::end(running)?;
    run::is_complete(&serial)?;
    ensure!(sent > 3, "the dump took less than {sent} NMIs' time");
    run::only_ours(&disk, before)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, row.cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok(format!("{facts}, {sent} NMIs"))
}

/// Interval between NMIs, and their maximum number.
const EVERY: Duration = Duration::from_millis(100);
const MOST: u32 = 300;

/// A guest that arms and runs this script; the dump is complete.
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

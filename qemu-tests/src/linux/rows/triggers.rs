//! All causes of a panic, and the trigger that the dump records.

use anyhow::{Result, ensure};

use super::judge::{self, text};
use super::run::{self, BEFORE, CRASHES};
use super::{Kind, Lab, Row};
use crate::linux::kernel::Kernel;

/// The rows.
pub(super) const KINDS: [Kind; 6] = [
    ("oops", "an oops with panic_on_oops", oops),
    ("nmi", "an NMI from outside with unknown_nmi_panic", nmi),
    ("softlockup", "a CPU that goes round with softlockup_panic", softlockup),
    ("hung-task", "a task that waits for ever with hung_task_panic", hung_task),
    ("reboot", "a panic in the middle of a reboot, when devices were shut down already", reboot),
    ("later", "a panic some time after an oops that was survived, on the same CPU", later),
];

fn oops(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, "set_to 1 panic_on_oops\nsay \"crashes now\"\nharm oops", false, "oops", "")
}

fn later(lab: &Lab, row: &Row) -> Result<String> {
    let script = "set_to 0 panic_on_oops\ntaskset -p 1 $$ >/dev/null\n(harm oops)\nsleep 1\ncrash_now";
    dump(lab, row, script, false, "panic", "sysrq")
}

fn nmi(lab: &Lab, row: &Row) -> Result<String> {
    dump(lab, row, "set_to 1 unknown_nmi_panic\nsay \"crashes now\"", true, "nmi", "NMI")
}

fn softlockup(lab: &Lab, row: &Row) -> Result<String> {
    let script = "set_to 1 softlockup_panic\nset_to 2 watchdog_thresh\nsay \"crashes now\"\nharm spin &";
    dump(lab, row, script, false, "watchdog", "softlockup")
}

fn hung_task(lab: &Lab, row: &Row) -> Result<String> {
    let script =
        "set_to 1 hung_task_panic\nset_to 2 hung_task_timeout_secs\nsay \"crashes now\"\nharm hang &";
    dump(lab, row, script, false, "watchdog", "hung_task")
}

fn reboot(lab: &Lab, row: &Row) -> Result<String> {
    let script = "harm reboot\nsay \"crashes now\"\nreboot -f";
    // Without ftrace a probe is a breakpoint, which the kernel handles like an NMI.
    let trigger = if row.kernel == Kernel::RUST { "nmi" } else { "panic" };
    dump(lab, row, script, false, trigger, "in a reboot")
}

/// A guest that arms and runs this script; the dump has this trigger, and a message with this part.
fn dump(lab: &Lab, row: &Row, script: &str, nmi: bool, trigger: &str, part: &str) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    let script = format!(
        "{BEFORE}\ninsmod /faults.ko\narm \"target=$target\" serial=0x3f8\ntraffic \"$disk\"\n\
         {script}\nsleep 100\nfail \"it did not crash\""
    );
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, "trigger")?;
    let mut running = machine.start(&lab.folder, "trigger")?;
    if nmi {
        run::wait(&mut running, CRASHES)?;
        running.qmp.inject_nmi()?;
    }
    let serial = run::end(running)?;
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    let dump = judge::info(lab, &disk)?;
    let facts = judge::is_whole(&dump, row.cpus)?;
    let (found, message) = (text(&dump, "trigger"), text(&dump, "message"));
    ensure!(found == trigger, "the dump says {found} instead of {trigger}, with the message `{message}`");
    ensure!(message.contains(part), "the message is `{message}`, without {part}");
    std::fs::remove_file(&disk.path)?;
    Ok(format!("{facts}, `{message}`"))
}

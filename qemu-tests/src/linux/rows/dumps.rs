//! A crash under load, saved and opened by all tools; and the same crash with kdump.

use anyhow::{Context, Result, ensure};

use super::judge::{self, Cores};
use super::run::{self, BEFORE, CRASH, LIMIT};
use super::{Lab, Row};
use crate::linux::guest::{Guest, LOAD};
use crate::linux::kdump::{Filter, KDUMP, kdump, unflatten};

/// Level 31, the most common choice.
pub(super) fn dump(lab: &Lab, row: &Row) -> Result<String> {
    let cores = crash(lab, row, "level=31")?;
    let mut facts = vec![cores.facts.clone()];
    facts.extend(judge::tools(lab, &cores)?);
    cores.remove()?;
    Ok(facts.join(", "))
}

/// Crashes under load, armed with these parameters, and saves the dump as ELF and as kdump.
pub(super) fn crash(lab: &Lab, row: &Row, words: &str) -> Result<Cores> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    let script = format!("{BEFORE}\narm \"target=$target\" serial=0x3f8 {words}\n{CRASH}");
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, "dump")?;
    let serial = run::crash(&machine, lab, "dump")?;
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    judge::save(lab, disk, row.cpus)
}

/// Our core and kdump's have the same content.
pub(super) fn as_kdump(lab: &Lab, row: &Row) -> Result<String> {
    let vmlinux = lab.vmlinux.as_deref().context("this row needs the kernel's symbols")?;
    let cores = crash(lab, row, "level=31")?;
    let ours = judge::Said::of(lab, vmlinux, &cores.kdump)?;

    let disk = run::disk(lab, "kdump")?;
    // Without our module, but with the same load and traffic.
    let script = format!(
        "{LOAD}\n{}\n{KDUMP}\n{}\nload_kdump\n{CRASH}",
        run::ARM,
        BEFORE.replace("load_module\n", "")
    );
    let guest = Guest::new(&lab.stock, &script).disk(row.device);
    // With 8, Debian's makedumpfile 1.7.2 leaves out pages of the newer kernel itself, which drgn then lacks.
    let level = if row.kernel.series == "6.1" { "-l -d 31" } else { "-l -d 23" };
    let guest = kdump(guest, &lab.stock, row.device, Filter::Makedumpfile(level), &lab.folder)?;
    let machine = run::machine(lab, row, &guest, &disk, "kdump")?.word("crashkernel=128M");
    let mut running = machine.memory(run::MEMORY + 128).start(&lab.folder, "kdump")?;
    running.wait_for("linux: kdump done", LIMIT)?;
    run::end(running)?;
    let core = lab.folder.join("vmcore.of-kdump");
    unflatten(&disk, &core, &lab.folder.join("unflatten.log"))?;
    std::fs::remove_file(&disk.path).context("cannot remove a disk image")?;
    let theirs = judge::Said::of(lab, vmlinux, &core)?;

    let facts = ours.compare(&theirs)?;
    ensure!(!facts.is_empty(), "nothing was compared");
    std::fs::remove_file(&core).context("cannot remove a core")?;
    cores.remove()?;
    Ok(facts)
}

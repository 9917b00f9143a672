//! Judges a dump with other people's tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Lab;
use crate::compare;
use crate::image::Disk;

/// A saved dump.
#[derive(Debug)]
pub(super) struct Cores {
    /// The disk, with the dump still on it.
    pub(super) disk: Disk,
    /// As ELF.
    pub(super) elf: PathBuf,
    /// As kdump.
    pub(super) kdump: PathBuf,
    /// A summary of savecore's report.
    pub(super) facts: String,
    cpus: u32,
}

impl Cores {
    /// Removes large files.
    pub(super) fn remove(self) -> Result<()> {
        for path in [&self.disk.path, &self.elf, &self.kdump] {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// The report of `savecore info` on the only dump on a disk.
pub(super) fn info(lab: &Lab, disk: &Disk) -> Result<Value> {
    let answer = lab.savecore.expect(0, "info", disk, &[])?;
    let dumps = answer.value.get("dumps").and_then(Value::as_array).cloned().unwrap_or_default();
    let [dump] = &dumps[..] else {
        anyhow::bail!("there are {} dumps instead of one; log: {}", dumps.len(), answer.log.display());
    };
    Ok(dump.clone())
}

/// A text in savecore's report.
pub(super) fn text<'a>(dump: &'a Value, key: &str) -> &'a str {
    dump.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Checks that a dump is complete, with this many CPUs; returns its facts.
pub(super) fn is_whole(dump: &Value, cpus: u32) -> Result<String> {
    ensure!(text(dump, "status") == "complete", "the dump is {}", text(dump, "status"));
    ensure!(dump.get("whole") == Some(&Value::Bool(true)), "savecore says the dump is not whole");
    let number =
        |path: [&str; 2]| dump.get(path[0]).and_then(|value| value.get(path[1])).and_then(Value::as_u64);
    let found = dump.get("cpus").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(found == cpus as usize, "the dump has {found} CPUs instead of {cpus}");
    let pages = number(["pages", "data"]).context("savecore does not say how many pages were written")?;
    let seconds = dump.get("elapsed_seconds").and_then(Value::as_f64).unwrap_or_default();
    Ok(format!("{} MiB in {seconds:.1} s", pages >> 8))
}

/// Checks that the time since boot matches the kernel's log: the processor's counter started earlier.
pub(super) fn is_as_old_as_its_log(dump: &Value, log: &str) -> Result<()> {
    let uptime = dump.get("uptime_seconds").and_then(Value::as_f64).context("there is no time since boot")?;
    let last =
        log.lines().rev().find_map(|line| line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok());
    let last: f64 = last.context("the kernel's log has no times")?;
    ensure!((uptime - last).abs() < 0.5, "crashed {uptime:.2} s after boot, and the log ends at {last:.2} s");
    Ok(())
}

/// Saves the only dump of a disk in both formats.
pub(super) fn save(lab: &Lab, disk: Disk, cpus: u32) -> Result<Cores> {
    let facts = is_whole(&info(lab, &disk)?, cpus)?;
    let core = |format: &str| {
        let into = lab.folder.join(format);
        match fs::remove_dir_all(&into) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let (mut saved, answer) = lab.savecore.save_from(&disk, &into, &["--format", format, "--keep"])?;
        ensure!(saved.len() == 1, "savecore named {} cores; log: {}", saved.len(), answer.log.display());
        let path = lab.folder.join(format!("vmcore.{format}"));
        fs::rename(saved.remove(0), &path).with_context(|| format!("cannot keep {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    let (elf, kdump) = (core("elf")?, core("kdump")?);
    Ok(Cores { disk, elf, kdump, facts, cpus })
}

/// Runs all tools on both cores; returns facts.
pub(super) fn tools(lab: &Lab, cores: &Cores) -> Result<Vec<String>> {
    let Lab { readers, .. } = lab;
    let mut facts = Vec::new();
    let (compared, _) = readers.pages(&cores.elf, &filled(&cores.elf)?, &cores.kdump)?;
    ensure!(compared > 0, "libkdumpfile found no page");
    facts.push(format!("{compared} pages alike"));
    for core in [&cores.elf, &cores.kdump] {
        let into = lab.folder.join("refiltered");
        readers.makedumpfile(core, 31, &into)?;
        let (kept, _) = readers.pages(&cores.elf, &filled(&cores.elf)?, &into)?;
        ensure!(kept > 0, "makedumpfile left nothing of {}", core.display());
        fs::remove_file(&into).with_context(|| format!("cannot remove {}", into.display()))?;
    }
    if let Some(vmlinux) = &lab.vmlinux {
        let [elf, kdump] = [&cores.elf, &cores.kdump].map(|core| Said::of(lab, vmlinux, core));
        let (elf, kdump) = (elf?, kdump?);
        ensure!(
            elf.drgn == kdump.drgn,
            "drgn does not say the same of ELF and kdump; logs: {}",
            lab.folder.display()
        );
        ensure!(
            elf.crash == kdump.crash,
            "crash does not say the same of ELF and kdump; logs: {}",
            lab.folder.display()
        );
        let stacks = elf.stacks();
        ensure!(
            stacks.len() == cores.cpus as usize
                && stacks.iter().all(|(frames, program)| *frames >= 3 || *program),
            "drgn finds stacks of {stacks:?} frames on {} CPUs; logs: {}",
            cores.cpus,
            lab.folder.display()
        );
        facts.push(format!("{} tasks, stacks of {} CPUs", elf.named("task").len(), stacks.len()));
        if let Some(crash) = &elf.crash {
            facts.push(format!("crash: {} lines", crash.lines().count()));
        }
    }
    Ok(facts)
}

/// The segments of a core whose bytes are in the file.
fn filled(core: &Path) -> Result<Vec<compare::Segment>> {
    let mut segments = compare::segments(core)?;
    for segment in &mut segments {
        segment.in_memory = segment.in_file;
    }
    segments.retain(|segment| segment.in_file > 0);
    Ok(segments)
}

/// The output of the tools that know the kernel, for a core.
#[derive(Debug)]
pub(super) struct Said {
    drgn: String,
    /// `None` for a kernel that Debian's crash (8.0.2) cannot read, whoever wrote the core.
    crash: Option<String>,
}

impl Said {
    pub(super) fn of(lab: &Lab, vmlinux: &Path, core: &Path) -> Result<Said> {
        let drgn = lab.readers.drgn(vmlinux, core, &["panic ", "sysrq_handle_crash", "task 1 init"])?;
        // Since Linux 6.9, process ids are in a kind of tree that it does not know.
        let crash = match lab.stock.which.series {
            "6.1" => Some(lab.readers.crash(vmlinux, core)?),
            _ => None,
        };
        Ok(Said { drgn, crash })
    }

    /// The number of kernel frames on each CPU's stack, and whether they were entered from user space.
    fn stacks(&self) -> Vec<(usize, bool)> {
        let mut stacks = Vec::new();
        for line in self.drgn.lines() {
            if line.starts_with("cpu ") {
                stacks.push((0, false));
            } else if let (true, Some((frames, program))) = (line.starts_with("    "), stacks.last_mut()) {
                let below = line.ends_with("a program");
                *program |= below;
                *frames += usize::from(!below);
            }
        }
        stacks
    }

    /// Names of tasks, modules or mounts, without the numbers in them.
    fn named(&self, kind: &str) -> BTreeSet<String> {
        let lines = self.drgn.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let plain = |line: &str| {
            let name = line.trim_start_matches(|digit: char| digit.is_ascii_digit()).trim();
            // kworker/1:2-events may have another name next time.
            name.split(['/', ':']).next().unwrap_or_default().to_owned()
        };
        lines.map(plain).collect()
    }

    /// Commands in crash that failed, with their messages. A structure's member that crash does not find is not one of
    /// them: crash is older than the kernel then, and which task needs that member differs from panic to panic.
    fn complaints(&self) -> BTreeSet<&str> {
        let lines = self.crash.as_deref().unwrap_or_default().lines();
        lines
            .filter(|line| line.contains(": invalid ") || line.contains("cannot "))
            .filter(|line| !line.contains("invalid structure member offset"))
            .collect()
    }

    /// Checks that a core of kdump's has the same content; returns the facts.
    pub(super) fn compare(&self, kdump: &Said) -> Result<String> {
        let mut facts = Vec::new();
        for kind in ["task", "module", "mount"] {
            let (mut ours, theirs) = (self.named(kind), kdump.named(kind));
            // The additional one is ours.
            ours.remove("diskdump");
            let only_ours: Vec<_> = ours.difference(&theirs).collect();
            let only_theirs: Vec<_> = theirs.difference(&ours).collect();
            ensure!(
                only_ours.is_empty() && only_theirs.is_empty(),
                "{kind}s in ours alone: {only_ours:?}, in kdump's alone: {only_theirs:?}"
            );
            facts.push(format!("{} {kind}s", ours.len()));
        }
        let ours = self.complaints();
        let theirs = kdump.complaints();
        let more: Vec<_> = ours.difference(&theirs).collect();
        ensure!(more.is_empty(), "crash complains of ours alone: {more:?}");
        if self.crash.is_some() {
            facts.push(format!("crash complains of {} things in both", theirs.len()));
        }
        Ok(facts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_cpu_and_names_lose_their_numbers() {
        let drgn = "task 1 init\ntask 20 kworker/0:1-events\ntask 21 kworker/1:0\nmodule diskdump\n\
                    cpu 0 sh\n    panic\n    vfs_write\ncpu 1 sh\n    a program\n";
        let said = Said { drgn: drgn.to_owned(), crash: None };
        let log = "[    0.100000] Linux\n[   12.345678] sysrq: Trigger a crash\n";
        assert!(is_as_old_as_its_log(&serde_json::json!({ "uptime_seconds": 12.5 }), log).is_ok());
        assert!(is_as_old_as_its_log(&serde_json::json!({ "uptime_seconds": 15.0 }), log).is_err());
        assert_eq!(said.stacks(), [(2, false), (0, true)]);
        assert_eq!(said.named("task").into_iter().collect::<Vec<_>>(), ["init", "kworker"]);
        let other = Said { drgn: drgn.replace("module diskdump\n", ""), crash: None };
        assert!(said.compare(&other).is_ok());
        let other = Said { drgn: drgn.replace("init", "bash"), crash: None };
        assert!(said.compare(&other).unwrap_err().to_string().contains("bash"));
    }
}

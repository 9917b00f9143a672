//! Runs other people's tools on the core of a Linux: crash, drgn, makedumpfile and libkdumpfile.
//!
//! The reference is the same tool on QEMU's own core of the same memory, or that memory itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::crash::Crashed;
use crate::compare::Segment;
use crate::process;

/// Any tool that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// The commands for crash.
const CRASH: &str = "set scroll off\nsys\nbt -a\nlog\nps\nkmem -i\nfiles\nmod\nvtop linux_banner\nquit\n";

/// The script for drgn.
const DRGN: &str = r#"
import sys
import drgn
from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task, for_each_mount
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.panic import panic_message
from drgn.helpers.linux.printk import get_dmesg

core, vmlinux = sys.argv[1:]
program = drgn.Program()
program.set_core_dump(core)
program.load_debug_info([vmlinux])
print("release", program["init_uts_ns"].name.release.string_().decode())
print("panic", panic_message(program).decode())
print("dmesg", len(get_dmesg(program).splitlines()), "lines")
for task in sorted(for_each_task(program), key=lambda task: task.pid.value_()):
    print("task", task.pid.value_(), task.comm.string_().decode())
for mount in for_each_mount(program["init_task"].nsproxy.mnt_ns):
    print("mount", mount.mnt.mnt_root.d_sb.s_type.name.string_().decode())
for module in list_for_each_entry("struct module", program["modules"].address_of_(), "list"):
    print("module", module.name.string_().decode())
for cpu in for_each_online_cpu(program):
    task = cpu_curr(program, cpu)
    print("cpu", cpu, task.comm.string_().decode())
    for frame in program.stack_trace(task):
        # Below the kernel's frames the stack of a program begins, of which only some cores have pages.
        if frame.pc >> 63 == 0:
            print("    a program")
            break
        print("   ", frame.name)
"#;

/// Compares every page of a core with the memory in QEMU's core. Arguments: the core, QEMU's core, and for
/// each part of RAM its physical address, its offset in QEMU's core, and its length. Prints the number of
/// compared pages and of pages missing from the core.
const PAGES: &str = r#"
import os
import sys
import kdumpfile

core, memory = sys.argv[1:3]
file = kdumpfile.kdumpfile(core)
compared = absent = 0
with open(memory, "rb") as memory:
    for part in sys.argv[3:]:
        start, offset, length = map(int, part.split(","))
        memory.seek(offset)
        for address in range(start, start + length, 4096):
            expected = memory.read(4096)
            try:
                page = file.read(kdumpfile.KDUMP_MACHPHYSADDR, address, 4096)
            except kdumpfile.exceptions.NoDataException:
                absent += 1
                continue
            if page != expected:
                sys.exit(f"the page at {address:#x} is not as it was")
            compared += 1
print(compared, absent)
sys.stdout.flush()
# The destructors of the binding may free memory twice.
os._exit(0)
"#;

/// A tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// crash.
    Crash,
    /// drgn, a Python module.
    Drgn,
    /// makedumpfile.
    Makedumpfile,
    /// libkdumpfile, through its binding for Debian's Python.
    Libkdumpfile,
}

impl Reader {
    /// All of them.
    pub const ALL: [Reader; 4] = [Reader::Crash, Reader::Drgn, Reader::Makedumpfile, Reader::Libkdumpfile];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Reader::Crash => "crash",
            Reader::Drgn => "drgn",
            Reader::Makedumpfile => "makedumpfile",
            Reader::Libkdumpfile => "libkdumpfile",
        }
    }
}

/// The tools, and the folder for their output.
#[derive(Clone, Debug)]
pub struct Readers {
    /// A Python that has drgn.
    pub python: PathBuf,
    /// Folder for logs and intermediate files.
    pub folder: PathBuf,
}

impl Readers {
    /// The program of a reader, or the interpreter that runs it.
    fn program(&self, reader: Reader) -> Command {
        match reader {
            Reader::Crash => Command::new("crash"),
            Reader::Makedumpfile => Command::new("makedumpfile"),
            Reader::Drgn => Command::new(&self.python),
            // The module is a Debian package, so it only works with Debian's Python.
            Reader::Libkdumpfile => Command::new("/usr/bin/python3"),
        }
    }

    /// Whether a reader is installed.
    pub fn has(&self, reader: Reader) -> bool {
        let question: &[&str] = match reader {
            Reader::Crash | Reader::Makedumpfile => &["--version"],
            Reader::Drgn => &["-c", "import drgn.helpers.linux"],
            Reader::Libkdumpfile => &["-c", "import kdumpfile"],
        };
        let output = self.program(reader).args(question).output();
        // makedumpfile has a special exit code for its version.
        output.is_ok_and(|output| output.status.success() || reader == Reader::Makedumpfile)
    }

    fn run(&self, reader: Reader, what: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.program(reader);
        command.args(arguments).env("LC_ALL", "C").current_dir(&self.folder);
        let log = self.folder.join(format!("{}-{what}.log", reader.name()));
        let name = format!("{} over {what}", reader.name());
        Ok(process::run(&mut command, LIMIT, &log)?.success(&name)?.stdout)
    }

    /// The output of crash for a core, without the part about the file itself.
    ///
    /// # Errors
    /// If crash does not open it, or shows no panic.
    pub fn crash(&self, vmlinux: &Path, core: &Path) -> Result<String> {
        let what = stem(core);
        let script = self.folder.join("crash.commands");
        fs::write(&script, CRASH).with_context(|| format!("cannot write {}", script.display()))?;
        let script = script.to_string_lossy();
        let (vmlinux, file) = (vmlinux.to_string_lossy(), core.to_string_lossy());
        // Without extensions, and without personal configuration.
        let said = self.run(Reader::Crash, &what, &["-s", "--no_crashrc", "-i", &script, &vmlinux, &file])?;
        let (_, said) = said.split_once("KERNEL: ").context("crash said nothing of the kernel")?;
        ensure!(
            said.contains("sysrq_handle_crash") && said.contains("Kernel panic - not syncing"),
            "crash shows no panic in {what}"
        );
        let about_file = |line: &&str| !line.contains("vmlinux") && !line.contains("DUMPFILE: ");
        let mut kept = String::new();
        for line in said.lines().filter(about_file) {
            let _ = writeln!(kept, "{}", line.trim_end());
        }
        Ok(kept)
    }

    /// The output of drgn for a core.
    ///
    /// # Errors
    /// If drgn does not recognise a Linux, or its output lacks one of these `parts`.
    pub fn drgn(&self, vmlinux: &Path, core: &Path, parts: &[&str]) -> Result<String> {
        let what = stem(core);
        let arguments = ["-c", DRGN, &*core.to_string_lossy(), &*vmlinux.to_string_lossy()];
        let said = self.run(Reader::Drgn, &what, &arguments)?;
        for part in parts {
            ensure!(said.contains(part), "drgn does not say `{part}` of {what}");
        }
        Ok(said)
    }

    /// Filters a core with makedumpfile at this level into the file `into`.
    ///
    /// # Errors
    /// If it refuses.
    pub fn makedumpfile(&self, core: &Path, level: u32, into: &Path) -> Result<()> {
        let arguments =
            ["-c", "-f", "-d", &level.to_string(), &*core.to_string_lossy(), &*into.to_string_lossy()];
        self.run(Reader::Makedumpfile, &stem(core), &arguments)?;
        Ok(())
    }

    /// Compares each page of a core with the machine's memory, through libkdumpfile. Returns the number of
    /// compared pages, and the number of the machine's pages that are missing from the core.
    ///
    /// # Errors
    /// If a page differs, or cannot be read although the core has it.
    pub fn libkdumpfile(&self, crashed: &Crashed, core: &Path) -> Result<(u64, u64)> {
        self.pages(&crashed.core, &crashed.ram, core)
    }

    /// The same, with the memory in another core, which has these segments.
    ///
    /// # Errors
    /// As [`Readers::libkdumpfile`].
    pub fn pages(&self, memory: &Path, ram: &[Segment], core: &Path) -> Result<(u64, u64)> {
        let (file, memory) = (core.to_string_lossy(), memory.to_string_lossy());
        let part =
            |segment: &Segment| format!("{},{},{}", segment.physical, segment.offset, segment.in_memory);
        let parts: Vec<String> = ram.iter().map(part).collect();
        let mut arguments = vec!["-c", PAGES, &file, &memory];
        arguments.extend(parts.iter().map(String::as_str));
        let said = self.run(Reader::Libkdumpfile, &stem(core), &arguments)?;
        let mut numbers = said.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(compared)), Some(Ok(absent))) => Ok((compared, absent)),
            _ => bail!("libkdumpfile's script said `{}`", said.trim()),
        }
    }
}

/// Compares two texts.
///
/// # Errors
/// The first lines that differ, labelled with the names.
pub fn same(names: [&str; 2], texts: [&str; 2]) -> Result<()> {
    let [one, other] = texts;
    if one == other {
        return Ok(());
    }
    let mut pairs = one.lines().chain(["(the end)"]).zip(other.lines().chain(["(the end)"]));
    let (a, b) = pairs.find(|(a, b)| a != b).unwrap_or_default();
    let [first, second] = names;
    bail!("{first} says `{}`, {second} says `{}`", a.trim(), b.trim())
}

/// A core's file name and its folder's, which identify the cores of one machine.
fn stem(core: &Path) -> String {
    core.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_shown() {
        assert!(same(["a", "b"], ["1\n2\n", "1\n2\n"]).is_ok());
        let error = same(["ours", "QEMU's"], ["1\n2\n", "1\n3\n4\n"]).unwrap_err().to_string();
        assert_eq!(error, "ours says `2`, QEMU's says `3`");
        let error = same(["ours", "QEMU's"], ["1\n", "1\n3\n"]).unwrap_err().to_string();
        assert_eq!(error, "ours says `(the end)`, QEMU's says `3`");
    }
}

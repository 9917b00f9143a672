//! The environment of a running scenario.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dumpcore::format::label::Label;

use super::programs::{Build, Profile, Programs};
use crate::bed::Bed;
use crate::image::Disk;
use crate::machine::{Machine, Running, disk_word};
use crate::savecore::{Answer, Savecore};
use crate::serial::{self, Serial};

/// Size in blocks of a dump partition whose size does not matter: 48 MiB.
pub(super) const USUAL_BLOCKS: u64 = 12 * 1024;

/// Exit codes of QEMU when the kernel ends it through isa-debug-exit: twice the kernel's value, plus one.
pub(super) mod exit {
    /// The machine was reset, with `-no-reboot`.
    pub(in crate::scenarios) const RESET: i32 = 0;
    /// A complete dump.
    pub(in crate::scenarios) const COMPLETE: i32 = 3;
    /// A dump that ended early.
    pub(in crate::scenarios) const INCOMPLETE: i32 = 5;
    /// No block was written.
    pub(in crate::scenarios) const REFUSED: i32 = 7;
    /// The dump itself crashed.
    pub(in crate::scenarios) const NESTED: i32 = 11;
    /// `arm()` refused, so nothing was armed.
    pub(in crate::scenarios) const NOT_ARMED: i32 = 9;
    /// Blocks were written, and the headers could not be closed.
    pub(in crate::scenarios) const UNCLOSED: i32 = 15;
}

/// A running scenario.
#[derive(Debug)]
pub struct Case {
    /// The programs under test.
    pub programs: Programs,
    /// What it runs on.
    pub bed: Bed,
    /// The profile of its kernel.
    pub profile: Profile,
    /// This scenario's own folder.
    pub folder: PathBuf,
    /// savecore.
    pub savecore: Savecore,
    end: Instant,
}

/// A machine that crashed and is gone.
#[derive(Debug)]
pub struct Crashed {
    /// QEMU's exit code.
    pub code: i32,
    /// What the machine said.
    pub serial: Serial,
}

/// The use of the dump's own stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    /// Bytes used.
    pub used: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Stack {
    /// Parses it from a line of the console: `diskdump: used N of N bytes of stack, …`.
    fn read(line: &str) -> Option<Stack> {
        let (numbers, _) = line.split_once("used ")?.1.split_once(" bytes of stack")?;
        let (used, size) = numbers.split_once(" of ")?;
        Some(Stack { used: used.parse().ok()?, size: size.parse().ok()? })
    }
}

impl Crashed {
    /// Checks that this was its exit code.
    fn ended_with(self, code: i32) -> Result<Crashed> {
        ensure(self.code == code, || {
            format!(
                "the machine ended with exit code {} instead of {code}; its last line: `{}`; log: {}",
                self.code,
                self.serial.last(),
                self.serial.path().display()
            )
        })?;
        Ok(self)
    }
}

impl Case {
    /// A scenario with a fresh folder.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(programs: &Programs, bed: Bed, profile: Profile, name: &str, limit: Duration) -> Result<Case> {
        let folder = programs.folder.join(name);
        let say = || format!("cannot make a fresh folder {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(say)?;
        }
        fs::create_dir_all(&folder).with_context(say)?;
        let savecore = Savecore::new(&programs.savecore, &folder, limit);
        Ok(Case { programs: programs.clone(), bed, profile, folder, savecore, end: Instant::now() + limit })
    }

    /// The test kernel.
    pub fn kernel(&self) -> &Path {
        self.programs.kernel(Build { architecture: self.bed.architecture, profile: self.profile })
    }

    /// Time left until the deadline.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Removes disk images, saved memory and core files.
    pub fn forget_large_files(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            // Leftovers are removed before the next run.
            if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            } else if path.extension().is_some_and(|extension| extension == "raw" || extension == "memory") {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// A new disk image with an empty dump partition.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn blank(&self, name: &str, blocks: u64) -> Result<Disk> {
        let disk = Disk::create(&self.folder.join(format!("{name}.raw")), blocks)?;
        if self.bed.device.power_of_two {
            disk.round_up()?;
        }
        Ok(disk)
    }

    /// A new disk image with a formatted dump partition.
    ///
    /// # Errors
    /// If it cannot be created, or savecore fails.
    pub fn formatted(&self, name: &str, blocks: u64) -> Result<Disk> {
        let disk = self.blank(name, blocks)?;
        self.savecore.format(&disk)?;
        Ok(disk)
    }

    /// A machine with one CPU that boots the test kernel with this disk, crashes in this scenario, and
    /// returns the outcome as its exit code.
    pub fn machine(&self, disk: &Disk, scenario: &str) -> Machine {
        self.machine_without(scenario).disk(disk)
    }

    /// The same, without a disk.
    pub fn machine_without(&self, scenario: &str) -> Machine {
        Machine::new(self.bed, self.kernel()).word(format!("scenario={scenario}")).word("reset=return")
    }

    /// The same, armed without reading the disk, as with a live driver: problems with the partition are only
    /// found at the crash.
    ///
    /// # Errors
    /// If the partition has no label, whose uuid is required.
    pub fn unlooked(&self, disk: &Disk, scenario: &str) -> Result<Machine> {
        self.and_unlooked(self.machine_without(scenario), disk)
    }

    /// Another disk for a machine, armed without reading it.
    ///
    /// # Errors
    /// If the partition has no label, whose uuid is required.
    pub fn and_unlooked(&self, machine: Machine, disk: &Disk) -> Result<Machine> {
        let number = machine.disks.len();
        let uuid = format!("uuid={}", uuid(disk)?);
        Ok(machine.disk(disk).word(disk_word(number, "shared")).word(disk_word(number, &uuid)))
    }

    /// Runs a machine to its end.
    ///
    /// # Errors
    /// If it does not end in time, or ends with an exit code other than `code`.
    pub fn crash(&self, machine: &Machine, name: &str, code: i32) -> Result<Crashed> {
        self.crash_any(machine, name)?.ended_with(code)
    }

    /// Waits for the end of a running machine.
    ///
    /// # Errors
    /// If it does not end in time, or ends with an exit code other than `code`.
    pub fn end(&self, mut running: Running, code: i32) -> Result<Crashed> {
        let ended = running.wait_exit(self.left())?;
        Crashed { code: ended, serial: running.serial }.ended_with(code)
    }

    /// Runs a machine to its end, whatever its exit code.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn crash_any(&self, machine: &Machine, name: &str) -> Result<Crashed> {
        let mut running = machine.start(&self.folder, name)?;
        let code = running.wait_exit(self.left())?;
        let crashed = Crashed { code, serial: running.serial };
        crashed.small_stack()?;
        Ok(crashed)
    }

    /// Saves the dumps of a disk; there must be `count`. Returns the core files, oldest first.
    ///
    /// # Errors
    /// If savecore fails, or saves a different number of dumps.
    pub fn save(&self, disk: &Disk, name: &str, count: usize) -> Result<(Vec<PathBuf>, Answer)> {
        let (cores, answer) = self.savecore.save(disk, &self.folder.join(name), false)?;
        if cores.len() != count {
            bail!("savecore saved {} dumps instead of {count}; log: {}", cores.len(), answer.log.display());
        }
        Ok((cores, answer))
    }

    /// Checks with savecore that the partition is intact and free.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_ready(&self, disk: &Disk) -> Result<()> {
        let answer = self.savecore.expect(0, "check", disk, &[])?;
        match answer.value.get("verdict").and_then(serde_json::Value::as_str) {
            Some("ready") => Ok(()),
            _ => bail!("check says {} instead of ready; log: {}", answer.value, answer.log.display()),
        }
    }
}

impl Crashed {
    /// Checks that the dump used at most half of its stack.
    ///
    /// # Errors
    /// If it used more.
    pub fn small_stack(&self) -> Result<()> {
        match self.stack() {
            Some(stack) if stack.used > stack.size / 2 => {
                bail!("the dump used {} bytes of its stack of {}, more than half", stack.used, stack.size)
            }
            _ => Ok(()),
        }
    }

    /// The kernel's number of pages in a class, from `testkernel: classes user=N …`.
    ///
    /// # Errors
    /// If it did not print it.
    pub fn class(&self, name: &str) -> Result<u64> {
        let line = self.said("testkernel: classes ")?;
        serial::number(line, name).with_context(|| format!("the kernel does not count class {name}: {line}"))
    }

    /// The dump's use of its own stack, if it printed it.
    pub fn stack(&self) -> Option<Stack> {
        Stack::read(&self.serial.find("bytes of stack")?.text)
    }

    /// The first line that contains this text.
    ///
    /// # Errors
    /// If there is none; the error names the log.
    pub fn said(&self, needle: &str) -> Result<&str> {
        match self.serial.find(needle) {
            Some(line) => Ok(&line.text),
            None => bail!(
                "the guest never said `{needle}`; its last line: `{}`; log: {}",
                self.serial.last(),
                self.serial.path().display()
            ),
        }
    }

    /// Checks that no line contains this text.
    ///
    /// # Errors
    /// If one does.
    pub fn never_said(&self, needle: &str) -> Result<()> {
        match self.serial.find(needle) {
            Some(line) => {
                bail!("the guest said `{}`; log: {}", line.text, self.serial.path().display())
            }
            None => Ok(()),
        }
    }
}

/// The uuid in a disk's label, as 32 hexadecimal digits.
///
/// # Errors
/// If there is no label.
pub(super) fn uuid(disk: &Disk) -> Result<String> {
    let block = disk.read(0)?;
    match Label::parse(&block) {
        Ok(label) => Ok(label.uuid.iter().map(|byte| format!("{byte:02x}")).collect()),
        Err(error) => bail!("{} has no label: {error}", disk.path.display()),
    }
}

/// Fails with the message `why` unless `good`.
///
/// # Errors
/// If not `good`.
pub(super) fn ensure(good: bool, why: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { bail!(why()) }
}

/// Bytes as MiB, rounded, for humans.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_is_read_from_its_line_alone() {
        let line =
            "[   1.5] diskdump: used 6960 of 16384 bytes of stack, 300000 of 1048576 bytes of arena, 3 looks";
        assert_eq!(Stack::read(line), Some(Stack { used: 6960, size: 16384 }));
        assert_eq!(Stack::read("diskdump: used 3 of 4 bytes of arena"), None);
    }
}

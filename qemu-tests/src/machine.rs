//! A QEMU machine: what it is made of, and how it is run and watched.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::image::Disk;
use crate::process::{Guarded, LOOK_EVERY};
use crate::qmp::Qmp;
use crate::serial::{Line, Serial};

/// The id of the dump disk's device, for QMP.
pub const DISK_ID: &str = "dumpdisk";
/// The id of its drive, the part behind the controller.
pub const DRIVE_ID: &str = "dumpdrive";

/// An architecture that the matrix runs on.
#[derive(Debug)]
pub struct Architecture {
    /// Its name.
    pub name: &'static str,
    /// Its QEMU.
    pub qemu: &'static str,
    /// The Rust target of the test kernel.
    pub target: &'static str,
    /// Arguments that every machine of it gets.
    pub arguments: &'static [&'static str],
}

/// All architectures. The `isa-debug-exit` device is how a kernel ends QEMU with an exit code of its choice.
pub static ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "x86_64",
    qemu: "qemu-system-x86_64",
    target: "x86_64-unknown-none",
    arguments: &["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
}];

/// The x86_64 row.
pub static X86_64: &Architecture = &ARCHITECTURES[0];

/// A disk controller that the matrix runs on.
#[derive(Debug)]
pub struct Controller {
    /// Its name.
    pub name: &'static str,
    /// QEMU's `-device` argument for a disk on it, without drive and id.
    pub device: &'static str,
}

/// All controllers.
pub static CONTROLLERS: &[Controller] = &[Controller { name: "virtio-blk", device: "virtio-blk-pci" }];

/// The virtio-blk row.
pub static VIRTIO_BLK: &Controller = &CONTROLLERS[0];

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its architecture.
    pub architecture: &'static Architecture,
    /// QEMU's machine type: `pc` or `q35` on x86_64.
    pub kind: &'static str,
    /// How many CPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub memory: u32,
    /// The controller of the dump disk.
    pub controller: &'static Controller,
    /// The kernel's ELF file.
    pub kernel: PathBuf,
    /// The kernel's command line, word by word.
    pub words: Vec<String>,
    /// The dump disk.
    pub disk: Option<Disk>,
    /// More of QEMU's `-drive` options for the dump disk, each `key=value`.
    pub drive: Vec<String>,
    /// Whether the host's memory is all there before the guest starts, so that a measurement in the guest does not
    /// pay for it.
    pub resident: bool,
}

impl Machine {
    /// A `pc` with 1 CPU and 128 MiB that boots `kernel`, without a disk.
    pub fn new(kernel: &Path) -> Machine {
        Machine {
            architecture: X86_64,
            kind: "pc",
            cpus: 1,
            memory: 128,
            controller: VIRTIO_BLK,
            kernel: kernel.to_path_buf(),
            words: Vec::new(),
            disk: None,
            drive: Vec::new(),
            resident: false,
        }
    }

    /// With this machine type.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Machine {
        self.kind = kind;
        self
    }

    /// With so many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Machine {
        self.cpus = cpus;
        self
    }

    /// With so many MiB of RAM.
    #[must_use]
    pub fn memory(mut self, memory: u32) -> Machine {
        self.memory = memory;
        self
    }

    /// With this disk, and a command line that says where its dump partition is.
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Machine {
        self.words.push(format!("disk.first={}", disk.dump.first));
        self.words.push(format!("disk.blocks={}", disk.dump.blocks));
        self.disk = Some(disk.clone());
        self
    }

    /// With a word more on the kernel's command line. A later `key=value` replaces an earlier one.
    #[must_use]
    pub fn word(mut self, word: impl Into<String>) -> Machine {
        let word = word.into();
        if let Some((key, _)) = word.split_once('=') {
            let prefix = format!("{key}=");
            self.words.retain(|old| !old.starts_with(&prefix));
        }
        self.words.push(word);
        self
    }

    /// With one of QEMU's `-drive` options more, such as `throttling.bps-total=1000000`.
    #[must_use]
    pub fn drive(mut self, option: impl Into<String>) -> Machine {
        self.drive.push(option.into());
        self
    }

    /// With all of its memory there from the beginning.
    #[must_use]
    pub fn resident(mut self) -> Machine {
        self.resident = true;
        self
    }

    /// QEMU's command line.
    fn command(&self, serial: &Path) -> Command {
        let mut command = Command::new(self.architecture.qemu);
        command
            .args(["-accel", "tcg", "-machine", self.kind])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-qmp", "stdio"])
            .arg("-serial")
            .arg(format!("file:{}", escaped(serial)))
            .args(self.architecture.arguments)
            .arg("-kernel")
            .arg(&self.kernel)
            .args(["-append", &self.words.join(" ")]);
        if self.resident {
            command
                .arg("-object")
                .arg(format!("memory-backend-ram,id=ram,size={}M,prealloc=on", self.memory))
                .args(["-machine", "memory-backend=ram"]);
        }
        if let Some(disk) = &self.disk {
            let mut drive = format!("file={},if=none,id={DRIVE_ID},format=raw", escaped(&disk.path));
            for option in &self.drive {
                drive.push(',');
                drive.push_str(option);
            }
            command
                .args(["-drive", &drive])
                .arg("-device")
                .arg(format!("{},drive={DRIVE_ID},id={DISK_ID}", self.controller.device));
        }
        command
    }

    /// Starts the machine. Its serial log is `serial-NAME.log` in `folder`, beside QEMU's own messages.
    ///
    /// # Errors
    /// If QEMU cannot be started or says nothing on QMP.
    pub fn start(&self, folder: &Path, name: &str) -> Result<Running> {
        let path = folder.join(format!("serial-{name}.log"));
        let errors = folder.join(format!("qemu-{name}.log"));
        // An old log must not pass for a new one.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old log {}", path.display()));
            }
            _ => {}
        }
        let (mut qmp, theirs) = Qmp::pair()?;
        let copy: OwnedFd = theirs.try_clone().context("cannot share the QMP socket")?;
        let mut command = self.command(&path);
        let log = File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        command.stdin(Stdio::from(theirs)).stdout(Stdio::from(copy)).stderr(log);
        let serial = Serial::new(&path);
        let child = Guarded::start(&mut command)?;
        // Our copies of QEMU's end of the socket go with the command, else QEMU's death would not show on it.
        drop(command);
        if let Err(error) = qmp.handshake(Duration::from_secs(30)) {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            let said = said.lines().last().unwrap_or("nothing was said");
            return Err(error.context(format!("QEMU did not start: {said}; log: {}", errors.display())));
        }
        Ok(Running { child, qmp, serial, ended: None })
    }
}

/// A path inside a QEMU option, where a comma ends a value unless it is doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A machine that runs; dropping it kills QEMU.
#[derive(Debug)]
pub struct Running {
    child: Guarded,
    /// QEMU's control socket.
    pub qmp: Qmp,
    /// The serial log.
    pub serial: Serial,
    ended: Option<i32>,
}

impl Running {
    /// Waits for a line that contains `needle`, behind the ones already waited for.
    ///
    /// # Errors
    /// If it does not come within `limit` or QEMU ends without it; the error names the last line and the log.
    pub fn wait_for(&mut self, needle: &str, limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        loop {
            let over = self.exited()?.is_some();
            // Read after the look at the child: what it wrote before its end is then seen.
            self.serial.update()?;
            if let Some(line) = self.serial.next(needle) {
                return Ok(line);
            }
            let why = if over {
                "QEMU ended".to_owned()
            } else if Instant::now() >= deadline {
                format!("{} s passed", limit.as_secs_f32())
            } else {
                std::thread::sleep(LOOK_EVERY);
                continue;
            };
            bail!(
                "{why} before the guest said `{needle}`; its last line: `{}`; log: {}",
                self.serial.last(),
                self.serial.path().display()
            );
        }
    }

    /// Waits until QEMU ends and gives its exit code; the serial log is complete then.
    ///
    /// # Errors
    /// If it is still running after `limit`; the error names the last line and the log.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            let code = self.exited()?;
            self.serial.update()?;
            if let Some(code) = code {
                return Ok(code);
            }
            if Instant::now() >= deadline {
                bail!(
                    "the machine was still running after {} s; its last line: `{}`; log: {}",
                    limit.as_secs_f32(),
                    self.serial.last(),
                    self.serial.path().display()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// QEMU's exit code, once it has ended.
    fn exited(&mut self) -> Result<Option<i32>> {
        if self.ended.is_none() {
            self.ended = self.child.ended()?.map(|status| status.code().unwrap_or(-1));
        }
        Ok(self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_word_replaces_an_earlier_one_of_the_same_key() {
        let machine = Machine::new(Path::new("k")).word("reset=reset").word("disk.shared").word("reset=halt");
        assert_eq!(machine.words, ["disk.shared", "reset=halt"]);
    }

    #[test]
    fn the_command_line_never_lets_the_guest_reboot_and_never_uses_kvm() {
        let command = Machine::new(Path::new("k")).kind("q35").cpus(8).command(Path::new("/a,b/serial"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.contains(&"-no-reboot".to_owned()));
        assert!(words.windows(2).any(|pair| pair == ["-accel", "tcg"]));
        assert!(words.windows(2).any(|pair| pair == ["-smp", "8"]));
        assert!(words.contains(&"file:/a,,b/serial".to_owned()));
    }

    #[test]
    fn rows_have_different_names() {
        let mut names: Vec<_> = ARCHITECTURES.iter().map(|row| row.name).collect();
        names.extend(CONTROLLERS.iter().map(|row| row.name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

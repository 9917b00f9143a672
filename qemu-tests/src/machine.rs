//! A QEMU machine: its configuration, and how to run and watch it.
//!
//! One file: the configuration of a machine and its command line have to agree.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bed::{Bed, Device, drive_id};
use crate::image::{Disk, SECTORS_PER_BLOCK};
use crate::process::{Guarded, LOOK_EVERY};
use crate::qmp::Qmp;
use crate::serial::{Line, Serial};

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its image.
    pub disk: Disk,
    /// Additional QEMU `-drive` options, each `key=value`.
    pub options: Vec<String>,
    /// The requests to it that fail.
    pub fails: Option<Fails>,
}

/// Requests to a disk that fail with an I/O error (QEMU's driver blkdebug).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fails {
    /// All writes.
    EveryWrite,
    /// Writes to this block of the disk, of 4096 bytes.
    WritesTo(u64),
    /// Reads of this block of the disk.
    ReadsOf(u64),
}

impl Attached {
    /// QEMU's `-drive` argument.
    fn drive(&self, number: usize) -> String {
        let path = escaped(&self.disk.path);
        let mut drive = format!("if=none,id={},format=raw,", drive_id(number));
        match self.fails {
            None => drive.push_str(&format!("file={path}")),
            Some(fails) => {
                let (kind, block) = match fails {
                    Fails::EveryWrite => ("write", None),
                    Fails::WritesTo(block) => ("write", Some(block)),
                    Fails::ReadsOf(block) => ("read", Some(block)),
                };
                // Without an event, the rule applies from the start.
                drive.push_str(&format!(
                    "file.driver=blkdebug,file.image.driver=file,file.image.filename={path},\
                     file.inject-error.0.event=none,file.inject-error.0.iotype={kind},file.inject-error.0.errno=5"
                ));
                if let Some(block) = block {
                    drive.push_str(&format!(",file.inject-error.0.sector={}", block * SECTORS_PER_BLOCK));
                }
            }
        }
        for option in &self.options {
            drive.push(',');
            drive.push_str(option);
        }
        drive
    }
}

/// The configuration of a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its architecture, and its disks' controller.
    pub bed: Bed,
    /// QEMU's machine type: `pc` or `q35` on x86_64.
    pub kind: &'static str,
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub memory: u32,
    /// QEMU's CPU model; QEMU's default if `None`.
    pub model: Option<&'static str>,
    /// The kernel: an ELF file, or a Linux image.
    pub kernel: PathBuf,
    /// The initramfs of a Linux.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line, word by word.
    pub words: Vec<String>,
    /// The disks, in the order in which the kernel numbers them.
    pub disks: Vec<Attached>,
    /// Additional arguments for QEMU.
    pub arguments: Vec<&'static str>,
    /// Whether all of the host's memory is allocated before the guest starts, so that a measurement in the
    /// guest does not include that.
    pub resident: bool,
    /// Whether all CPUs take turns in one thread of QEMU's.
    pub turns: bool,
    /// Whether the guest may reboot, instead of being ended.
    pub reboots: bool,
    /// Whether the serial console accepts input.
    pub typed: bool,
}

impl Machine {
    /// A machine with 1 CPU and 128 MiB that boots `kernel`, without a disk.
    pub fn new(bed: Bed, kernel: &Path) -> Machine {
        Machine {
            bed,
            kind: bed.machine().unwrap_or(bed.architecture.kind),
            cpus: 1,
            memory: 128,
            model: bed.architecture.model,
            kernel: kernel.to_path_buf(),
            initramfs: None,
            words: Vec::new(),
            disks: Vec::new(),
            arguments: Vec::new(),
            resident: false,
            turns: false,
            reboots: false,
            typed: false,
        }
    }

    /// With this machine type.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Machine {
        self.kind = kind;
        self
    }

    /// With this many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Machine {
        self.cpus = cpus;
        self
    }

    /// With this many MiB of RAM.
    #[must_use]
    pub fn memory(mut self, memory: u32) -> Machine {
        self.memory = memory;
        self
    }

    /// With CPUs that have all features of QEMU, such as random numbers.
    #[must_use]
    pub fn able(mut self) -> Machine {
        self.model = Some(self.bed.architecture.able);
        self
    }

    /// With another disk, whose dump partition is given on the command line.
    #[must_use]
    pub fn disk(self, disk: &Disk) -> Machine {
        let Device { driver, .. } = self.bed.device;
        self.disk_on(disk, driver)
    }

    /// The same, with another driver of the test kernel.
    #[must_use]
    pub fn disk_on(mut self, disk: &Disk, driver: &str) -> Machine {
        let number = self.disks.len();
        self.disks.push(Attached { disk: disk.clone(), options: Vec::new(), fails: None });
        self.word(disk_word(number, &format!("on={driver}")))
            .word(disk_word(number, &format!("first={}", disk.dump.first)))
            .word(disk_word(number, &format!("blocks={}", disk.dump.blocks)))
    }

    /// With another disk, whose dump partition the test kernel has to find by this (`name:dump`).
    #[must_use]
    pub fn disk_by(mut self, disk: &Disk, by: &str) -> Machine {
        let number = self.disks.len();
        self.disks.push(Attached { disk: disk.clone(), options: Vec::new(), fails: None });
        let driver = self.bed.device.driver;
        self.word(disk_word(number, &format!("on={driver}"))).word(disk_word(number, &format!("find={by}")))
    }

    /// With this disk in place of the first one; the command line stays the same.
    #[must_use]
    pub fn exchange(mut self, disk: &Disk) -> Machine {
        if let Some(first) = self.disks.first_mut() {
            first.disk = disk.clone();
        }
        self
    }

    /// With a watchdog that sends an NMI when it fires.
    #[must_use]
    pub fn watchdog(mut self) -> Machine {
        self.arguments.extend(["-device", "i6300esb", "-action", "watchdog=inject-nmi"]);
        self
    }

    /// With another word on the kernel's command line. A later `key=value` replaces an earlier one.
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

    /// With another QEMU `-drive` option for the last disk, such as `throttling.bps-total=1000000`.
    #[must_use]
    pub fn drive(mut self, option: impl Into<String>) -> Machine {
        if let Some(last) = self.disks.last_mut() {
            last.options.push(option.into());
        }
        self
    }

    /// Makes requests to the last disk fail.
    #[must_use]
    pub fn fails(mut self, fails: Fails) -> Machine {
        if let Some(last) = self.disks.last_mut() {
            last.fails = Some(fails);
        }
        self
    }

    /// With this initramfs, for a Linux.
    #[must_use]
    pub fn initramfs(mut self, path: &Path) -> Machine {
        self.initramfs = Some(path.to_path_buf());
        self
    }

    /// With all of its memory allocated from the beginning.
    #[must_use]
    pub fn resident(mut self) -> Machine {
        self.resident = true;
        self
    }

    /// For a machine whose disk is unplugged: its CPUs take turns in one thread.
    ///
    /// With a thread for each CPU, QEMU itself crashes now and then (7.2: by a segmentation fault, in one of
    /// eight runs): one CPU has looked up the device's registers and is about to access them when another
    /// causes the device to be freed.
    #[must_use]
    pub fn pulled(mut self) -> Machine {
        self.turns = true;
        self
    }

    /// For a guest that is to boot again after its crash.
    #[must_use]
    pub fn reboots(mut self) -> Machine {
        self.reboots = true;
        self
    }

    /// With a serial console for [`Running::type_line`].
    #[must_use]
    pub fn typed(mut self) -> Machine {
        self.typed = true;
        self
    }

    /// QEMU's command line.
    fn command(&self, serial: &Path) -> Command {
        let mut command = Command::new(self.bed.architecture.qemu);
        command
            .args(["-accel", if self.turns { "tcg,thread=single" } else { "tcg" }, "-machine", self.kind])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-qmp", "stdio"])
            .args(self.serial(serial))
            .args(self.bed.architecture.arguments)
            .arg("-kernel")
            .arg(&self.kernel)
            .args(["-append", &self.words.join(" ")]);
        if !self.reboots {
            command.arg("-no-reboot");
        }
        if let Some(path) = &self.initramfs {
            command.arg("-initrd").arg(path);
        }
        if self.resident {
            command
                .arg("-object")
                .arg(format!("memory-backend-ram,id=ram,size={}M,prealloc=on", self.memory))
                .args(["-machine", "memory-backend=ram"]);
        }
        if let Some(model) = self.model {
            command.args(["-cpu", model]);
        }
        for (number, attached) in self.disks.iter().enumerate() {
            command.args(["-drive", &attached.drive(number)]).args((self.bed.device.arguments)(number));
        }
        // After the disks, whose numbers depend on their position.
        command.args(&self.arguments);
        command
    }

    /// QEMU's arguments for the serial port with this log.
    fn serial(&self, log: &Path) -> Vec<String> {
        let log_name = escaped(log);
        if !self.typed {
            return vec!["-serial".to_owned(), format!("file:{log_name}")];
        }
        let socket = escaped(&keyboard(log));
        let console = format!("socket,id=console,path={socket},server=on,wait=off,logfile={log_name}");
        vec!["-chardev".to_owned(), console, "-serial".to_owned(), "chardev:console".to_owned()]
    }

    /// Starts the machine. Its serial log is `serial-NAME.log` in `folder`, next to QEMU's own messages.
    ///
    /// # Errors
    /// If QEMU cannot be started or does not respond on QMP.
    pub fn start(&self, folder: &Path, name: &str) -> Result<Running> {
        let path = folder.join(format!("serial-{name}.log"));
        let errors = folder.join(format!("qemu-{name}.log"));
        // An old log must not be mistaken for a new one.
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
        // The command holds copies of QEMU's end of the socket; without them, QEMU's death closes the socket.
        drop(command);
        if let Err(error) = qmp.handshake(Duration::from_secs(30)) {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            let said = said.lines().last().unwrap_or("nothing was said");
            return Err(error.context(format!("QEMU did not start: {said}; log: {}", errors.display())));
        }
        let keyboard = if self.typed { Some(Keyboard::connect(&keyboard(&path))?) } else { None };
        Ok(Running { child, qmp, serial, keyboard, ended: None })
    }
}

/// The socket of the serial port with this log.
fn keyboard(log: &Path) -> PathBuf {
    log.with_extension("socket")
}

/// Input to a serial console.
#[derive(Debug)]
struct Keyboard(UnixStream);

impl Keyboard {
    /// The guest's output arrives on the socket too. It is also in the log, and is discarded here so that
    /// QEMU never blocks.
    fn connect(path: &Path) -> Result<Keyboard> {
        let name = || format!("cannot type at the console {}", path.display());
        let socket = UnixStream::connect(path).with_context(name)?;
        let mut said = socket.try_clone().with_context(name)?;
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(Keyboard(socket))
    }
}

/// A command-line word for a disk: `disk.first=0` for the first, `disk1.first=0` for the second.
pub fn disk_word(number: usize, word: &str) -> String {
    if number == 0 { format!("disk.{word}") } else { format!("disk{number}.{word}") }
}

/// A path in a QEMU option, where a comma must be doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A running machine; dropping it kills QEMU.
#[derive(Debug)]
pub struct Running {
    child: Guarded,
    /// QEMU's control socket.
    pub qmp: Qmp,
    /// The serial log.
    pub serial: Serial,
    keyboard: Option<Keyboard>,
    ended: Option<i32>,
}

impl Running {
    /// Types a line at the serial console.
    ///
    /// # Errors
    /// If the machine has no keyboard, or is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let keyboard = self.keyboard.as_mut().context("nobody can type at this machine's console")?;
        keyboard.0.write_all(format!("{line}\n").as_bytes()).context("cannot type: the machine is gone")
    }

    /// Waits for a line that contains `needle`, after those already waited for.
    ///
    /// # Errors
    /// If it does not come within `limit` or QEMU ends without it; the error names the last line and the log.
    pub fn wait_for(&mut self, needle: &str, limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        loop {
            let over = self.exited()?.is_some();
            // Read after checking the child, so that its last output is included.
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

    /// Waits until QEMU ends and returns its exit code; the serial log is complete then.
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
            let Some(status) = self.child.ended()? else { return Ok(None) };
            // Ended by a signal: QEMU crashed, not the guest.
            self.ended = Some(status.code().with_context(|| {
                format!(
                    "QEMU itself did not end but was ended ({status}); its last line: `{}`",
                    self.serial.last()
                )
            })?);
        }
        Ok(self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_word_replaces_an_earlier_one_of_the_same_key() {
        let machine = Machine::new(Bed::usual(), Path::new("k"))
            .word("reset=reset")
            .word("disk.shared")
            .word("reset=halt");
        assert_eq!(machine.words, ["disk.shared", "reset=halt"]);
    }

    #[test]
    fn the_command_line_lets_no_guest_reboot_that_was_not_allowed_to_and_never_uses_kvm() {
        let command =
            Machine::new(Bed::usual(), Path::new("k")).kind("q35").cpus(8).command(Path::new("/a,b/serial"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.contains(&"-no-reboot".to_owned()));
        assert!(words.windows(2).any(|pair| pair == ["-accel", "tcg"]));
        assert!(words.windows(2).any(|pair| pair == ["-smp", "8"]));
        assert!(words.contains(&"file:/a,,b/serial".to_owned()));
    }

    #[test]
    fn each_disk_has_its_own_drive_device_and_words() {
        let disk = |name: &str| Disk {
            path: PathBuf::from(name),
            dump: crate::image::Extent { first: 512, blocks: 100 },
        };
        let machine = Machine::new(Bed::usual(), Path::new("k"))
            .disk(&disk("a"))
            .drive("throttling.bps-total=1")
            .disk(&disk("b"))
            .fails(Fails::WritesTo(600));
        assert_eq!(
            machine.words,
            [
                "disk.on=virtio-blk",
                "disk.first=512",
                "disk.blocks=100",
                "disk1.on=virtio-blk",
                "disk1.first=512",
                "disk1.blocks=100"
            ]
        );
        let command = machine.command(Path::new("serial"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let drive = |part: &str| words.iter().filter(|word| word.contains(part)).count();
        assert_eq!(drive("id=dumpdrive0,format=raw,file=a,throttling.bps-total=1"), 1);
        assert_eq!(drive("file.image.filename=b"), 1);
        assert_eq!(drive("sector=4800"), 1);
        assert!(words.contains(&"virtio-blk-pci,drive=dumpdrive1,id=dumpdisk1".to_owned()));
    }
}

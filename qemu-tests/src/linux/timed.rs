//! Times the same crash with diskdump.ko and with kdump, by the clock of the host, which watches the serial
//! port.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guest::{Guest, LOAD};
use super::kdump::{Filter, KDUMP, kdump};
use super::rows::ARM;
use super::stock::Stock;
use crate::bed::{Bed, Device, X86_64};
use crate::image::Disk;
use crate::machine::Machine;
use crate::serial;

/// RAM in MiB, and the part that the guest fills: noise, text, zeros, and files.
pub const MEMORY: u32 = 2048;
const BUSY: &str = "load 300 150 150 60000\n";

/// Any guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);

/// The kernel's own message, at which both measurements begin.
const PANIC: &str = "Kernel panic - not syncing";

/// The cost of a crash.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes of memory reserved beforehand, unavailable to others.
    pub reserved: u64,
    /// From the panic until the dump is on the disk, flushed.
    pub dump: Duration,
    /// From the panic until the first program of the rebooted system runs.
    pub back: Duration,
    /// Bytes written to the disk.
    pub written: u64,
}

/// The environment of both.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The kernel.
    pub stock: &'a Stock,
    /// The device for the dump, which goes to its second partition.
    pub device: &'static Device,
    /// The disk. For our dump it is formatted.
    pub disk: &'a Disk,
    /// The folder for logs.
    pub folder: &'a Path,
}

impl Scene<'_> {
    fn guest<'a>(&'a self, script: &str) -> Guest<'a> {
        Guest::new(self.stock, &format!("{LOAD}\n{ARM}\n{KDUMP}\n{script}")).disk(self.device)
    }

    fn machine(&self, guest: &Guest<'_>, name: &str) -> Result<Machine> {
        let bed = Bed { architecture: X86_64, device: self.device };
        Ok(guest.machine(bed, self.folder, name)?.cpus(2).memory(MEMORY).disk(self.disk).reboots())
    }

    /// Crashes, and waits until the dump is `done` and the system is back. Returns both durations, and the
    /// lines before the crash and at the end of the dump.
    fn crash(
        &self,
        machine: &Machine,
        name: &str,
        done: &str,
    ) -> Result<(Duration, Duration, String, String)> {
        let mut running = machine.start(self.folder, name)?;
        let told = |running: &crate::machine::Running, error: anyhow::Error| {
            let failed = running.serial.find("linux: failed: ").map(|line| line.text.clone());
            failed.map_or(error, |line| anyhow::anyhow!("{line}; log: {}", running.serial.path().display()))
        };
        let mut wait = |needle: &str| running.wait_for(needle, LIMIT).map_err(|error| told(&running, error));
        let ready = wait("linux: reserved ")?;
        let panic = wait(PANIC)?;
        let done = wait(done)?;
        let back = wait("linux: begin ")?;
        Ok((done.at - panic.at, back.at - panic.at, ready.text, done.text))
    }

    /// With diskdump.ko, armed with these parameters.
    ///
    /// # Errors
    /// If there is no dump in time.
    pub fn ours(&self, module: &Path, words: &str) -> Result<Cost> {
        let script = format!(
            r#"disk=$(first_disk 20) || fail "there is no disk"
{BUSY}
load_module
arm "target=/dev/$(partition "$disk" 2)" serial=0x3f8 {words}
arena=$(sed -n 's/^arena=//p' $DISKDUMP/status)
say "reserved bytes=$((arena + $(cat /sys/module/diskdump/coresize)))"
sleep 2
crash_now"#
        );
        let content = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        let guest = self.guest(&script).file("diskdump.ko", 0o644, &content);
        let machine = self.machine(&guest, "ours")?;
        let (dump, back, ready, _) = self.crash(&machine, "ours", "diskdump: complete")?;
        let reserved = serial::number(&ready, "bytes").context("the guest did not say what it reserved")?;
        Ok(Cost { reserved, dump, back, written: 0 })
    }

    /// With kdump in this many MiB.
    ///
    /// # Errors
    /// If there is no dump in time.
    pub fn theirs(&self, filter: Filter, crashkernel: u32) -> Result<Cost> {
        let script = format!(
            r#"disk=$(first_disk 20) || fail "there is no disk"
{BUSY}
load_kdump
say "reserved bytes=$(cat /sys/kernel/kexec_crash_size)"
sleep 2
crash_now"#
        );
        let guest = kdump(self.guest(&script), self.stock, self.device, filter, self.folder)?;
        let machine = self.machine(&guest, "theirs")?.word(format!("crashkernel={crashkernel}M"));
        let (dump, back, ready, done) = self.crash(&machine, "theirs", "linux: kdump done")?;
        let number =
            |line: &str| serial::number(line, "bytes").context("the guest did not say how many bytes");
        let (reserved, written) = (number(&ready)?, number(&done)?);
        ensure!(written > 0, "kdump wrote nothing");
        Ok(Cost { reserved, dump, back, written })
    }
}

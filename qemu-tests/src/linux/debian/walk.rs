//! The steps of the guide, in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::Console;
use super::guide::{Guide, configuration};
use super::stores::stores;
use super::system::{System, SystemDisk};
#[cfg(test)]
use super::walker::CRASH;
use super::walker::{APT_LIMIT, DEAD, Expected, GOOD, LIMIT, Step, Then, Walk, short};
use crate::bed::{Bed, DEVICES, X86_64};
use crate::image::{Disk, Extent};
use crate::machine::Machine;

/// The packages to install.
#[derive(Clone, Debug)]
pub struct Packages {
    /// savecore's package.
    pub savecore: PathBuf,
    /// The module's package for DKMS.
    pub dkms: PathBuf,
}

/// The beginnings of all commands of the guide that the steps run.
#[cfg(test)]
pub(super) const COMMANDS: [&str; 23] = [
    SAVECORE, TOOLS, PARTITION, FORMAT, LIST, HEADERS, DKMS, ARM, ARMED, DRILL, ENABLED, SYSCTL, CRASH,
    JOURNAL, SYMBOLS, INFO, READ, AGAIN, BUILT, REBUILD, DISARM, UNLOAD, PURGE,
];

const SAVECORE: &str = "apt install ./savecore_";
const TOOLS: &str = "apt install gdisk parted";
const PARTITION: &str = "sgdisk ";
const FORMAT: &str = "savecore format ";
const LIST: &str = "savecore list";
const HEADERS: &str = "apt install linux-headers-amd64";
const DKMS: &str = "apt install ./diskdump-dkms_";
const ARM: &str = "savecore arm ";
const ARMED: &str = "savecore armed";
const DRILL: &str = "savecore drill";
const ENABLED: &str = "systemctl is-enabled ";
const SYSCTL: &str = "printf 'kernel.panic_on_oops";
const JOURNAL: &str = "journalctl -u savecore";
const SYMBOLS: &str = "apt install crash ";
const INFO: &str = "savecore info";
const READ: &str = "crash /usr/lib/debug/boot/";
const AGAIN: &str = "systemctl start savecore";
const BUILT: &str = "dkms status diskdump";
const REBUILD: &str = "apt install linux-headers-$(uname -r) && dkms autoinstall";
const DISARM: &str = "savecore disarm";
const UNLOAD: &str = "rmmod diskdump";
const PURGE: &str = "apt purge savecore diskdump-dkms";

/// RAM in MiB: crash reads a kernel with symbols.
const MEMORY: u32 = 2048;

/// Size of the dump partition here; the guide's is larger than a test needs.
const DUMP_SIZE: (&str, &str) = ("+8G", "+1G");

/// Size in bytes of the disk that comes late.
const LATE_BYTES: u64 = 1 << 30;

/// A QEMU `-drive` option: what the guest flushes need not reach the host's disk, since only the guest crashes here. On a
/// busy host, a flush of gigabytes would stop the guest for minutes, until its watchdogs fire.
const NO_FLUSH: &str = "cache=unsafe";

/// The machine: a disk with the system, and optionally a second one.
fn machine(kernel: &[std::path::PathBuf; 2], disk: &SystemDisk, late: Option<&Disk>) -> Result<Machine> {
    let device =
        DEVICES.iter().find(|device| device.name == "virtio-blk").context("there is no virtio-blk")?;
    let bed = Bed { architecture: X86_64, device };
    let [kernel, initramfs] = kernel;
    // The test kernel's command-line words for disks are ignored by Linux.
    let whole = Disk { path: disk.path.clone(), dump: Extent { first: 0, blocks: 0 } };
    let mut machine =
        Machine::new(bed, kernel).initramfs(initramfs).cpus(2).memory(MEMORY).typed().disk(&whole);
    machine = machine.drive(NO_FLUSH);
    if let Some(late) = late {
        machine = machine.disk(late).drive(NO_FLUSH);
    }
    machine.words.clear();
    Ok(machine.word("root=/dev/vda1").word("ro").word("quiet").word("console=ttyS0,115200").reboots())
}

/// Runs all steps; returns facts.
pub(super) fn walk(
    system: &System,
    packages: &Packages,
    folder: &Path,
    done: &mut dyn FnMut(&Step),
) -> Result<String> {
    let begin = Instant::now();
    let disk = system.disk(&folder.join("disk.raw"))?;
    for package in [&packages.savecore, &packages.dkms] {
        let name = package.file_name().unwrap_or_default().to_string_lossy();
        disk.put(package, &format!("/root/{name}"))?;
    }
    let late = late_disk(folder)?;
    let console = Console::start(&machine(&system.kernel(), &disk, Some(&late))?, folder, "guide")?;
    let mut walk =
        Walk { guide: Guide::new(), console, done, failed: Vec::new(), passed_over: Vec::new(), steps: 0 };
    let result = steps(&mut walk, system, &disk, &late, folder);
    let Walk { guide, failed, passed_over, steps, console, .. } = walk;
    let log = console.log();
    drop(console);
    result.with_context(|| format!("after {steps} steps; log: {}", log.display()))?;
    if !failed.is_empty() {
        bail!("{} of {steps} steps failed: {}; logs: {}", failed.len(), failed.join("; "), folder.display());
    }
    for path in [&disk.path, &late.path] {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let mut facts = format!(
        "{steps} steps, {} of the guide, in {} s; kernels {}",
        guide.count(),
        begin.elapsed().as_secs(),
        system.about
    );
    for what in passed_over {
        facts.push_str(&format!("; not tried: {what}"));
    }
    Ok(facts)
}

/// The disk that comes late, empty.
fn late_disk(folder: &Path) -> Result<Disk> {
    let path = folder.join("late.raw");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(LATE_BYTES).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Disk { path, dump: Extent { first: 0, blocks: 0 } })
}

fn steps(walk: &mut Walk<'_>, system: &System, disk: &SystemDisk, late: &Disk, folder: &Path) -> Result<()> {
    walk.come_up("a fresh system is up", false)?;
    let first = by_the_guide(walk)?;
    let second = late_target(walk, &first)?;

    // The machine boots without its second disk.
    walk.crash("crash 2: a dump on the second disk", Then::Ends)?;
    walk.console = Console::start(&machine(&system.kernel(), disk, None)?, folder, "late")?;
    walk.come_up("up again, without the second disk", false)?;
    come_late(walk, late, &first, &second)?;

    upgrade(walk, system)?;
    let kernel = ["vmlinuz", "initrd.img"].map(|name| folder.join(name));
    for (name, file) in ["vmlinuz", "initrd.img"].iter().zip(&kernel) {
        disk.get(&format!("/boot/{name}-{}", system.next), file)?;
    }
    walk.console = Console::start(&machine(&kernel, disk, Some(late))?, folder, "upgraded")?;
    walk.come_up("up with the other kernel", false)?;
    walk.run("it is the other kernel", "uname -r", &Expected { says: &[&system.next], ..GOOD })?;
    walk.armed("units: armed on the other kernel", &[&first, &second])?;
    walk.by_guide(REBUILD, &[], &Expected { limit: APT_LIMIT, says: &["armed"], ..GOOD })?;
    walk.armed("armed again, by hand", &[&first, &second])?;
    walk.crash("crash 3: a dump of the other kernel", Then::ComesUp)?;
    walk.come_up("up again", true)?;
    walk.harvested(3, &[&first, &second])?;
    stores(walk, &second)?;
    purge(walk)?;
    walk.guide.is_walked()
}

/// Everything in the guide; returns the partition's name.
fn by_the_guide(walk: &mut Walk<'_>) -> Result<String> {
    let apt = Expected { limit: APT_LIMIT, ..GOOD };
    walk.by_guide(SAVECORE, &[], &apt)?;
    walk.by_guide(TOOLS, &[], &apt)?;
    walk.by_guide(PARTITION, &[DUMP_SIZE], &GOOD)?;
    let format = walk.guide.command(FORMAT, &[])?;
    let said = walk.console.answer(&format, &[("holds ", "yes")], LIMIT)?;
    walk.judge(&format!("guide: {}", short(&format)), &said, &GOOD);
    walk.by_guide(LIST, &[], &Expected { says: &["/dev/vda2"], ..GOOD })?;

    walk.by_guide(HEADERS, &[("linux-headers-amd64", "linux-headers-cloud-amd64")], &apt)?;
    walk.by_guide(DKMS, &[], &apt)?;
    walk.run(
        "DKMS built it",
        "dkms status diskdump -k $(uname -r)",
        &Expected { says: &["installed"], ..GOOD },
    )?;
    walk.run("guide: modprobe diskdump", "modprobe diskdump", &GOOD)?;

    let uuid = walk.ask("blkid -s PARTUUID -o value /dev/disk/by-partlabel/dump")?;
    // Edits the existing section, as an administrator would.
    let edit = format!(
        "cat >/root/arm.toml <<'END'\n{}END\nsed -i -e '/^\\[arm\\]$/{{r /root/arm.toml' -e 'd}}' /etc/savecore.toml; rm /root/arm.toml",
        configuration(&uuid)?
    );
    walk.run("guide: /etc/savecore.toml", &edit, &GOOD)?;
    walk.by_guide(ARM, &[], &Expected { says: &["armed"], ..GOOD })?;
    walk.by_guide(ARMED, &[], &Expected { says: &["/dev/vda2"], ..GOOD })?;
    walk.by_guide(DRILL, &[], &GOOD)?;
    walk.by_guide(ENABLED, &[], &Expected { says: &["enabled"], ..GOOD })?;
    walk.by_guide(SYSCTL, &[], &Expected { says: &["kernel.panic_on_oops = 1"], ..GOOD })?;

    walk.crash("guide: sync; echo c >/proc/sysrq-trigger", Then::ComesUp)?;
    walk.come_up("up again", true)?;
    walk.harvested(1, &["/dev/vda2"])?;
    walk.by_guide(JOURNAL, &[], &Expected { says: &["saved in /var/crash/pelican-"], ..GOOD })?;
    walk.by_guide(SYMBOLS, &[], &apt)?;
    walk.by_guide(INFO, &[], &Expected { code: 1, says: &["no dump"], ..GOOD })?;
    walk.by_guide(AGAIN, &[], &GOOD)?;
    walk.armed("still armed", &["/dev/vda2"])?;
    walk.run("crash shows a page as long as it is", "echo set scroll off >/root/.crashrc", &GOOD)?;
    let read = walk.guide.command(READ, &[])?;
    let answers = [("PANIC: ", "bt"), ("sysrq_handle_crash", "quit")];
    let said = walk.console.answer(&read, &answers, Duration::from_secs(600))?;
    walk.judge(
        &format!("guide: {}", short(&read)),
        &said,
        &Expected { says: &["sysrq triggered crash"], ..GOOD },
    );
    Ok("/dev/vda2".to_owned())
}

/// Adds a second target, with a dead one before it; returns the second one's name.
fn late_target(walk: &mut Walk<'_>, first: &str) -> Result<String> {
    let uuid = walk.ask("blkid -s PARTUUID -o value /dev/disk/by-partlabel/dump")?;
    let targets = |other: &str| {
        format!(
            "sed -i '/^\\[arm\\]$/,$s/^targets = .*/targets = [\"{other}\", \"PARTUUID={uuid}\"]/' /etc/savecore.toml"
        )
    };
    walk.run("a target that is dead", &targets(DEAD), &GOOD)?;
    walk.run("dead target: said, exit 1", "savecore boot", &Expected { code: 1, says: &[DEAD], ..GOOD })?;
    walk.armed("dead target: the other one is armed", &[first])?;
    let make = "sgdisk --new=0:0:0 --change-name=0:late /dev/vdb && partprobe /dev/vdb && udevadm settle && \
                savecore format --yes /dev/disk/by-partlabel/late";
    walk.run("a second disk", make, &GOOD)?;
    let late = walk.ask("blkid -s PARTUUID -o value /dev/disk/by-partlabel/late")?;
    walk.run("a second target", &targets(&format!("PARTUUID={late}")), &GOOD)?;
    walk.run("armed on both", "savecore arm", &GOOD)?;
    walk.armed("armed on both, as it says", &[first, "/dev/vdb1"])?;
    Ok("/dev/vdb1".to_owned())
}

/// The second disk is missing, and then appears.
fn come_late(walk: &mut Walk<'_>, late: &Disk, first: &str, second: &str) -> Result<()> {
    walk.armed("a disk that is not there: the other one is armed", &[first])?;
    let part_uuid = "$(grep -o 'PARTUUID=[^\"]*' /etc/savecore.toml | grep -v 0b2f0a5e | head -n 1)";
    let said = format!("journalctl -b -u savecore | grep -F \"{part_uuid}\"");
    walk.run("a disk that is not there: the journal names it", &said, &GOOD)?;
    walk.console.running.qmp.plug_disk("late", &late.path)?;
    walk.harvested(2, &[first, second])
}

/// Another kernel, for which DKMS builds the module.
fn upgrade(walk: &mut Walk<'_>, system: &System) -> Result<()> {
    let next = &system.next;
    let apt = Expected { limit: APT_LIMIT, ..GOOD };
    walk.run(
        "another kernel, by apt",
        &format!("apt install linux-image-{next} linux-headers-{next}"),
        &apt,
    )?;
    walk.by_guide(BUILT, &[], &Expected { says: &[next, "installed"], ..GOOD })?;
    walk.console.power_off(LIMIT)
}

/// Removes the packages.
fn purge(walk: &mut Walk<'_>) -> Result<()> {
    let apt = Expected { limit: APT_LIMIT, ..GOOD };
    walk.by_guide(DISARM, &[], &GOOD)?;
    walk.by_guide(UNLOAD, &[], &GOOD)?;
    walk.by_guide(PURGE, &[], &apt)?;
    // Except for files that are not ours: cores, package files and input for this test, logs of dpkg, apt and
    // the journal, kernel documentation. Dump partitions stay.
    let left = "find / -xdev \\( -iname '*savecore*' -o -iname '*diskdump*' \\) -not -path '/root/*' -not -path '/var/log/*' \
                -not -path '/usr/src/linux-*' -not -path '/usr/lib/debug/*' -not -path '/usr/share/doc/crash*' | grep .";
    walk.run("nothing of them is left", left, &Expected { code: 1, ..GOOD })?;
    let units = "systemctl list-unit-files --no-legend 'savecore*' | grep . ; dpkg -l savecore diskdump-dkms 2>/dev/null | grep '^[ri]'";
    walk.run("no unit and no package is left", units, &Expected { code: 1, ..GOOD })?;
    walk.run(
        "the module is in no kernel",
        "lsmod | grep diskdump; ls /sys/kernel/diskdump",
        &Expected { code: 2, ..GOOD },
    )?;
    let cores = "test $(ls -d /var/crash/pelican-*/vmcore.elf | wc -l) = 3";
    walk.run("the cores are", cores, &GOOD)?;
    walk.run(
        "the system is well",
        "dmesg | grep -E 'BUG|WARNING|Call Trace'",
        &Expected { code: 1, ..GOOD },
    )?;
    Ok(())
}

//! savecore in the guest itself, with the module: arming, reporting refusals, and its units at boot.
//!
//! One file: a list of rows, each a few lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::judge::{self, text};
use super::run;
use super::{Kind, Lab, Row};
use crate::image::{Disk, Extent};
use crate::linux::guest::{Guest, LIBRARY};
use crate::process;

/// The rows.
pub(super) const KINDS: [Kind; 4] = [
    ("boot", "three boots: what savecore's unit runs arms and harvests what crashed", boot),
    (
        "harvest",
        "a crash while a dump is harvested: the kernel is armed, the next boot saves both, and is armed meanwhile",
        harvest,
    ),
    (
        "units",
        "three boots with systemd: the installed units arm, harvest, arm again, and do later what takes long",
        units,
    ),
    ("arm", "savecore arms, disarms and tells; each refusal is one line, the module's own ones too", arm),
];

/// The functions of these guests' scripts.
const FUNCTIONS: &str = include_str!("../savecore.sh");

const SERVICE: &str = include_str!("../../../../savecore/dist/savecore.service");
const LATER: &str = include_str!("../../../../savecore/dist/savecore-later.service");

/// Size in blocks of the file system for cores: room for two, and the reserve that must stay free.
const STORE_BLOCKS: u64 = 512 << 8;

/// Limit for quick operations on a file system's image.
const LIMIT: Duration = Duration::from_secs(60);

/// The value of a unit's only line with this key.
fn line<'u>(unit: &'u str, key: &str) -> Result<&'u str> {
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let first = lines.next().with_context(|| format!("a unit of savecore's has no {key}"))?;
    ensure!(lines.next().is_none(), "a unit of savecore's has several lines with {key}");
    Ok(first)
}

/// Paths in sysfs that a unit may write.
fn writable(unit: &str) -> String {
    let lines = unit.lines().filter_map(|line| line.strip_prefix("ReadWritePaths="));
    let paths = lines.flat_map(str::split_whitespace).map(|path| path.trim_start_matches('-'));
    paths.filter(|path| path.starts_with("/sys/")).collect::<Vec<_>>().join(" ")
}

/// Capabilities that a unit keeps, in setpriv's notation.
fn capabilities(unit: &str) -> Result<String> {
    let names = line(unit, "CapabilityBoundingSet")?.split_whitespace();
    Ok(names.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect())
}

/// The beginning of the script: functions, and the confinement of savecore's units, which is the same for
/// both.
fn beginning() -> Result<String> {
    let (places, capabilities) = (writable(SERVICE), self::capabilities(SERVICE)?);
    ensure!(!places.is_empty(), "savecore.service lets nothing of sysfs be written");
    ensure!(
        (&places, &capabilities) == (&writable(LATER), &self::capabilities(LATER)?),
        "savecore's units have different confines"
    );
    Ok(format!("export WRITABLE='{places}' CAPABILITIES='{capabilities}'\n{FUNCTIONS}"))
}

/// A guest with savecore and its confinement.
fn guest<'a>(lab: &'a Lab, row: &Row, script: &str, config: &str) -> Result<Guest<'a>> {
    run::guest(lab, row, &format!("{}\n{script}", beginning()?))?
        .module("ext4")
        .file("etc/savecore.toml", 0o644, config.as_bytes())
        .program(lab.savecore.program())?
        .program(Path::new("/usr/bin/setpriv"))
}

/// The beginning of each boot.
const PLACES: &str = r#"
# The units name it by this path.
mkdir -p /usr/bin /run/savecore
ln -s /bin/savecore /usr/bin/savecore
hostname pelican
disk=$(first_disk 20) || fail "there is no disk"
target=/dev/$(partition "$disk" 2)
mkdir -p /var/crash
mount -t ext4 /dev/vdb /var/crash || fail "there is no place for cores"
"#;

/// The same, with a crash in the middle of the second boot's harvest.
const HARVEST: &str = r#"
load_module
case $boot in
    1) said 0 "the kernel is armed on $target" confined $unit ;;
    2)
        confined $unit >/tmp/unit 2>&1 &
        looks=2000
        while [ -z "$(find /var/crash -name 'vmcore*')" ]; do
            looks=$((looks - 1))
            [ "$looks" -gt 0 ] || fail "nothing is saved: $(cat /tmp/unit)"
            usleep 20000
        done
        said 0 armed savecore armed
        grep "saved in" /tmp/unit && fail "the harvest is over already"
        ;;
    3)
        (while :; do cat $DISKDUMP/state; usleep 2000; done >/tmp/states) &
        watch=$!
        said 0 "the kernel is armed on $target" confined $unit
        kill "$watch"
        cat /tmp/out /tmp/errors >/tmp/unit
        for number in 1 2; do
            grep -q "$target: dump $number saved in /var/crash/pelican-" /tmp/unit || fail "dump $number was not saved"
        done
        # From the moment that it was armed.
        others=$(sed -n '/^armed$/,$p' /tmp/states | grep -vc '^armed$')
        [ "$others" = 0 ] || fail "it was not armed all the time: $others of $(wc -l </tmp/states) looks"
        say "armed at all of $(grep -c '^armed$' /tmp/states) looks while two dumps were saved and freed"
        said 1 "no dump" savecore info "$target"
        said 0 "" savecore check "$target"
        last result=complete "place=/var/crash/pelican-"
        umount /var/crash || fail "the place of cores is in use"
        exit 0
        ;;
esac
crash_now
sleep 60
fail "it did not crash"
"#;

/// The script of each boot; `boot` is its number, `unit` and `later` are the units' commands.
const BOOT: &str = r#"
if [ "$boot" = 3 ]; then
    # As its parameter in /etc/modprobe.d would have it: somebody else than savecore has armed.
    load_module "arm=\"target=$target\""
    [ "$(cat $DISKDUMP/state)" = armed ] || fail "not armed by its parameter: $(cat $DISKDUMP/reason)"
    last result=complete "place=$target"
else
    load_module
    said 1 disarmed savecore armed
fi
said 0 "$target" confined $unit
# What it prints is for the journal.
cp /tmp/out /tmp/unit
cat /tmp/errors >>/tmp/unit
[ -e /run/savecore/later ] && fail "work is left"
cores=$(find /var/crash -name vmcore.elf | wc -l)
[ "$cores" = $((boot - 1)) ] || fail "there are $cores cores in boot $boot"
case $boot in
    1) grep -q "no dump waits on $target" /tmp/unit || fail "a dump is there before the first crash" ;;
    *) grep -q "$target: dump .* saved in /var/crash/pelican-" /tmp/unit || fail "no dump was saved" ;;
esac
if [ "$boot" -lt 3 ]; then
    first=$(grep -n "the kernel is armed on $target" /tmp/unit | cut -d: -f1)
    [ "$first" = 1 ] || fail "it was not armed first"
fi
dmesg | grep "diskdump: disarmed" && fail "it was disarmed"
said 0 armed savecore armed
said 0 '"state": "armed"' savecore armed --json
case $boot in
    1) last result=none ;;
    *)
        last result=complete "place=/var/crash/pelican-"
        said 0 "last dump    complete, of 20" savecore armed
        ;;
esac
said 0 "$target: ready, and the kernel is armed on it" savecore list
said 1 "no dump" savecore info "$target"
said 0 "$target: ready" savecore check "$target"
if [ "$boot" -lt 3 ]; then
    crash_now
    sleep 60
    fail "it did not crash"
fi
said 0 "no dump waits on $target" confined $later
said 0 armed savecore armed
said 0 "$target can be used again" savecore disarm
umount /var/crash || fail "the place of cores is in use"
"#;

/// A disk with a file system.
fn store(lab: &Lab) -> Result<Disk> {
    let path = lab.folder.join("store.raw");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(STORE_BLOCKS << 12).with_context(|| format!("cannot create {}", path.display()))?;
    let mut command = Command::new("/usr/sbin/mke2fs");
    command.args(["-q", "-F", "-t", "ext4"]).arg(&path);
    process::run(&mut command, LIMIT, &lab.folder.join("mke2fs.log"))?.success("mke2fs")?;
    Ok(Disk { path, dump: Extent { first: 0, blocks: STORE_BLOCKS } })
}

fn boot(lab: &Lab, row: &Row) -> Result<String> {
    lab.vmlinux.as_deref().context("this row needs the kernel's symbols")?;
    three_boots(lab, row, "boot", BOOT)
}

fn harvest(lab: &Lab, row: &Row) -> Result<String> {
    three_boots(lab, row, "harvest", HARVEST)
}

/// Boots three times with this script, where the first two boots end in a crash; at the end both dumps are
/// saved. Returns facts.
fn three_boots(lab: &Lab, row: &Row, name: &str, script: &str) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let store = store(lab)?;
    let before = disk.rest_fingerprint()?;
    // Long enough for a slow guest: this test is not about the limit.
    let config = format!(
        "limit = 540\n[arm]\nboot = true\ntargets = [\"PARTUUID={}\"]\nlevel = 31\n",
        disk.part_uuid()?
    );
    let commands = format!("unit='{}'\nlater='{}'", line(SERVICE, "ExecStart")?, line(LATER, "ExecStart")?);
    for number in 1..=3 {
        let name = format!("{name}-{number}");
        let script = format!("boot={number}\n{commands}\n{PLACES}\n{script}");
        let guest = guest(lab, row, &script, &config)?;
        let machine = run::machine(lab, row, &guest, &disk, &name)?.disk(&store);
        match number {
            3 => drop(run::finish(machine.start(&lab.folder, &name)?)?),
            _ => run::is_complete(&run::crash(&machine, lab, &name)?)?,
        }
        run::only_ours(&disk, before)?;
    }
    let answer = lab.savecore.expect(0, "check", &disk, &[]).context("the partition is not as it was")?;
    ensure!(answer.value["verdict"] == "ready", "the partition is not ready: {}", answer.value);
    let facts = cores(lab, &store, 2, row.cpus)?;
    for disk in [disk, store] {
        fs::remove_file(&disk.path)?;
    }
    Ok(facts)
}

/// Extracts the cores from the file system and checks them: this many, complete, each of a different crash.
/// drgn reads them if the kernel's symbols are available. Returns facts.
fn cores(lab: &Lab, store: &Disk, number: usize, cpus: u32) -> Result<String> {
    let into = &lab.folder.join("cores");
    match fs::remove_dir_all(into) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(into)?,
    }
    let mut command = Command::new("/usr/sbin/debugfs");
    command.arg("-R").arg(format!("rdump / {}", into.display())).arg(&store.path);
    process::run(&mut command, LIMIT, &lab.folder.join("debugfs.log"))?.success("debugfs")?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(into)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().starts_with("pelican-") {
            folders.push(entry.path());
        }
    }
    folders.sort_unstable();
    ensure!(folders.len() == number, "{} folders of crashes are there instead of {number}", folders.len());
    let latest = fs::read_link(into.join("latest")).context("nothing is the latest crash")?;
    ensure!(
        folders.last().is_some_and(|last| last.ends_with(&latest)),
        "the latest crash is {}",
        latest.display()
    );
    let (mut facts, mut nonces) = (Vec::new(), Vec::new());
    for folder in &folders {
        let info = folder.join("info.json");
        let info = fs::read(&info).with_context(|| format!("cannot read {}", info.display()))?;
        let info: Value = serde_json::from_slice(&info).context("info.json is no JSON")?;
        facts.push(judge::is_whole(&info, cpus)?);
        nonces.push(text(&info, "nonce").to_owned());
        let log = fs::read_to_string(folder.join("dmesg.txt")).context("there is no log of the kernel's")?;
        ensure!(log.contains("sysrq triggered crash"), "the log in {} does not say why", folder.display());
        judge::is_as_old_as_its_log(&info, &log)?;
        let core = folder.join("vmcore.elf");
        if let Some(vmlinux) = &lab.vmlinux {
            lab.readers.drgn(vmlinux, &core, &["panic ", "sysrq_handle_crash", "task 1 "])?;
        }
    }
    nonces.dedup();
    ensure!(nonces.len() == number, "one dump was saved twice");
    fs::remove_dir_all(into)?;
    Ok(facts.join(", "))
}

/// Preparations before systemd starts as the first process.
const INSTALL: &str = r#"
hostname pelican
disk=$(first_disk 20) || fail "there is no disk"
mkdir -p /var/crash
mount -t ext4 /dev/vdb /var/crash || fail "there is no place for cores"
load_module
said 0 "installed" savecore install
said 0 "" systemctl enable savecore.service savecore-later.path check.service
cat >/next <<END
#!/bin/sh
exec /bin/systemd
END
chmod +x /next
"#;

/// A unit that waits for savecore's.
const CHECK_UNIT: &str = "[Unit]\nAfter=savecore.service\n[Service]\nType=oneshot\nExecStart=/bin/sh /check\n\
                          [Install]\nWantedBy=multi-user.target\n";

/// The destination of savecore's output.
const OUTPUT: &str = "[Service]\nStandardOutput=append:/run/said\nStandardError=append:/run/said\n";

/// Its script; `boot` is the number of the boot.
const CHECK: &str = r#"
exec >/dev/ttyS0 2>&1
trap 'echo "linux: end status=$?"; poweroff -f' EXIT
target=/dev/vda2
cat /run/said
said 0 "Result=success" systemctl show --property=Result,ExecMainStatus,ActiveState savecore.service
case $boot in
    1 | 2) ended=0 ;;
    3) ended=3 ;;
esac
grep -q "ExecMainStatus=$ended" /tmp/out || fail "savecore.service did not end with $ended"
# Also when the time is not enough for what waits.
said 0 armed savecore armed
said 0 active systemctl is-active savecore-later.path
if [ "$boot" = 2 ]; then
    # Work that was left, and is none.
    echo '{}' >/run/savecore/later
fi
if [ "$boot" -gt 1 ]; then
    looks=200
    while [ -e /run/savecore/later ] && [ "$looks" -gt 0 ]; do
        usleep 200000
        looks=$((looks - 1))
    done
    while [ "$(systemctl is-active savecore-later.service)" = active ] && [ "$looks" -gt 0 ]; do
        usleep 200000
        looks=$((looks - 1))
    done
    cat /run/said
    [ "$looks" -gt 0 ] || fail "what is left is not done"
    said 0 "Result=success" systemctl show --property=Result,ExecMainStatus savecore-later.service
fi
said 0 armed savecore armed
said 0 "$target" savecore armed
grep -q "the kernel is armed on $target" /run/said || fail "the units did not arm"
cores=$(find /var/crash -name vmcore.elf | wc -l)
[ "$cores" = $((boot - 1)) ] || fail "there are $cores cores in boot $boot"
if [ "$boot" = 1 ]; then
    # Nothing would fail, with all that is installed.
    said 0 "kernel: it is armed on $target" savecore drill --quick
fi
if [ "$boot" -lt 3 ]; then
    crash_now
    sleep 60
    fail "it did not crash"
fi
umount /var/crash || fail "the place of cores is in use"
"#;

/// systemd's own units that are included.
const TARGETS: [&str; 10] = [
    "sysinit",
    "basic",
    "multi-user",
    "local-fs",
    "local-fs-pre",
    "sockets",
    "timers",
    "paths",
    "slices",
    "shutdown",
];

fn units(lab: &Lab, row: &Row) -> Result<String> {
    lab.vmlinux.as_deref().context("this row needs the kernel's symbols")?;
    let disk = run::disk(lab, "disk")?;
    let store = store(lab)?;
    let before = disk.rest_fingerprint()?;
    for number in 1..=3 {
        let name = format!("units-{number}");
        let check = format!("{LIBRARY}\n{}\n{FUNCTIONS}\nboot={number}\n{CHECK}", run::ARM);
        // No dump can be saved in a second here.
        let limit = if number == 3 { "limit = 1\n" } else { "" };
        let mut guest = guest(lab, row, INSTALL, &format!("{limit}[arm]\nboot = true\n"))?
            .program(Path::new("/usr/lib/systemd/systemd"))?
            .program(Path::new("/usr/bin/systemctl"))?
            // Without it, systemd considers this the first boot and enables units by preset.
            .file("etc/machine-id", 0o444, b"00112233445566778899aabbccddeeff\n")
            .file("etc/systemd/system/check.service", 0o644, CHECK_UNIT.as_bytes())
            .file("check", 0o644, check.as_bytes());
        // There is no journal.
        for unit in ["savecore", "savecore-later"] {
            let path = format!("etc/systemd/system/{unit}.service.d/output.conf");
            guest = guest.file(&path, 0o644, OUTPUT.as_bytes());
        }
        for target in TARGETS {
            let path = format!("lib/systemd/system/{target}.target");
            let unit = fs::read(format!("/{path}")).with_context(|| format!("systemd has no /{path}"))?;
            guest = guest.file(&path, 0o644, &unit);
        }
        let machine = run::machine(lab, row, &guest, &disk, &name)?
            .disk(&store)
            .word("systemd.unit=multi-user.target")
            .word("systemd.log_target=console");
        match number {
            3 => drop(run::finish(machine.start(&lab.folder, &name)?)?),
            _ => run::is_complete(&run::crash(&machine, lab, &name)?)?,
        }
        run::only_ours(&disk, before)?;
    }
    let facts = cores(lab, &store, 2, row.cpus)?;
    for disk in [disk, store] {
        fs::remove_file(&disk.path)?;
    }
    Ok(facts)
}

const ARM: &str = r#"
disk=$(first_disk 20) || fail "there is no disk"
before=/dev/$(partition "$disk" 1)
target=/dev/$(partition "$disk" 2)
behind=/dev/$(partition "$disk" 3)
legacy=/dev/vdb2
protected=/dev/vdc2
mkdir -p /mnt

# Without the module.
said 2 "modprobe diskdump" savecore arm "$target"
said 2 "modprobe diskdump" savecore disarm
said 1 "modprobe diskdump" savecore armed
said 1 '"loaded": false' savecore armed --json
said 0 "target=$target" savecore arm "$target" --dry-run
words=$(cat /tmp/out)
uuid=${words#*uuid=}
uuid=${uuid%% *}
said 1 "the kernel is not armed" savecore boot

load_module
said 1 disarmed savecore armed
said 0 "not armed" savecore disarm

# What is refused, and why.
mke2fs "$before" >/dev/null 2>&1 || fail "no file system"
mount -t ext2 "$before" /mnt || fail "nothing to mount"
said 2 "mounted on /mnt" savecore arm "$before"
umount /mnt
said 2 "ext2" savecore arm "$before"
mkswap "$behind" >/dev/null || fail "no swap"
swapon "$behind" || fail "no swap"
said 2 "used as swap" savecore arm "$behind"
swapoff "$behind"
said 2 "swap" savecore arm "$behind"
said 2 "PARTUUID=00000000-0000-0000-0000-000000000001" savecore arm PARTUUID=00000000-0000-0000-0000-000000000001
said 2 "level" savecore arm "$target" --level 64
printf '[arm]\nlevel = 64\n' >/tmp/level.toml
# A mistake in a file keeps nothing from being armed, and is said.
said 1 "level" savecore arm "$target" --config /tmp/level.toml
said 0 "$target can be used again" savecore disarm
said 1 disarmed savecore armed

# By all names; armed again while it is armed.
for name in "$target" "PARTUUID=$PARTUUID" "UUID=$uuid" "/dev/$disk"; do
    said 0 "armed: a crash is dumped to $target" savecore arm "$name"
    said 0 "$uuid" savecore armed
    said 0 '"state": "armed"' savecore armed --json
    said 0 "$target can be used again" savecore disarm
    said 1 disarmed savecore armed
done
said 0 "armed: a crash is dumped to $target" savecore arm "$target"
said 0 "armed: a crash is dumped to $target" savecore arm "$target" --level 1
said 0 "armed: a crash is dumped to $target" confined savecore arm "$target"
said 2 "savecore disarm" savecore format "$target" --yes
said 2 "savecore disarm" savecore clear "$target" --yes
said 0 "$target: ready" savecore check "$target"

# What only the module finds.
said 2 "arm $legacy: unsupported: needs a modern virtio device" savecore arm "$legacy"
grep -q "it stays armed on $target" /tmp/errors || fail "it does not say that it stays armed"
said 0 "another arming: $legacy: unsupported" savecore armed
said 0 "$target" savecore armed
said 0 "$target can be used again" savecore disarm
said 2 "arm $protected: it is read-only" savecore arm "$protected"
grep -q "no longer" /tmp/errors && fail "nothing was armed before"
said 1 "$legacy: unsupported" savecore arm "$target" "$legacy"
said 0 "$target" savecore armed
said 0 "$target can be used again" savecore disarm
said 2 "$legacy: unsupported" savecore arm --strict "$target" "$legacy"
said 1 "refused: $legacy: unsupported" savecore armed
said 0 "it was not armed" savecore disarm
said 1 disarmed savecore armed

# Of targets that nobody named, those that can be armed are.
said 0 "armed: a crash is dumped to $target" savecore arm
for other in "$legacy" "$protected"; do
    grep -q "warning: $other is left out" /tmp/errors || fail "it does not say that $other is left out"
done
said 0 "$target can be used again" savecore disarm
said 0 "the kernel is armed on $target" savecore boot
said 0 "armed" savecore armed
rmmod diskdump || fail "it cannot be unloaded"
said 1 "modprobe diskdump" savecore armed
dmesg | grep -E 'BUG|WARNING|Call Trace' && fail "the kernel complains"
dd if="$target" of=/dev/null bs=1M iflag=direct 2>/dev/null || fail "the disk does not work any more"
"#;

fn arm(lab: &Lab, row: &Row) -> Result<String> {
    let [disk, legacy, protected] = ["disk", "legacy", "protected"].map(|name| run::disk(lab, name));
    let (disk, legacy, protected) = (disk?, legacy?, protected?);
    let script = format!("PARTUUID={}\n{ARM}", disk.part_uuid()?);
    let guest = guest(lab, row, &script, "[arm]\nboot = true\n")?;
    let mut machine = run::machine(lab, row, &guest, &disk, "arm")?;
    machine = machine.disk(&legacy).disk(&protected).drive("readonly=on");
    machine.arguments.extend(["-set", "device.dumpdisk1.disable-modern=on"]);
    let serial = run::finish(machine.start(&lab.folder, "arm")?)?;
    lab.savecore.expect(0, "check", &disk, &[]).context("the partition is not as it was")?;
    let refused = serial.lines().iter().filter(|line| line.text.contains("linux: refused: ")).count();
    for disk in [disk, legacy, protected] {
        fs::remove_file(&disk.path)?;
    }
    Ok(format!("{refused} refusals"))
}

//! Arming: refusals and their reasons, hotplug, and who dumps next if our dump fails.

use anyhow::{Context, Result, ensure};

use super::judge;
use super::run::{self, BEFORE, CRASH, LIMIT};
use super::{Kind, Lab, Row};
use crate::linux::kdump::{Filter, KDUMP, kdump};

/// The rows of every kernel that supports them.
pub(super) const KINDS: [Kind; 5] = [
    ("arming", "targets refused with the reason; armed again after CPUs went; unloaded and loaded", arming),
    ("next", "with kdump loaded too: ours refuses over a harmed pattern, and kdump's kernel runs", next),
    ("early", "with kdump loaded too: ours ends early over a harmed pattern, and kdump's kernel runs", early),
    (
        "between",
        "a crash while it is armed again, and the disk is slow: dumped; the state is told meanwhile",
        between,
    ),
    ("first", "with kdump loaded too: ours is first, and the machine is reset", first),
];

/// The row with an IOMMU.
pub(super) const IOMMU: Kind =
    ("iommu", "behind an Intel IOMMU: a dump, or a refusal when armed that says why", iommu);

/// The row of an NVMe disk as in servers.
pub(super) const JOINED: Kind = (
    "joined",
    "a disk in an NVMe subsystem, whose paths the kernel joins: dumped to by its one path",
    joined,
);

const ARMING: &str = r#"
disk=$(first_disk 20) || fail "there is no disk"
before=/dev/$(partition "$disk" 1)
target=/dev/$(partition "$disk" 2)
behind=/dev/$(partition "$disk" 3)
load_module
[ "$(cat $DISKDUMP/state)" = disarmed ] || fail "it begins as $(cat $DISKDUMP/state)"
refused label "target=$behind"
mke2fs "$before" >/dev/null 2>&1 || fail "no file system"
mkdir -p /mnt
mount -t ext2 "$before" /mnt || fail "nothing to mount"
refused "in use" "target=$before"
umount /mnt
mkswap "$behind" >/dev/null || fail "no swap"
swapon "$behind" || fail "no swap"
refused "in use" "target=$behind"
swapoff "$behind"
refused uuid "target=$target" uuid=00000000-0000-0000-0000-000000000001
refused level "target=$target" level=64
refused colour "target=$target" colour=blue
refused "not where this kernel" "target=$target" notes=0x1000000
[ "$(cat $DISKDUMP/state)" = refused ] || fail "the state is $(cat $DISKDUMP/state) after refusals"
arm "target=$target"
arm "target=$target" level=1
echo "target=$target" >$DISKDUMP/arm || fail "not armed without notes: $(cat $DISKDUMP/reason)"
grep -q '^notes=named' $DISKDUMP/status || fail "the module does not know where the kernel keeps registers"
arm "target=$target"
last result=none
echo nonsense 2>/dev/null >$DISKDUMP/last && fail "nonsense was taken for what became of a dump"
printf 'result=\033[31m\n' 2>/dev/null >$DISKDUMP/last && fail "orders to a terminal were taken"
last result=none
printf 'result=complete\nplace=/somewhere\n' >$DISKDUMP/last || fail "it is not to be told of a dump"
last result=complete place=/somewhere
arm "target=$target"
last result=complete place=/somewhere
# What is refused does not take away what was armed.
for words in "target=$behind" "target=$target level=64"; do
    echo "$words" 2>/dev/null >$DISKDUMP/arm && fail "armed, though it must not be: $words"
    [ "$(cat $DISKDUMP/state)" = armed ] || fail "not armed any more after '$words': $(cat $DISKDUMP/reason)"
    [ -n "$(cat $DISKDUMP/reason)" ] || fail "it is not said why '$words' was refused"
    grep -q "^target=$target" $DISKDUMP/status || fail "armed on something else after '$words'"
done
last result=complete place=/somewhere
mount -t ext2 "$target" /mnt 2>&1 | grep -q busy || fail "an armed target is not busy"
grep -q '^cpus=2' $DISKDUMP/status || fail "not armed for 2 CPUs"
echo 0 >/sys/devices/system/cpu/cpu1/online
soon cpus=1
echo 1 >/sys/devices/system/cpu/cpu1/online
soon cpus=2
echo 1 >$DISKDUMP/disarm
[ "$(cat $DISKDUMP/state)" = disarmed ] || fail "disarmed it is $(cat $DISKDUMP/state)"
arm "target=$target"
rmmod diskdump || fail "it cannot be unloaded"
[ -d $DISKDUMP ] && fail "something is left of it"
load_module "arm=\"target=$target\""
[ "$(cat $DISKDUMP/state)" = armed ] || fail "not armed by its parameter: $(cat $DISKDUMP/reason)"
rmmod diskdump
dmesg | grep -E 'BUG|WARNING|Call Trace' && fail "the kernel complains"
dmesg | grep 'nothing was armed for' && fail "it was disarmed while it was armed again"
dd if="$target" of=/dev/null bs=1M iflag=direct 2>/dev/null || fail "the disk does not work any more"
"#;

fn arming(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let guest = run::guest(lab, row, ARMING)?.module(lab.stock.which.ext2());
    let machine = run::machine(lab, row, &guest, &disk, "arming")?;
    let serial = run::finish(machine.start(&lab.folder, "arming")?)?;
    lab.savecore.expect(0, "check", &disk, &[]).context("the partition is not as it was")?;
    let refused = serial.lines().iter().filter(|line| line.text.contains("linux: refused: ")).count();
    ensure!(refused == 7, "{refused} refusals instead of 7");
    std::fs::remove_file(&disk.path)?;
    Ok(format!("{refused} refusals"))
}

/// Zeroes a block of the pattern.
const HARM: &str =
    "dd if=/dev/zero of=\"$target\" bs=4k seek=77 count=1 oflag=direct conv=notrunc 2>/dev/null";

/// Loads both, ours with these parameters; `harm` damages the disk after arming. Returns the serial log.
fn both(
    lab: &Lab,
    row: &Row,
    words: &str,
    harm: &str,
    name: &str,
) -> Result<(crate::image::Disk, crate::serial::Serial)> {
    let disk = run::disk(lab, "disk")?;
    let script = format!(
        "{KDUMP}\n{BEFORE}\nload_kdump\narm \"target=$target\" serial=0x3f8 {words}\n{harm}\n{CRASH}"
    );
    let guest = run::guest(lab, row, &script)?;
    let guest = kdump(guest, &lab.stock, row.device, Filter::Makedumpfile("-l -d 31"), &lab.folder)?;
    let machine = run::machine(lab, row, &guest, &disk, name)?
        .memory(run::MEMORY + 128)
        .word("crashkernel=128M")
        .word("crash_kexec_post_notifiers");
    let serial = run::crash(&machine, lab, name)?;
    Ok((disk, serial))
}

fn next(lab: &Lab, row: &Row) -> Result<String> {
    followed(lab, row, "verify=all", "refused")
}

fn early(lab: &Lab, row: &Row) -> Result<String> {
    followed(lab, row, "verify=ahead", "incomplete")
}

/// Our dump fails, prints `word`, and kdump follows.
fn followed(lab: &Lab, row: &Row, words: &str, word: &str) -> Result<String> {
    let (disk, serial) = both(lab, row, words, HARM, "next")?;
    let line =
        serial.lines().iter().find(|line| line.text.contains("diskdump: ") && line.text.contains(word));
    let line = line.with_context(|| format!("it was not {word}; log: {}", serial.path().display()))?;
    ensure!(
        serial.find("linux: kdump done").is_some(),
        "kdump's kernel did not write a dump within {} s; log: {}",
        LIMIT.as_secs(),
        serial.path().display()
    );
    std::fs::remove_file(&disk.path)?;
    Ok(line.text.clone())
}

fn first(lab: &Lab, row: &Row) -> Result<String> {
    let (disk, serial) = both(lab, row, "", "", "first")?;
    run::is_complete(&serial)?;
    ensure!(serial.find("linux: kdump begins").is_none(), "kdump ran, too");
    let cores = judge::save(lab, disk, row.cpus)?;
    let mut facts = vec![cores.facts.clone()];
    facts.extend(judge::tools(lab, &cores)?);
    cores.remove()?;
    Ok(facts.join(", "))
}

/// Without memory for a second arming, the first one's memory is reused. After that, arming is stuck in its
/// first read of the disk.
const BETWEEN: &str = r#"
harm tight
arm "target=$target" serial=0x3f8 level=30
dmesg | grep 'nothing was armed for' || fail "there was memory for two"
harm roomy
arm "target=$target" serial=0x3f8
harm slow
echo "target=$target level=1" >$DISKDUMP/arm &
sleep 1
take_time
before=$stamp
[ "$(cat $DISKDUMP/state)" = armed ] || fail "the state is $(cat $DISKDUMP/state) while it is armed again"
grep -q '^level=31' $DISKDUMP/status || fail "it is armed already"
take_time
[ $((stamp - before)) -lt 1000000 ] || fail "the state was told after $((stamp - before)) us"
crash_now
sleep 60
fail "it did not crash"
"#;

fn between(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let script = format!("{BEFORE}\ninsmod /faults.ko\narm \"target=$target\" serial=0x3f8\n{BETWEEN}");
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, row.what)?;
    let serial = run::crash(&machine, lab, row.what)?;
    run::is_complete(&serial)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, row.cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok(facts)
}

fn iommu(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    // A refusal is acceptable too, if it gives the reason.
    let script = format!(
        r#"{BEFORE}
dmesg | grep -q 'DMAR' || fail "there is no IOMMU"
[ -e "/sys/block/$disk/device/../iommu_group" ] || [ -n "$(ls /sys/kernel/iommu_groups)" ] || fail "the IOMMU is off"
if ! echo "target=$target serial=0x3f8 $(notes)" >$DISKDUMP/arm 2>/dev/null; then
    refused IOMMU "target=$target"
    exit 0
fi
say "armed"
{CRASH}"#
    );
    let guest = run::guest(lab, row, &script)?;
    let mut machine =
        run::machine(lab, row, &guest, &disk, "iommu")?.kind("q35").word("intel_iommu=on").word("iommu=nopt");
    machine.arguments.extend(["-machine", "kernel-irqchip=split", "-device", "intel-iommu,intremap=on"]);
    if row.device.driver == "virtio-blk" {
        // Otherwise it uses physical addresses, even with an IOMMU.
        for property in ["virtio-blk-pci.iommu_platform=on", "virtio-blk-pci.disable-legacy=on"] {
            machine.arguments.extend(["-global", property]);
        }
    }
    let serial = run::end(machine.start(&lab.folder, "iommu")?)?;
    if let Some(line) = serial.find("linux: refused: ") {
        std::fs::remove_file(&disk.path)?;
        return Ok(line.text.clone());
    }
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    let cores = judge::save(lab, disk, row.cpus)?;
    let facts = cores.facts.clone();
    judge::tools(lab, &cores)?;
    cores.remove()?;
    Ok(facts)
}

fn joined(lab: &Lab, row: &Row) -> Result<String> {
    let disk = run::disk(lab, "disk")?;
    let before = disk.rest_fingerprint()?;
    let script = format!(
        r#"{BEFORE}
case $(readlink -f "/sys/block/$disk") in
    */nvme-subsystem/*) ;;
    *) fail "its paths are not joined: $(readlink -f "/sys/block/$disk")" ;;
esac
arm "target=$target" serial=0x3f8
{CRASH}"#
    );
    let machine = run::machine(lab, row, &run::guest(lab, row, &script)?, &disk, "joined")?;
    let serial = run::crash(&machine, lab, "joined")?;
    run::is_complete(&serial)?;
    run::only_ours(&disk, before)?;
    let facts = judge::is_whole(&judge::info(lab, &disk)?, row.cpus)?;
    std::fs::remove_file(&disk.path)?;
    Ok(facts)
}

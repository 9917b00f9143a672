//! A stock Linux that crashes, as seen by QEMU: memory, registers, and the kernel's own VMCOREINFO.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dumpcore::format::note::{CpuCondition, CpuState};
use object::elf::{FileHeader64, NT_PRSTATUS};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};
use zerocopy::FromZeros;

use super::{Guest, Symbolised};
use crate::bed::Bed;
use crate::compare::{self, Segment};

/// What the guest does before it crashes: sleeping tasks, open files, memory in use and freed memory; pages
/// of all kinds, including huge ones.
const SCRIPT: &str = r#"
mount -t tmpfs none /tmp || fail "no tmpfs"
mkdir /tmp/many
i=0
while [ "$i" -lt 300 ]; do
    echo "this is file $i" >"/tmp/many/$i"
    i=$((i + 1))
done
dd if=/dev/urandom of=/tmp/random bs=1M count=12 2>/dev/null
tr '\000-\377' 'a-z\n0-9 a-z\n0-9 a-z\n0-9 a-z\n0-9 a-z\n0-9 ' </tmp/random >/tmp/text
dd if=/dev/urandom of=/tmp/gone bs=1M count=16 2>/dev/null
rm /tmp/gone
dd if=/dev/zero of=/tmp/image bs=1M count=4 2>/dev/null
losetup /dev/loop0 /tmp/image || fail "no loop device"
exec 9<>/dev/loop0
echo 4 >/proc/sys/vm/nr_hugepages
echo always >/sys/kernel/mm/transparent_hugepage/enabled
mkfifo /tmp/fifo
sleep 100000 </tmp/fifo &
dd if=/dev/urandom of=/tmp/fifo bs=8M count=1 2>/dev/null &
i=0
while [ "$i" -lt 12 ]; do
    sleep 100000 </tmp/text &
    i=$((i + 1))
done
while true; do :; done &
sleep 1
# Blocks that were written, in pages with buffers.
dd if=/dev/urandom of=/dev/loop0 bs=3k count=700 conv=notrunc 2>/dev/null
echo 1 >/proc/sys/kernel/sysrq
say "crashes now"
echo c >/proc/sysrq-trigger
"#;

/// Number of CPUs of the guest.
pub const CPUS: u32 = 2;

/// The last output of a crashed guest.
const LAST_WORDS: &str = "---[ end Kernel panic";

/// Under TCG, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A crashed Linux.
#[derive(Clone, Debug)]
pub struct Crashed {
    /// Its kernel with symbols.
    pub vmlinux: PathBuf,
    /// The kernel's release.
    pub release: String,
    /// QEMU's own core of it (ELF).
    pub core: PathBuf,
    /// Its RAM, as segments of that core.
    pub ram: Vec<Segment>,
    /// The registers of its CPUs.
    pub cpus: Vec<CpuState>,
    /// The kernel's VMCOREINFO.
    pub vmcoreinfo: Vec<u8>,
    /// Its console output.
    pub log: String,
}

/// Boots a stock Linux with this many MiB of RAM, lets it crash, and captures its memory. The files go into
/// `folder`.
///
/// # Errors
/// If the guest does not crash in time, or QEMU does not provide its state.
pub fn crash(linux: &Symbolised, memory: u32, folder: &Path) -> Result<Crashed> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let core = folder.join("qemu.elf");
    // With this module the kernel tells QEMU the address of its VMCOREINFO.
    let guest = Guest::new(&linux.stock, SCRIPT).module("qemu_fw_cfg").module("loop");
    let mut machine = guest
        .machine(Bed::usual(), folder, "crash")?
        .memory(memory)
        .cpus(CPUS)
        .word("panic=0")
        // As with kexec, the other CPUs are stopped by an NMI and stay online.
        .word("crash_kexec_post_notifiers");
    machine.arguments.extend(["-device", "vmcoreinfo"]);
    let mut running = machine.start(folder, "crash")?;
    running.wait_for(LAST_WORDS, LIMIT)?;
    running.qmp.stop()?;
    running.qmp.dump_guest_memory(&core)?;
    let log = fs::read_to_string(running.serial.path()).context("cannot read the guest's console")?;
    drop(running);

    let ram = compare::segments(&core)?;
    let ram: Vec<Segment> =
        ram.into_iter().filter(|segment| segment.physical < u64::from(memory) << 20).collect();
    let notes = notes(&core)?;
    let find = |name: &'static [u8]| notes.iter().filter(move |note| note.name == name);
    let vmcoreinfo = find(b"VMCOREINFO").next().context("the guest told QEMU no VMCOREINFO")?;
    let mut cpus = Vec::new();
    let general = find(b"CORE").filter(|note| note.kind == NT_PRSTATUS);
    for (number, (general, control)) in (0..).zip(general.zip(find(b"QEMU"))) {
        cpus.push(cpu(number, &general.bytes, &control.bytes)?);
    }
    ensure!(cpus.len() == CPUS as usize, "QEMU's core has {} CPUs instead of {CPUS}", cpus.len());
    let crashed = crashed_cpu(&log).context("the log does not say which CPU crashed")?;
    for state in &mut cpus {
        let crashed = state.cpu.get() == crashed;
        state.condition =
            (if crashed { CpuCondition::Crashing } else { CpuCondition::Stopped } as u32).into();
    }
    Ok(Crashed {
        vmlinux: linux.vmlinux.clone(),
        release: linux.stock.release.clone(),
        core,
        ram,
        cpus,
        vmcoreinfo: vmcoreinfo.bytes.clone(),
        log,
    })
}

/// The CPU number in `CPU: 1 PID: 1 Comm: sh …`.
fn crashed_cpu(log: &str) -> Option<u32> {
    let words = log.lines().rev().find_map(|line| line.split_once("CPU: "))?.1;
    words.split_whitespace().next()?.parse().ok()
}

/// A note in a core.
struct Note {
    name: Vec<u8>,
    kind: u32,
    bytes: Vec<u8>,
}

fn notes(core: &Path) -> Result<Vec<Note>> {
    let cache = ReadCache::new(File::open(core).with_context(|| format!("cannot open {}", core.display()))?);
    let header = FileHeader64::<Endianness>::parse(&cache)?;
    let endian = header.endian()?;
    let mut found = Vec::new();
    for entry in header.program_headers(endian, &cache)? {
        let Some(mut notes) = entry.notes(endian, &cache)? else { continue };
        while let Some(note) = notes.next()? {
            found.push(Note {
                name: note.name().to_vec(),
                kind: note.n_type(endian),
                bytes: note.desc().to_vec(),
            });
        }
    }
    Ok(found)
}

/// Registers of a CPU, from QEMU's notes: a `struct elf_prstatus` (Linux, include/linux/elfcore.h), and a
/// `QEMUCPUState` (QEMU, target/i386/arch_dump.c).
fn cpu(number: u32, general: &[u8], control: &[u8]) -> Result<CpuState> {
    const GENERAL: usize = 112;
    const CONTROL: usize = 8 + 18 * 8 + 10 * 24;
    // SCE, LME, LMA and NX: QEMU does not export EFER, and a 64-bit Linux always has this value.
    const EFER: u64 = 0xd01;
    let mut state = CpuState::new_zeroed();
    state.cpu = number.into();
    let words = |bytes: &[u8], from: usize, count: usize| {
        let bytes = bytes.get(from..from + count * 8)?;
        Some(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<u64>>())
    };
    let (Some(general), Some(control)) = (words(general, GENERAL, 27), words(control, CONTROL, 5)) else {
        bail!("QEMU's notes of CPU {number} are too short");
    };
    for (slot, register) in state.general.iter_mut().zip(general) {
        *slot = register.into();
    }
    let [cr0, _, cr2, cr3, cr4] = control[..] else { bail!("QEMU's notes of CPU {number} are too short") };
    for (slot, register) in state.control.iter_mut().zip([cr0, cr2, cr3, cr4, EFER]) {
        *slot = register.into();
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_that_crashed_is_the_last_one_that_says_so() {
        let log = "[    0.1] CPU: 0 PID: 1 Comm: swapper Not tainted\n[    2.2] CPU: 1 PID: 88 Comm: sh\n[   2.3] RIP";
        assert_eq!(crashed_cpu(log), Some(1));
        assert_eq!(crashed_cpu("nothing"), None);
    }
}

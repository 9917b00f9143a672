//! QEMU writes cores too: from the same registers, it and savecore must write the same bytes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dumpcore::format::header::Arch;
use object::LittleEndian as LE;
use object::elf::{FileHeader64, NT_PRSTATUS};
use object::read::elf::FileHeader;

use crate::common::{Machine, partition, write_dump};
use crate::core::{Core, core_of};

/// Offset of the registers in an NT_PRSTATUS note.
const REGISTERS: usize = 112;

/// A machine whose first CPU puts 0x100 + n into each general register n, then loops.
struct Guest {
    arch: Arch,
    qemu: &'static str,
    arguments: &'static [&'static str],
    /// Where its program begins.
    start: u64,
    program: Vec<u32>,
}

fn guests() -> [Guest; 2] {
    // movz xN, #(0x100 + N); mov sp, x30; b .
    let load = |n: u32| 0xd280_0000 | (0x100 + n) << 5 | n;
    let aarch64 = (0..31).map(load).chain([0x9100_03df, 0x1400_0000]).collect();
    // addi xN, zero, 0x100 + N; j .
    let load = |n: u32| (0x100 + n) << 20 | n << 7 | 0x13;
    let riscv64 = (1..32).map(load).chain([0x0000_006f]).collect();
    [
        Guest {
            arch: Arch::Aarch64,
            qemu: "qemu-system-aarch64",
            arguments: &["-cpu", "cortex-a57", "-device", "loader,addr=0x40100000,cpu-num=0"],
            start: 0x4010_0000,
            program: aarch64,
        },
        Guest {
            arch: Arch::Riscv64,
            qemu: "qemu-system-riscv64",
            arguments: &["-bios", "none"],
            start: 0x8000_0000,
            program: riscv64,
        },
    ]
}

impl Guest {
    /// Where its program ends in a loop.
    fn end(&self) -> u64 {
        self.start + self.program.len() as u64 * 4 - 4
    }

    /// The values of all registers at the end, in the order of
    /// [`CpuState`](dumpcore::format::note::CpuState), except the processor's flags.
    fn registers(&self) -> Vec<u64> {
        match self.arch {
            Arch::Aarch64 => (0x100..=0x11e).chain([0x11e, self.end()]).collect(),
            _ => [self.end()].into_iter().chain(0x101..=0x11f).collect(),
        }
    }

    /// QEMU's core of the guest, `patience` after its start.
    fn core(&self, folder: &Path, patience: Duration) -> Vec<u8> {
        let (program, core) = (folder.join("program"), folder.join("qemu.core"));
        fs::write(&program, self.program.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
            .unwrap();
        let loader = format!("loader,file={},addr={:#x},force-raw=on", program.display(), self.start);
        let mut qemu = Command::new(self.qemu)
            .args([
                "-accel",
                "tcg",
                "-M",
                "virt",
                "-m",
                "16M",
                "-smp",
                "2",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args(["-monitor", "stdio", "-device", &loader])
            .args(self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} is needed for this test: {error}", self.qemu));
        sleep(patience);
        let commands = format!("stop\ndump-guest-memory {}\nquit\n", core.display());
        qemu.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(qemu.wait().unwrap().success());
        fs::read(core).unwrap()
    }
}

#[test]
fn registers_stand_where_qemu_puts_them_in_its_own_cores() {
    for guest in guests() {
        let folder = tempfile::tempdir().unwrap();
        let expected = guest.registers();
        // On a busy host, the program may not have finished yet.
        let judged = (0..6).find_map(|attempt| {
            let core = guest.core(folder.path(), Duration::from_millis(300 << attempt));
            let header = FileHeader64::<LE>::parse(&*core).unwrap();
            let facts = (header.e_machine(LE), header.e_flags(LE), header.e_ident().class);
            let (_, _, note) =
                Core::parse(&core).notes().into_iter().find(|(_, kind, _)| *kind == NT_PRSTATUS).unwrap();
            let words: Vec<u64> = note[REGISTERS..]
                .as_chunks::<8>()
                .0
                .iter()
                .take(expected.len())
                .map(|word| u64::from_le_bytes(*word))
                .collect();
            (words == expected).then_some((facts, note))
        });
        let (facts, note) = judged.expect("QEMU's guest does not come to the end of its program");

        let mut machine = Machine::small();
        machine.arch = guest.arch;
        for (slot, value) in machine.cpus[0].general.iter_mut().zip(&expected) {
            *slot = (*value).into();
        }
        if guest.arch == Arch::Aarch64 {
            let flags = note[REGISTERS + 33 * 8..].first_chunk().unwrap();
            machine.cpus[0].general[33] = u64::from_le_bytes(*flags).into();
        }
        let mut disk = partition(200);
        write_dump(&mut disk, 1, &machine);
        let (core, _) = core_of(&disk);
        let header = FileHeader64::<LE>::parse(&*core).unwrap();
        assert_eq!((header.e_machine(LE), header.e_flags(LE), header.e_ident().class), facts);
        let (owner, kind, ours) = Core::parse(&core).notes().swap_remove(0);
        assert_eq!((owner.as_str(), kind), ("CORE", NT_PRSTATUS));
        assert_eq!(ours.len(), note.len());
        // The last word says whether floating-point registers follow. A dump has none.
        let end = note.len() - 8;
        assert_eq!(ours[REGISTERS..end], note[REGISTERS..end], "{:?}", guest.arch);
        assert_eq!(ours[end..], [0; 8]);
    }
}

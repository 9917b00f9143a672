//! QEMU's processors translate addresses: savecore's walk must agree with them on random page tables.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dumpcore::format::Block;
use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use savecore::corefile::pagetable::{Mapping, Paging, walk};
use zerocopy::FromZeros;

/// Where the tables are, as an offset in memory; each has 64 KiB.
const TABLES: u64 = 0x10_0000;
const TABLE: u64 = 0x1_0000;
/// Tables per level.
const OF_A_LEVEL: u64 = 3;

/// A machine with page tables.
struct Guest {
    name: &'static str,
    arch: Arch,
    qemu: &'static str,
    arguments: &'static [&'static str],
    ram: u64,
    /// Where the program goes.
    start: u64,
    /// Bits of a page's size, and bits of a virtual address.
    page_bits: u32,
    bits: u32,
    /// The highest level at which entries may map blocks. QEMU 7.2 maps them above it too, on aarch64.
    blocks: u32,
    /// Whether the upper bits of an address are ones: always, never, or like the highest translated bit.
    upper: Option<bool>,
    /// Control registers that point to the topmost table at this address.
    control: fn(u64) -> [u64; 8],
    /// An entry that points to a table, or maps a page or a larger block, with random bits that have no
    /// effect.
    entry: fn(Entry, u64, u64) -> u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Table,
    Page,
    Block,
}

fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 31
    }
}

impl Guest {
    fn levels(&self) -> u32 {
        (self.bits - self.page_bits).div_ceil(self.page_bits - 3)
    }

    /// Address bits below those that select an entry at a level; level 1 is the last.
    fn shift(&self, level: u32) -> u32 {
        self.page_bits + (self.page_bits - 3) * (level - 1)
    }

    fn entries(&self, level: u32) -> u64 {
        1 << (self.bits - self.shift(level)).min(self.page_bits - 3)
    }

    fn place(&self, level: u32, number: u64) -> u64 {
        self.ram + TABLES + (u64::from(level) * OF_A_LEVEL + number) * TABLE
    }

    /// Entries of a level that are in use, and one that is not.
    fn indices(&self, level: u32) -> Vec<u64> {
        let all = self.entries(level);
        let mut indices = vec![0, 1 % all, 7 % all, all / 2, all - 1];
        indices.dedup();
        indices
    }

    /// Random tables from [`TABLES`] on; the topmost is number 0 of the highest level. Only the first and the
    /// last entry of each point to others, so that savecore does not reach any table so often that it leaves
    /// it out.
    fn tables(&self, seed: u64) -> Vec<u8> {
        let mut number = numbers(seed);
        let mut image = vec![0; ((u64::from(self.levels()) + 1) * OF_A_LEVEL * TABLE) as usize];
        for (level, table) in (1..=self.levels()).flat_map(|level| (0..OF_A_LEVEL).map(move |n| (level, n))) {
            for index in self.indices(level).into_iter().filter(|index| *index != 7) {
                let random = number();
                let next = (table * 2 + u64::from(index > 0)) % OF_A_LEVEL;
                let points = index == 0 || index == self.entries(level) - 1;
                let entry = match number() % 8 {
                    0 if !points || level < self.levels() => random & !1,
                    _ if level == 1 => (self.entry)(Entry::Page, random.rotate_left(20), random),
                    ..7 if points => (self.entry)(Entry::Table, self.place(level - 1, next), random),
                    _ if level > self.blocks => 0,
                    _ => (self.entry)(Entry::Block, random.rotate_left(20), random),
                };
                let at = (self.place(level, table) - self.ram - TABLES + index * 8) as usize;
                image[at..at + 8].copy_from_slice(&entry.to_le_bytes());
            }
        }
        image
    }

    /// Addresses that the tables may map, and some of those that savecore finds mapped.
    fn addresses(&self, seed: u64, found: &BTreeMap<u64, Mapping>) -> Vec<u64> {
        let mut number = numbers(seed);
        let mut address = || {
            let indices = (1..=self.levels()).map(|level| {
                let all = self.indices(level);
                all[number() as usize % all.len()] << self.shift(level)
            });
            let virt: u64 = indices.sum::<u64>() + 0x128;
            let ones = self.upper.unwrap_or(virt >> (self.bits - 1) == 1);
            if ones { virt | u64::MAX << self.bits } else { virt }
        };
        let mut addresses: Vec<u64> = (0..60).map(|_| address()).collect();
        let some = found.values().step_by(found.len().div_ceil(40));
        addresses.extend(some.map(|mapping| mapping.virt + number() % mapping.length));
        addresses
    }

    /// What savecore finds.
    fn walk(&self, control: [u64; 8], tables: &[u8]) -> BTreeMap<u64, Mapping> {
        let mut state = CpuState::new_zeroed();
        state.control = control.map(Into::into);
        let Paging::On { roots, refused: None } = Paging::of(self.arch, &state) else {
            panic!("{}: no tables", self.name)
        };
        let mut read = |pfn: u64| -> Option<Box<Block>> {
            let at = (pfn * 4096).checked_sub(self.ram + TABLES)? as usize;
            Some(Box::new(tables.get(at..at + 4096)?.try_into().unwrap()))
        };
        let mut found = BTreeMap::new();
        let walked = walk(&roots, &mut read, &mut |mapping| {
            assert_eq!(found.insert(mapping.virt, mapping), None);
            ControlFlow::Continue(())
        });
        assert_eq!((walked.missing, walked.repeated, walked.cut_short), (0, 0, false));
        found
    }

    /// Machine code that loads the control registers, then loops, with or without faults.
    fn program(&self, control: [u64; 8]) -> Vec<u8> {
        let code: Vec<u32> = match self.arch {
            Arch::Aarch64 => vec![
                // adr x4, .+64; ldr x0 … x3, [x4, #0 …]
                0x1000_0204,
                0xf940_0080,
                0xf940_0481,
                0xf940_0882,
                0xf940_0c83,
                // msr ttbr0_el1, x0; ttbr1_el1, x1; tcr_el1, x2; isb; sctlr_el1, x3; isb; b .
                0xd518_2000,
                0xd518_2021,
                0xd518_2042,
                0xd503_3fdf,
                0xd518_1003,
                0xd503_3fdf,
                0x1400_0000,
            ],
            _ => vec![
                // auipc a0, 0; ld t0, 64(a0); csrw satp, t0
                0x0000_0517,
                0x0405_3283,
                0x1802_9073,
                // Supervisor mode may use all memory: li t1, -1; csrw pmpaddr0, t1; csrw medeleg, t1; li t1,
                // 31; csrw pmpcfg0, t1
                0xfff0_0313,
                0x3b03_1073,
                0x3023_1073,
                0x01f0_0313,
                0x3a03_1073,
                // Enters supervisor mode at the last instruction: ld t1, 72(a0); csrw mstatus, t1; addi t1,
                // a0, 60; csrw mepc, t1; csrw stvec, t1; mret; nop; j .
                0x0485_3303,
                0x3003_1073,
                0x03c5_0313,
                0x3413_1073,
                0x1053_1073,
                0x3020_0073,
                0x0000_0013,
                0x0000_006f,
            ],
        };
        let mut bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(64, 0);
        let data = if self.arch == Arch::Aarch64 { control } else { [control[0], 1 << 11, 0, 0, 0, 0, 0, 0] };
        bytes.extend(data.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// How QEMU's processor translates the addresses, `patience` after its start.
    fn translate(&self, folder: &Path, addresses: &[u64], patience: Duration) -> Vec<Option<u64>> {
        let loader = |name: &str, address: u64| {
            format!("loader,file={},addr={address:#x},force-raw=on", folder.join(name).display())
        };
        let mut qemu = Command::new(self.qemu)
            .args(["-accel", "tcg", "-M", "virt", "-m", "16M", "-nodefaults", "-display", "none"])
            .args(["-monitor", "stdio", "-device", &loader("program", self.start)])
            .args(["-device", &loader("tables", self.ram + TABLES)])
            .args(self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} is needed for this test: {error}", self.qemu));
        sleep(patience);
        let mut commands = "stop\n".to_owned();
        commands.extend(addresses.iter().map(|address| format!("gva2gpa {address:#x}\n")));
        commands.push_str("quit\n");
        let mut monitor = qemu.stdin.take().unwrap();
        // QEMU's answers must be read while the questions are written.
        let asked = std::thread::spawn(move || monitor.write_all(commands.as_bytes()));
        let output = qemu.wait_with_output().unwrap();
        asked.join().unwrap().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers = text.lines().filter_map(|line| match line.trim().strip_prefix("gpa: 0x") {
            Some(address) => Some(Some(u64::from_str_radix(address, 16).unwrap())),
            None => (line.trim() == "Unmapped").then_some(None),
        });
        answers.collect()
    }
}

fn riscv64(name: &'static str, bits: u32, control: fn(u64) -> [u64; 8]) -> Guest {
    Guest {
        name,
        arch: Arch::Riscv64,
        qemu: "qemu-system-riscv64",
        arguments: &["-bios", "none", "-cpu", "rv64,svnapot=on,svpbmt=on"],
        ram: 0x8000_0000,
        start: 0x8000_0000,
        page_bits: 12,
        bits,
        blocks: 5,
        upper: None,
        control,
        entry: |entry, address, random| {
            let ppn = address >> 12 & 0xfff_ffff_ffff;
            match entry {
                Entry::Table => ppn << 10 | random >> 9 & 0x300 | 1,
                // One in four is a 64 KiB page, and one in eight of those has a reserved size.
                Entry::Page if random.is_multiple_of(4) => {
                    let size = if random.is_multiple_of(32) { 4 } else { 8 };
                    1 << 63 | (ppn & !0xf | size) << 10 | 0xc3
                }
                Entry::Page => (random >> 9 & 1) << 61 | ppn << 10 | random >> 9 & 0x32c | 0xc3,
                // Most are aligned for the largest size.
                Entry::Block if random.is_multiple_of(8) => ppn << 10 | 0xc3,
                Entry::Block => (ppn & !0xfff_ffff) << 10 | 0xcf,
            }
        },
    }
}

/// Attributes that any aarch64 page may have; its access flag is set, and the kernel may read it.
fn attributes(random: u64) -> u64 {
    random & 0x0060_0000_0000_0880 | 0x400
}

fn aarch64(
    name: &'static str,
    upper: bool,
    (page_bits, bits, blocks): (u32, u32, u32),
    control: fn(u64) -> [u64; 8],
    entry: fn(Entry, u64, u64) -> u64,
) -> Guest {
    Guest {
        name,
        arch: Arch::Aarch64,
        qemu: "qemu-system-aarch64",
        arguments: &["-cpu", "max", "-device", "loader,addr=0x40800000,cpu-num=0"],
        ram: 0x4000_0000,
        start: 0x4080_0000,
        page_bits,
        bits,
        blocks,
        upper: Some(upper),
        control,
        entry,
    }
}

/// An entry with an address of 48 bits.
fn entry48(entry: Entry, address: u64, random: u64) -> u64 {
    match entry {
        Entry::Table => address | 3,
        Entry::Page => address & 0xffff_ffff_0000 | attributes(random) | 3,
        Entry::Block => address & 0xff80_0000_0000 | attributes(random) | 1,
    }
}

/// An entry with an address of 52 bits, whose upper bits are in the low bits.
fn entry52(entry: Entry, address: u64, random: u64) -> u64 {
    let upper = random >> 20 & 3;
    match entry {
        Entry::Table => address | 3,
        Entry::Page => address & 0x3_ffff_ffff_0000 | upper << 8 | attributes(random) | 3,
        Entry::Block => address & 0x3_ff80_0000_0000 | upper << 8 | attributes(random) | 1,
    }
}

/// The same with pages of 64 KiB.
fn entry64k(entry: Entry, address: u64, random: u64) -> u64 {
    let upper = if entry == Entry::Table { 0 } else { random >> 20 & 0xf };
    entry48(entry, address, random) | upper << 12
}

const SCTLR: u64 = 0x30d0_1805;
const EPD0: u64 = 1 << 7;
const EPD1: u64 = 1 << 23;
const DS: u64 = 1 << 59;
const IPS48: u64 = 5 << 32;
const IPS52: u64 = 6 << 32;

fn guests() -> Vec<Guest> {
    vec![
        riscv64("Sv39", 39, |root| [8 << 60 | root >> 12, 0, 0, 0, 0, 0, 0, 0]),
        riscv64("Sv48", 48, |root| [9 << 60 | root >> 12, 0, 0, 0, 0, 0, 0, 0]),
        riscv64("Sv57", 57, |root| [10 << 60 | root >> 12, 0, 0, 0, 0, 0, 0, 0]),
        aarch64(
            "4 KiB, 39 bits, upper half",
            true,
            (12, 39, 3),
            |root| [0, root, 25 << 16 | 2 << 30 | EPD0 | IPS48, SCTLR, 0, 0, 0, 0],
            entry48,
        ),
        aarch64(
            "4 KiB, 48 bits, lower half",
            false,
            (12, 48, 3),
            |root| [root, 0, 16 | EPD1 | IPS48, SCTLR, 0, 0, 0, 0],
            entry48,
        ),
        aarch64(
            "4 KiB, 32 bits, lower half",
            false,
            (12, 32, 3),
            |root| [root, 0, 32 | EPD1 | IPS48, SCTLR, 0, 0, 0, 0],
            entry48,
        ),
        aarch64(
            "16 KiB, 48 bits, upper half",
            true,
            (14, 48, 2),
            |root| [0, root, 16 << 16 | 1 << 30 | EPD0 | IPS48, SCTLR, 0, 0, 0, 0],
            entry48,
        ),
        aarch64(
            "64 KiB, 42 bits, lower half",
            false,
            (16, 42, 3),
            |root| [root, 0, 22 | 1 << 14 | EPD1 | IPS52, SCTLR, 0, 0, 0, 0],
            entry64k,
        ),
        aarch64(
            "64 KiB, 52 bits, upper half",
            true,
            (16, 52, 3),
            |root| [0, root, 12 << 16 | 3 << 30 | EPD0 | IPS52, SCTLR, 0, 0, 0, 0],
            entry64k,
        ),
        aarch64(
            "4 KiB, 52 bits, upper half",
            true,
            (12, 52, 4),
            |root| [0, root, 12 << 16 | 2 << 30 | EPD0 | IPS52 | DS, SCTLR, 0, 0, 0, 0],
            entry52,
        ),
        aarch64(
            "16 KiB, 52 bits, lower half",
            false,
            (14, 52, 3),
            |root| [root, 0, 12 | 2 << 14 | EPD1 | IPS52 | DS, SCTLR, 0, 0, 0, 0],
            entry52,
        ),
    ]
}

#[test]
fn random_page_tables_map_what_qemus_processor_translates() {
    for (seed, guest) in (1..).zip(guests()) {
        let folder = tempfile::tempdir().unwrap();
        let tables = guest.tables(seed);
        let control = (guest.control)(guest.place(guest.levels(), 0));
        let found = guest.walk(control, &tables);
        fs::write(folder.path().join("tables"), &tables).unwrap();
        fs::write(folder.path().join("program"), guest.program(control)).unwrap();
        let addresses = guest.addresses(seed, &found);
        let ours: Vec<Option<u64>> = (addresses.iter())
            .map(|virt| {
                let (_, mapping) = found.range(..=virt).next_back()?;
                let inside = virt - mapping.virt;
                (inside < mapping.length).then(|| mapping.phys + inside)
            })
            .collect();
        let mapped = ours.iter().flatten().count();
        assert!(mapped >= 10 && mapped + 10 < addresses.len(), "{}: {mapped} are mapped", guest.name);
        // On a busy host, the program may not have finished yet.
        let mut theirs = Vec::new();
        for attempt in 0..5 {
            theirs = guest.translate(folder.path(), &addresses, Duration::from_millis(300 << attempt));
            if theirs == ours {
                break;
            }
        }
        assert_eq!(theirs.len(), ours.len(), "{}", guest.name);
        let differences: Vec<_> = addresses
            .iter()
            .zip(ours.iter().zip(&theirs))
            .filter(|(_, (ours, theirs))| ours != theirs)
            .collect();
        assert!(differences.is_empty(), "{}: address, savecore, QEMU: {differences:#x?}", guest.name);
    }
}

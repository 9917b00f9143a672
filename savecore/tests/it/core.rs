//! The ELF core, read back by others: the object crate, readelf and gdb.
//!
//! One file: a list of independent tests.

use std::fs;
use std::process::Command;

use dumpcore::format::chunk::MAX_RUNS;
use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuCondition;
use object::LittleEndian as LE;
use object::elf::{FileHeader64, NT_PRSTATUS, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use proptest::prelude::*;
use savecore::corefile::elf::{self, Unwalked, Written, physical_window};
use savecore::corefile::{CoreOptions, FACTS_NAME, FACTS_TYPE, Sink};
use savecore::dump::Dump;
use savecore::partition;
use zerocopy::IntoBytes;

use crate::common::{Machine, Page, block_mut, cpu, partition, write_dump};

/// A core as the object crate reads it.
pub(crate) struct Core<'d> {
    data: &'d [u8],
    header: &'d FileHeader64<LE>,
    segments: &'d [ProgramHeader64<LE>],
}

impl<'d> Core<'d> {
    pub(crate) fn parse(data: &'d [u8]) -> Core<'d> {
        let header = FileHeader64::<LE>::parse(data).unwrap();
        let segments = header.program_headers(LE, data).unwrap();
        Core { data, header, segments }
    }

    fn loads(&self) -> impl Iterator<Item = &'d ProgramHeader64<LE>> {
        self.segments.iter().filter(|segment| segment.p_type(LE) == PT_LOAD)
    }

    fn bytes(
        &self,
        address: u64,
        length: u64,
        base: impl Fn(&ProgramHeader64<LE>) -> u64,
    ) -> Option<Vec<u8>> {
        let mut hits = self.loads().filter_map(|segment| {
            let inside = address.checked_sub(base(segment))?;
            let bytes = segment.data(LE, self.data).unwrap();
            bytes.get(inside as usize..(inside + length) as usize).map(<[u8]>::to_vec)
        });
        let first = hits.next();
        // Segments that have the same address have the same bytes there.
        assert!(hits.all(|other| Some(other) == first));
        first
    }

    pub(crate) fn physical(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        self.bytes(address, length, |segment| segment.p_paddr(LE))
    }

    fn virt(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        self.bytes(address, length, |segment| segment.p_vaddr(LE))
    }

    /// Owner, type and bytes of each note.
    pub(crate) fn notes(&self) -> Vec<(String, u32, Vec<u8>)> {
        assert_eq!(self.segments[0].p_type(LE), PT_NOTE);
        let mut notes = self.segments[0].notes(LE, self.data).unwrap().unwrap();
        let mut all = Vec::new();
        while let Some(note) = notes.next().unwrap() {
            all.push((
                String::from_utf8(note.name().to_vec()).unwrap(),
                note.n_type(LE),
                note.desc().to_vec(),
            ));
        }
        all
    }
}

pub(crate) fn core_of(disk: &Vec<u8>) -> (Vec<u8>, Written) {
    let partition = partition::scan(disk).unwrap();
    let dump = Dump::open(disk, &partition, &partition.dumps[0]);
    let mut core = Vec::new();
    let written = elf::write(&dump, &CoreOptions::default(), &mut core, &mut ()).unwrap();
    assert_eq!(written.length, core.len() as u64);
    (core, written)
}

fn table(entries: &[(usize, u64)]) -> Page {
    let mut bytes = Box::new([0; 4096]);
    for (index, entry) in entries {
        bytes[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
    }
    Page::Data(bytes)
}

/// A kernel whose memory is mapped as [`mapped`] says.
struct Kernel {
    arch: Arch,
    /// Where pages 16 to 31 are mapped as small pages.
    small: u64,
    /// Where the first 2 MiB of memory are mapped as a large page.
    large: u64,
    /// Indices on the way to the first small page, from the second level down, and to the large one.
    tops: (usize, usize),
    /// An entry that points to a table, one that maps a page, and one that maps a large page.
    entries: fn(u64) -> [u64; 3],
    /// Control registers, with the topmost table in a page.
    control: fn(u64) -> [u64; 8],
    /// gdb's names for the architecture and the program counter, and the latter's index among the registers.
    gdb: (&'static str, &'static str, usize),
    /// Bytes of an NT_PRSTATUS note, and number of registers in it.
    prstatus: (usize, usize),
}

const KERNELS: [Kernel; 3] = [
    Kernel {
        arch: Arch::X86_64,
        small: 0xffff_8000_0020_0000,
        large: 0xffff_ffff_8000_0000,
        tops: (256, 511),
        entries: |pfn| [pfn << 12 | 3, pfn << 12 | 3, pfn << 12 | 0x83],
        control: |root| [0x8000_0011, 0, root << 12 | 0x18, 0x20, 0xd00, 0, 0, 0],
        gdb: ("i386:x86-64", "$rip", 16),
        prstatus: (336, 27),
    },
    Kernel {
        arch: Arch::Aarch64,
        small: 0xffff_ff80_0020_0000,
        large: 0xffff_ffff_8000_0000,
        tops: (0, 510),
        entries: |pfn| [pfn << 12 | 3, pfn << 12 | 0x703, pfn << 12 | 0x701],
        control: |root| [(root + 1) << 12, 1 << 48 | root << 12, 0x5_b519_3519, 0x34d5_d91d, 0, 0, 0, 0],
        gdb: ("aarch64", "$pc", 32),
        prstatus: (392, 34),
    },
    Kernel {
        arch: Arch::Riscv64,
        small: 0xffff_ffc0_0020_0000,
        large: 0xffff_ffff_8000_0000,
        tops: (256, 510),
        entries: |pfn| [pfn << 10 | 1, pfn << 10 | 0xcf, pfn << 10 | 0xcf],
        control: |root| [8 << 60 | root, 0x2_0000_0100, 0, 0, 0, 0, 0, 0],
        gdb: ("riscv:rv64", "$pc", 0),
        prstatus: (376, 32),
    },
];

/// Kernel memory at pages 16 to 31, mapped as small pages; page 20 is not mapped; and the first 2 MiB of
/// memory mapped as a large one.
fn mapped(kernel: &Kernel) -> Machine {
    let mut machine = Machine::new();
    machine.arch = kernel.arch;
    for pfn in 16..32 {
        machine.pages.insert(pfn, Page::of(pfn));
    }
    machine.pages.insert(24, Page::Zero);
    machine.pages.insert(26, Page::Unreadable);
    let to = |pfn| (kernel.entries)(pfn)[0];
    let (small, large) = kernel.tops;
    machine.pages.insert(0x100, table(&[(small, to(0x101)), (large, to(0x104))]));
    if kernel.arch == Arch::X86_64 {
        // One more level.
        machine.pages.insert(0x101, table(&[(0, to(0x102))]));
        machine.pages.insert(0x104, table(&[(510, to(0x105))]));
    } else {
        machine.pages.insert(0x100, table(&[(small, to(0x102)), (large, to(0x105))]));
        // Used only on aarch64, whose lower half has tables of its own: the first GiB of memory at 1 GiB.
        machine.pages.insert(0x101, table(&[(1, (kernel.entries)(0)[2])]));
        machine.pages.insert(0x104, Page::of(1));
    }
    machine.pages.insert(0x102, table(&[(1, to(0x103))]));
    let pages: Vec<_> =
        (0..16).filter(|n| *n != 4).map(|n| (n, (kernel.entries)(16 + n as u64)[1])).collect();
    machine.pages.insert(0x103, table(&pages));
    machine.pages.insert(0x105, table(&[(0, (kernel.entries)(0)[2])]));
    machine.cpus[0].control = (kernel.control)(0x100).map(Into::into);
    for (number, cpu) in machine.cpus.iter_mut().enumerate() {
        for (index, register) in cpu.general.iter_mut().take(kernel.prstatus.1).enumerate().skip(27) {
            *register = (0x1000 * (number as u64 + 1) + index as u64).into();
        }
    }
    machine
}

#[test]
fn virtual_segments_show_what_the_page_tables_map_and_nothing_else() {
    for kernel in &KERNELS {
        let machine = mapped(kernel);
        let mut disk = partition(200);
        write_dump(&mut disk, 1, &machine);
        let (core, written) = core_of(&disk);
        let core = Core::parse(&core);
        let window = physical_window(Some(kernel.arch));
        for pfn in 16..32_u64 {
            let known = match &machine.pages[&pfn] {
                Page::Data(bytes) => Some(bytes.to_vec()),
                Page::Zero => Some(vec![0; 4096]),
                _ => None,
            };
            let mapped = if pfn == 20 { None } else { known.clone() };
            assert_eq!(core.virt(kernel.small + (pfn - 16) * 4096, 4096), mapped, "page {pfn}");
            assert_eq!(core.virt(kernel.large + pfn * 4096, 4096), known, "page {pfn}");
            assert_eq!(core.virt(window + pfn * 4096, 4096), known, "page {pfn}");
            assert_eq!(core.physical(pfn * 4096, 4096), known, "page {pfn}");
        }
        // Pages 16-19, 21-25 and 27-31 by small pages; 16-25, 27-31, 0x100-0x105 by the large one.
        let (segments, tables) = match kernel.arch {
            Arch::X86_64 => (6, 6),
            // The lower half's tables add the same ranges again.
            Arch::Aarch64 => (9, 5),
            Arch::Riscv64 => (6, 4),
        };
        assert_eq!((written.virtual_segments, written.physical_segments), (segments, 3));
        let walked = written.walked.map(|walked| (walked.tables, walked.missing));
        assert_eq!((walked, written.unwalked), (Some((tables, 0)), None));
        assert_eq!(core.virt((1 << 30) + (17 << 12), 4096).is_some(), kernel.arch == Arch::Aarch64);
        assert_eq!(core.virt(0, 8), None, "a null pointer must not be readable");
        let first = core.loads().next().unwrap();
        assert_eq!(first.p_align(LE), 0, "crash would take it for the netdump kind");
    }
}

#[test]
fn without_page_tables_memory_is_there_by_physical_address() {
    let mut machine = mapped(&KERNELS[0]);
    let mut disk = partition(200);
    machine.pages.remove(&0x100);
    write_dump(&mut disk, 1, &machine);
    let (core, written) = core_of(&disk);
    assert_eq!(written.walked.map(|walked| walked.missing), Some(1));
    assert_eq!(written.virtual_segments, 0);
    let core = Core::parse(&core);
    assert_eq!(core.virt(16 << 12, 4096), core.physical(16 << 12, 4096));
    assert!(core.virt(16 << 12, 4096).is_some());
}

#[test]
fn why_page_tables_were_not_walked_is_said_by_name() {
    let written = |arch, control: [u64; 8]| {
        let mut machine = Machine::small();
        machine.arch = arch;
        machine.cpus[0].control = control.map(Into::into);
        let mut disk = partition(200);
        write_dump(&mut disk, 1, &machine);
        let (core, written) = core_of(&disk);
        let core = Core::parse(&core);
        assert_eq!(core.virt(1 << 12, 4096), core.physical(1 << 12, 4096));
        assert_eq!((written.virtual_segments, written.walked), (0, None));
        written.unwalked.unwrap()
    };
    for kernel in &KERNELS {
        assert_eq!(written(kernel.arch, [0; 8]), Unwalked::Unknown);
    }
    assert_eq!(written(Arch::X86_64, [0x11, 0, 0, 0, 0, 0, 0, 0]), Unwalked::Off);
    assert_eq!(written(Arch::Aarch64, [0, 0, 0, 0x30d0_0800, 0, 0, 0, 0]), Unwalked::Off);
    assert_eq!(written(Arch::Riscv64, [0, 0x2_0000_0000, 0, 0, 0, 0, 0, 0]), Unwalked::Off);
    let refused = written(Arch::Riscv64, [11 << 60, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(refused.to_string(), "satp has mode 11, which is none of bare, Sv39, Sv48 and Sv57");
}

#[test]
fn a_dump_that_lost_its_headers_knows_its_architecture_from_its_notes() {
    for kernel in &KERNELS {
        let machine = mapped(kernel);
        let mut disk = partition(200);
        let dump = write_dump(&mut disk, 1, &machine);
        for header in [dump.first, dump.end - 1] {
            block_mut(&mut disk, header).fill(0x55);
        }
        let (core, written) = core_of(&disk);
        let core = Core::parse(&core);
        assert_eq!(core.header.e_machine(LE), kernel.arch as u16);
        assert_eq!(core.notes()[0].2.len(), kernel.prstatus.0);
        assert!(written.virtual_segments > 0);
    }
}

#[test]
fn without_headers_and_notes_no_architecture_is_made_up() {
    let machine = Machine::small();
    let mut disk = partition(200);
    let dump = write_dump(&mut disk, 1, &machine);
    for lost in [dump.first, dump.end - 1, dump.chunks[0] + 1] {
        block_mut(&mut disk, lost).fill(0x55);
    }
    let (core, written) = core_of(&disk);
    assert_eq!(written.unwalked, Some(Unwalked::Unknown));
    let parsed = Core::parse(&core);
    assert_eq!(parsed.header.e_machine(LE), 0);
    let [(owner, _, facts)] = &parsed.notes()[..] else { panic!("registers of no architecture") };
    assert_eq!(owner, FACTS_NAME);
    let facts: serde_json::Value = serde_json::from_slice(facts).unwrap();
    assert_eq!(facts["arch"], "unknown");
    assert!(parsed.physical(2 << 12, 4096).is_some());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("core.elf");
    fs::write(&path, &core).unwrap();
    // gdb takes the architecture that it is told, or that of the kernel file.
    let Page::Data(bytes) = &machine.pages[&2] else { unreachable!() };
    let word = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let core = format!("core-file {}", path.display());
    let (text, errors) = tool(
        "gdb-multiarch",
        &["-nx", "-batch", "-ex", "set architecture aarch64", "-ex", &core, "-ex", "x/1gx 0x2008"],
    );
    assert!(text.contains(&format!("0x2008:\t0x{word:016x}")), "{text}{errors}");
}

#[test]
fn the_crashing_cpu_comes_first_and_silent_ones_have_no_registers() {
    let mut machine = Machine::small();
    machine.cpus = (0..4).map(cpu).collect();
    machine.cpus[0].condition = (CpuCondition::Stopped as u32).into();
    machine.cpus[2].condition = (CpuCondition::Crashing as u32).into();
    machine.cpus[3].condition = (CpuCondition::Silent as u32).into();
    machine.vmcoreinfo = "PAGESIZE=4096\n".to_owned();
    let mut disk = partition(200);
    write_dump(&mut disk, 1, &machine);
    let (core, _) = core_of(&disk);
    let core = Core::parse(&core);
    let notes = core.notes();
    let owners: Vec<_> = notes.iter().map(|(owner, kind, _)| (owner.as_str(), *kind)).collect();
    assert_eq!(owners, [("CORE", 1), ("CORE", 1), ("CORE", 1), ("VMCOREINFO", 0), (FACTS_NAME, FACTS_TYPE)]);
    let pids: Vec<u32> = notes[..3]
        .iter()
        .map(|(_, _, bytes)| u32::from_le_bytes(bytes[32..36].try_into().unwrap()))
        .collect();
    assert_eq!(pids, [3, 1, 2]);
    for ((_, _, bytes), cpu) in notes.iter().zip([2, 0, 1]) {
        assert_eq!(bytes.len(), 336);
        for (index, register) in machine.cpus[cpu].general.iter().take(27).enumerate() {
            assert_eq!(bytes[112 + index * 8..][..8], register.get().to_le_bytes());
        }
    }
    assert_eq!(notes[3].2, b"PAGESIZE=4096\n");
    let facts: serde_json::Value = serde_json::from_slice(&notes[4].2).unwrap();
    assert_eq!(facts["message"], machine.message);
    assert_eq!(facts["cpus"][3]["condition"], "silent");
    assert_eq!(facts["pages"]["unreadable"], 1);
    assert_eq!(core.header.e_machine(LE), 62);
}

#[test]
fn of_a_linux_all_cpus_have_registers_in_the_order_of_their_numbers() {
    let mut machine = Machine::small();
    machine.cpus = (0..3).map(cpu).collect();
    machine.cpus[0].condition = (CpuCondition::Silent as u32).into();
    machine.cpus[2].condition = (CpuCondition::Crashing as u32).into();
    machine.vmcoreinfo =
        "OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82a10000\n".to_owned();
    let mut disk = partition(200);
    write_dump(&mut disk, 1, &machine);
    let (core, _) = core_of(&disk);
    let core = Core::parse(&core);
    let notes = core.notes();
    let registers = notes.iter().filter(|(owner, _, _)| owner == "CORE");
    let pids = registers.map(|(_, _, bytes)| u32::from_le_bytes(bytes[32..36].try_into().unwrap()));
    assert_eq!(pids.collect::<Vec<_>>(), [1, 2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn registers_come_through_a_dump_into_the_notes_of_the_core_on_every_architecture(
        kernel in 0..KERNELS.len(),
        cpus in prop::collection::vec((any::<bool>(), prop::array::uniform32(any::<u64>()), any::<[u64; 2]>()), 1..6),
        crashing in any::<prop::sample::Index>(),
    ) {
        let kernel = &KERNELS[kernel];
        let crashing = crashing.index(cpus.len());
        let mut machine = Machine::small();
        machine.arch = kernel.arch;
        machine.cpus = (0..).map(cpu).take(cpus.len()).collect();
        for (number, (state, (answers, some, more))) in machine.cpus.iter_mut().zip(&cpus).enumerate() {
            let condition = match (number == crashing, answers) {
                (true, _) => CpuCondition::Crashing,
                (false, true) => CpuCondition::Stopped,
                (false, false) => CpuCondition::Silent,
            };
            state.condition = (condition as u32).into();
            for (slot, value) in state.general.iter_mut().zip(some.iter().chain(more)) {
                *slot = (*value).into();
            }
        }
        let mut disk = partition(200);
        write_dump(&mut disk, 1, &machine);
        let scanned = partition::scan(&disk).unwrap();
        let dump = Dump::open(&disk, &scanned, &scanned.dumps[0]);
        prop_assert_eq!(&dump.facts().cpus, &machine.cpus);
        let (core, _) = core_of(&disk);
        let core = Core::parse(&core);
        prop_assert_eq!(core.header.e_machine(LE), kernel.arch as u16);
        let notes = core.notes();
        let registers: Vec<_> = notes.iter().filter(|(_, kind, _)| *kind == NT_PRSTATUS).collect();
        let others = (0..cpus.len()).filter(|number| *number != crashing && cpus[*number].0);
        let order: Vec<usize> = [crashing].into_iter().chain(others).collect();
        prop_assert_eq!(registers.len(), order.len());
        let (length, count) = kernel.prstatus;
        for (number, (owner, _, note)) in order.into_iter().zip(registers) {
            prop_assert_eq!((owner.as_str(), note.len()), ("CORE", length));
            prop_assert_eq!(&note[32..36], &(number as u32 + 1).to_le_bytes());
            prop_assert_eq!(&note[112..112 + count * 8], machine.cpus[number].general[..count].as_bytes());
            prop_assert!(note[112 + count * 8..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn more_segments_than_an_elf_header_can_count_are_counted_elsewhere() {
    let mut machine = Machine::new();
    // Every second page is known: one segment each.
    for pfn in 0..70_000 {
        machine.pages.insert(pfn * 2, Page::Zero);
    }
    machine.pages.insert(69_999 * 2, Page::of(1));
    machine.log.clear();
    let mut disk = partition(2000);
    // The memory map would not fit in one chunk of notes, and it is not what is tested.
    let pages = std::mem::take(&mut machine.pages);
    for (index, part) in pages.into_iter().collect::<Vec<_>>().chunks(7000).enumerate() {
        machine.pages = part.iter().cloned().collect();
        machine.sequence = index as u32 + 1;
        machine.nonce = index as u64 + 1;
        let at = partition::scan(&disk).unwrap().free;
        write_dump(&mut disk, at, &machine);
    }
    // All of them as one dump: same nonce, and a single pair of headers.
    let merged = merge(&disk);
    let (core, written) = core_of(&merged);
    assert_eq!(written.physical_segments, 70_000);
    let core = Core::parse(&core);
    assert_eq!(core.header.e_phnum.get(LE), 0xffff);
    assert_eq!(core.segments.len(), 70_001);
    let Page::Data(last) = Page::of(1) else { unreachable!() };
    assert_eq!(core.physical(69_999 * 2 * 4096, 4096), Some(last.to_vec()));
    assert_eq!(core.physical(69_999 * 4096, 4096), None);
}

/// Merges the chunks of all dumps on a partition into one dump, without the notes.
fn merge(disk: &Vec<u8>) -> Vec<u8> {
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind};
    use dumpcore::format::frame::{Kind, set_checksum};
    use dumpcore::format::header::Header;

    let scanned = partition::scan(disk).unwrap();
    let mut merged = partition(disk.len() as u64 / 4096);
    let (mut at, mut chunks) = (2, 0_u64);
    let mut header: Header = (*scanned.dumps[0].header).clone();
    for found in &scanned.dumps {
        for number in found.first + 1..found.end - 1 {
            let Ok(chunk) = ChunkHeader::parse(crate::common::block(disk, number)) else { continue };
            if chunk.kind() == ChunkKind::Notes {
                continue;
            }
            let mut chunk = chunk.clone();
            chunk.nonce = header.nonce;
            chunk.index = chunks.into();
            chunk.block = at.into();
            let payload = u64::from(chunk.payload_blocks.get());
            for offset in 1..=payload {
                let bytes = *crate::common::block(disk, number + offset);
                chunk.sums[offset as usize - 1] =
                    dumpcore::format::checksum::block_sum(&bytes, at + offset).into();
                *crate::common::block_mut(&mut merged, at + offset) = bytes;
            }
            let slot = crate::common::block_mut(&mut merged, at);
            slot.copy_from_slice(chunk.as_bytes());
            set_checksum(slot);
            at += 1 + payload;
            chunks += 1;
        }
    }
    header.end_block = (at + 1).into();
    header.chunks = chunks.into();
    header.total_pages = 70_000.into();
    header.to_block(Kind::Back, crate::common::block_mut(&mut merged, at));
    header.to_block(Kind::Front, crate::common::block_mut(&mut merged, 1));
    merged
}

/// Runs a tool and returns its standard output and standard error.
fn tool(name: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new(name)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap_or_else(|error| panic!("{name} is needed for this test: {error}"));
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

#[test]
fn readelf_and_gdb_open_the_core_and_read_registers_and_memory() {
    for kernel in &KERNELS {
        let machine = mapped(kernel);
        let mut disk = partition(200);
        write_dump(&mut disk, 1, &machine);
        let (core, _) = core_of(&disk);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("core.elf");
        fs::write(&path, &core).unwrap();
        let path = path.to_str().unwrap();

        let (text, errors) = tool("readelf", &["-W", "-l", "-n", path]);
        assert_eq!(errors, "", "readelf complains");
        assert!(!text.to_lowercase().contains("warning") && !text.contains("corrupt"), "{text}");
        assert_eq!(text.matches("NT_PRSTATUS").count(), 2, "{text}");
        let loads = if kernel.arch == Arch::Aarch64 { 12 } else { 9 };
        assert_eq!(text.matches("  LOAD ").count(), loads, "{text}");

        let Page::Data(bytes) = &machine.pages[&17] else { unreachable!() };
        let word = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let (name, pc, place) = kernel.gdb;
        let [mapped, window, zeros, unmapped] = [
            kernel.small + 0x1008,
            physical_window(Some(kernel.arch)) + 0x1_1008,
            kernel.small + 0x8000,
            kernel.small + 0x4000,
        ];
        let commands = [
            format!("core-file {path}"),
            "show architecture".to_owned(),
            "info threads".to_owned(),
            format!("p/x {pc}"),
            "thread 2".to_owned(),
            format!("p/x {pc}"),
            format!("x/1gx {mapped:#x}"),
            format!("x/1gx {window:#x}"),
            format!("x/1gx {zeros:#x}"),
            format!("x/1gx {unmapped:#x}"),
        ];
        let arguments = commands.iter().flat_map(|command| ["-ex", command.as_str()]);
        let arguments: Vec<&str> = ["-nx", "-batch"].into_iter().chain(arguments).collect();
        let (text, errors) = tool("gdb-multiarch", &arguments);
        let both = format!("{text}{errors}");
        assert!(text.contains(&format!("(currently \"{name}\")")), "{both}");
        assert!(text.contains(&format!("$1 = {:#x}", 0x1000 + place)), "{both}");
        assert!(text.contains(&format!("$2 = {:#x}", 0x2000 + place)), "{both}");
        assert!(text.contains(&format!("{mapped:#x}:\t0x{word:016x}")), "{both}");
        assert!(text.contains(&format!("{window:#x}:\t0x{word:016x}")), "{both}");
        assert!(text.contains(&format!("{zeros:#x}:\t0x0000000000000000")), "{both}");
        assert!(errors.contains(&format!("Cannot access memory at address {unmapped:#x}")), "{both}");
    }
}

#[test]
fn zero_pages_take_no_room_on_disk() {
    use std::os::unix::fs::MetadataExt;
    let mut machine = Machine::new();
    for pfn in 0..4096 {
        machine.pages.insert(pfn, Page::Zero);
    }
    machine.pages.insert(2000, Page::of(1));
    let mut disk = partition(100);
    write_dump(&mut disk, 1, &machine);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    let file = tempfile::tempfile().unwrap();
    let written = elf::write(&dump, &CoreOptions::default(), &mut &file, &mut ()).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), written.length);
    assert!(written.length > 4096 * 4096);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} sectors", metadata.blocks());
}

#[test]
fn more_pages_than_a_file_can_hold_are_refused_by_name() {
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run};
    use dumpcore::format::frame::{Kind, set_checksum};
    use savecore::Error;

    struct Nothing;
    impl Sink for Nothing {
        fn begin(&mut self, _head: u64, _length: Option<u64>) -> std::io::Result<()> {
            Ok(())
        }

        fn write_at(&mut self, _offset: u64, _bytes: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
        fn set_len(&mut self, _length: u64) -> std::io::Result<()> {
            Ok(())
        }
    }

    let machine = Machine::small();
    for (chunks, fits) in [(100_u64, true), (3000, false)] {
        let mut disk = partition(chunks + 10);
        write_dump(&mut disk, 1, &machine);
        let mut header = (*partition::scan(&disk).unwrap().dumps[0].header).clone();
        // Chunks without payload; each of their runs claims 16 TiB of zeros.
        for index in 0..chunks {
            let mut chunk = ChunkHeader::new();
            chunk.kind = (ChunkKind::Memory as u32).into();
            chunk.nonce = machine.nonce.into();
            chunk.index = index.into();
            chunk.block = (2 + index).into();
            chunk.run_count = (MAX_RUNS as u32).into();
            for (run, number) in chunk.runs.iter_mut().zip(index * MAX_RUNS as u64..) {
                let count = u32::MAX;
                let pfn = (number * u64::from(count)).into();
                *run = Run { pfn, count: count.into(), kind: 2.into(), class: 0.into() };
            }
            let slot = crate::common::block_mut(&mut disk, 2 + index);
            slot.copy_from_slice(chunk.as_bytes());
            set_checksum(slot);
        }
        header.end_block = (3 + chunks).into();
        header.chunks = chunks.into();
        header.to_block(Kind::Back, crate::common::block_mut(&mut disk, 2 + chunks));
        header.to_block(Kind::Front, crate::common::block_mut(&mut disk, 1));
        let partition = partition::scan(&disk).unwrap();
        let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
        assert_eq!(dump.pages().zero, chunks * MAX_RUNS as u64 * u64::from(u32::MAX));
        match elf::write(&dump, &CoreOptions::default(), &mut Nothing, &mut ()) {
            Ok(_) => assert!(fits),
            Err(error) => assert!(!fits && matches!(error, Error::TooLarge { .. }), "{error}"),
        }
    }
}

//! The ELF core, read back by others: the object crate, readelf and gdb.

use std::fs;
use std::process::Command;

use dumpcore::format::chunk::MAX_RUNS;
use dumpcore::format::note::{CpuCondition, CpuState};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use savecore::core::elf::{self, PHYSICAL_WINDOW, Written};
use savecore::core::{FACTS_NAME, FACTS_TYPE, Sink};
use savecore::dump::Dump;
use savecore::partition;

use crate::common::{Machine, Page, cpu, partition, write_dump};

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
        // Whatever segments say about an address, they say the same.
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
    fn notes(&self) -> Vec<(String, u32, Vec<u8>)> {
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

fn core_of(disk: &Vec<u8>) -> (Vec<u8>, Written) {
    let partition = partition::scan(disk).unwrap();
    let dump = Dump::open(disk, &partition, &partition.dumps[0]);
    let mut core = Vec::new();
    let written = elf::write(&dump, &mut core, &mut ()).unwrap();
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

fn paging(state: &mut CpuState, root: u64) {
    state.control[0] = 0x8000_0011.into();
    state.control[2] = (root << 12 | 0x18).into();
    state.control[3] = 0x20.into();
    state.control[4] = 0xd00.into();
}

/// Kernel memory at pages 16 to 31, mapped at 0xffff_8000_0000_0000 + 2 MiB as small pages; page 20 is not mapped;
/// and the first 2 MiB of memory mapped at 0xffff_ffff_8000_0000.
fn mapped() -> Machine {
    let mut machine = Machine::new();
    for pfn in 16..32 {
        machine.pages.insert(pfn, Page::of(pfn));
    }
    machine.pages.insert(24, Page::Zero);
    machine.pages.insert(26, Page::Unreadable);
    machine.pages.insert(0x100, table(&[(256, 0x101 << 12 | 3), (511, 0x104 << 12 | 3)]));
    machine.pages.insert(0x101, table(&[(0, 0x102 << 12 | 3)]));
    machine.pages.insert(0x102, table(&[(1, 0x103 << 12 | 3)]));
    let small: Vec<_> = (0..16).filter(|n| *n != 4).map(|n| (n, (16 + n as u64) << 12 | 3)).collect();
    machine.pages.insert(0x103, table(&small));
    machine.pages.insert(0x104, table(&[(510, 0x105 << 12 | 3)]));
    machine.pages.insert(0x105, table(&[(0, 0x83)]));
    paging(&mut machine.cpus[0], 0x100);
    machine
}

#[test]
fn virtual_segments_show_what_the_page_tables_map_and_nothing_else() {
    let machine = mapped();
    let mut disk = partition(200);
    write_dump(&mut disk, 1, &machine);
    let (core, written) = core_of(&disk);
    let core = Core::parse(&core);
    let base = 0xffff_8000_0020_0000;
    for pfn in 16..32_u64 {
        let known = match &machine.pages[&pfn] {
            Page::Data(bytes) => Some(bytes.to_vec()),
            Page::Zero => Some(vec![0; 4096]),
            _ => None,
        };
        let mapped = if pfn == 20 { None } else { known.clone() };
        assert_eq!(core.virt(base + (pfn - 16) * 4096, 4096), mapped, "page {pfn}");
        assert_eq!(core.virt(0xffff_ffff_8000_0000 + pfn * 4096, 4096), known, "page {pfn}");
        assert_eq!(core.virt(PHYSICAL_WINDOW + pfn * 4096, 4096), known, "page {pfn}");
        assert_eq!(core.physical(pfn * 4096, 4096), known, "page {pfn}");
    }
    // Pages 16-19, 21-25 and 27-31 by small pages; 16-25, 27-31, 0x100-0x105 by the large one.
    assert_eq!(written.virtual_segments, 6);
    assert_eq!(written.physical_segments, 3);
    assert_eq!(written.walked.map(|walked| (walked.tables, walked.missing)), Some((6, 0)));
    assert_eq!(core.virt(0, 8), None, "a null pointer must not be readable");
    let first = core.loads().next().unwrap();
    assert_eq!(first.p_align(LE), 0, "crash would take it for the netdump kind");
}

#[test]
fn without_page_tables_memory_is_there_by_physical_address() {
    let mut machine = mapped();
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
fn the_crashing_cpu_comes_first_and_silent_ones_have_no_registers() {
    let mut machine = Machine::small();
    machine.cpus = (0..4).map(cpu).collect();
    machine.cpus[0].condition = (CpuCondition::Stopped as u32).into();
    machine.cpus[2].condition = (CpuCondition::Crashing as u32).into();
    machine.cpus[3].condition = (CpuCondition::Silent as u32).into();
    machine.vmcoreinfo = "OSRELEASE=1\n".to_owned();
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
    assert_eq!(notes[3].2, b"OSRELEASE=1\n");
    let facts: serde_json::Value = serde_json::from_slice(&notes[4].2).unwrap();
    assert_eq!(facts["message"], machine.message);
    assert_eq!(facts["cpus"][3]["condition"], "silent");
    assert_eq!(facts["pages"]["unreadable"], 1);
    assert_eq!(core.header.e_machine(LE), 62);
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
    // The memory map would not fit one chunk of notes; it is not what is tested.
    let pages = std::mem::take(&mut machine.pages);
    for (index, part) in pages.into_iter().collect::<Vec<_>>().chunks(7000).enumerate() {
        machine.pages = part.iter().cloned().collect();
        machine.sequence = index as u32 + 1;
        machine.nonce = index as u64 + 1;
        let at = partition::scan(&disk).unwrap().free;
        write_dump(&mut disk, at, &machine);
    }
    // All of that as one dump: same nonce, and a single pair of headers.
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

/// Takes the chunks of all dumps of a partition into one.
fn merge(disk: &Vec<u8>) -> Vec<u8> {
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind};
    use dumpcore::format::frame::{Kind, seal};
    use dumpcore::format::header::Header;
    use zerocopy::IntoBytes;

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
            seal(slot);
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

/// Runs a tool and gives what it said on standard output and standard error.
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
    let machine = mapped();
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
    assert_eq!(text.matches("  LOAD ").count(), 9, "{text}");

    let Page::Data(bytes) = &machine.pages[&17] else { unreachable!() };
    let word = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let (text, errors) = tool(
        "gdb",
        &[
            "-nx",
            "-batch",
            "-ex",
            "set architecture i386:x86-64",
            "-ex",
            &format!("core-file {path}"),
            "-ex",
            "info threads",
            "-ex",
            "p/x $rip",
            "-ex",
            "thread 2",
            "-ex",
            "p/x $rip",
            "-ex",
            "x/1gx 0xffff800000201008",
            "-ex",
            "x/1gx 0x4000000000011008",
            "-ex",
            "x/1gx 0xffff800000208000",
            "-ex",
            "x/1gx 0xffff800000204000",
        ],
    );
    assert!(text.contains("$1 = 0x1010") && text.contains("$2 = 0x2010"), "{text}{errors}");
    assert!(text.contains(&format!("0xffff800000201008:\t0x{word:016x}")), "{text}{errors}");
    assert!(text.contains(&format!("0x4000000000011008:\t0x{word:016x}")), "{text}{errors}");
    assert!(text.contains("0xffff800000208000:\t0x0000000000000000"), "{text}{errors}");
    assert!(errors.contains("Cannot access memory at address 0xffff800000204000"), "{text}{errors}");
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
    let written = elf::write(&dump, &mut &file, &mut ()).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), written.length);
    assert!(written.length > 4096 * 4096);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} sectors", metadata.blocks());
}

#[test]
fn more_pages_than_a_file_can_hold_are_refused_by_name() {
    use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Run};
    use dumpcore::format::frame::{Kind, seal};
    use savecore::Error;
    use zerocopy::IntoBytes;

    struct Nothing;
    impl Sink for Nothing {
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
        // Chunks without payload, each of which claims as many times 16 TiB of zeros as it has runs.
        for index in 0..chunks {
            let mut chunk = ChunkHeader::new();
            chunk.kind = (ChunkKind::Memory as u32).into();
            chunk.nonce = machine.nonce.into();
            chunk.index = index.into();
            chunk.block = (2 + index).into();
            chunk.run_count = (MAX_RUNS as u32).into();
            for (run, number) in chunk.runs.iter_mut().zip(index * MAX_RUNS as u64..) {
                let count = u32::MAX;
                *run = Run { pfn: (number * u64::from(count)).into(), count: count.into(), kind: 2.into() };
            }
            let slot = crate::common::block_mut(&mut disk, 2 + index);
            slot.copy_from_slice(chunk.as_bytes());
            seal(slot);
        }
        header.end_block = (3 + chunks).into();
        header.chunks = chunks.into();
        header.to_block(Kind::Back, crate::common::block_mut(&mut disk, 2 + chunks));
        header.to_block(Kind::Front, crate::common::block_mut(&mut disk, 1));
        let partition = partition::scan(&disk).unwrap();
        let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
        assert_eq!(dump.pages().zero, chunks * MAX_RUNS as u64 * u64::from(u32::MAX));
        match elf::write(&dump, &mut Nothing, &mut ()) {
            Ok(_) => assert!(fits),
            Err(error) => assert!(!fits && matches!(error, Error::TooLarge { .. }), "{error}"),
        }
    }
}

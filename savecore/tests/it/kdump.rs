//! Compressed kdumps, read back by our own reader, and by libkdumpfile if it is installed.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use dumpcore::format::chunk::{ChunkHeader, RunKind};
use dumpcore::format::frame;
use dumpcore::format::header::{Arch, Incomplete};
use dumpcore::format::note::CpuCondition;
use dumpcore::format::{BLOCK_SIZE, Block};
use proptest::prelude::*;
use savecore::Error;
use savecore::corefile::{Compression, CoreOptions, Selection, Sink, kdump};
use savecore::dump::Dump;
use savecore::partition::scan;

use crate::common::{Encrypt, Machine, Page, block_mut, partition, write_dump};

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Zlib, Compression::Zstd];

/// A page's record in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    /// These bytes.
    Data(Box<Block>),
    /// It should be there and is not.
    Lost,
    /// It is RAM, and was left out.
    LeftOut,
}

/// A file, read as makedumpfile's IMPLEMENTATION describes it.
struct File {
    bytes: Vec<u8>,
    notes: std::ops::Range<usize>,
    vmcoreinfo: std::ops::Range<usize>,
    pages: BTreeMap<u64, Told>,
}

impl File {
    fn number<const N: usize>(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word[..N].copy_from_slice(&self.bytes[at..at + N]);
        u64::from_le_bytes(word)
    }

    fn text(&self, at: usize) -> &str {
        let field = &self.bytes[at..at + 65];
        assert_eq!(field[64], 0);
        std::str::from_utf8(field.split(|byte| *byte == 0).next().unwrap()).unwrap()
    }

    fn status(&self) -> u64 {
        self.number::<4>(424)
    }

    fn read(bytes: Vec<u8>) -> File {
        let file = File { bytes, notes: 0..0, vmcoreinfo: 0..0, pages: BTreeMap::new() };
        assert_eq!(&file.bytes[..8], b"KDUMP   ");
        assert_eq!((file.number::<4>(8), file.number::<4>(428)), (6, 4096));
        let range = |at| {
            let (from, length) = (file.number::<8>(at) as usize, file.number::<8>(at + 8) as usize);
            from..from + length
        };
        let (notes, vmcoreinfo) = (range(4096 + 48), range(4096 + 32));
        let sub_blocks = file.number::<4>(432) as usize;
        assert!(notes.start >= 4096 + 104 && notes.end <= (1 + sub_blocks) * 4096);
        let bitmaps = (1 + sub_blocks) * 4096;
        let bitmap = file.number::<4>(436) as usize * 4096 / 2;
        let max_mapnr = file.number::<8>(4096 + 96);
        let bit = |map: usize, pfn: u64| {
            file.bytes[bitmaps + map * bitmap + (pfn / 8) as usize] >> (pfn % 8) & 1 == 1
        };
        assert!((0..bitmap as u64 * 8).skip(max_mapnr as usize).all(|pfn| !bit(0, pfn) && !bit(1, pfn)));
        let mut table = bitmaps + 2 * bitmap;
        let mut pages = BTreeMap::new();
        for pfn in (0..max_mapnr).filter(|pfn| bit(0, *pfn)) {
            if !bit(1, pfn) {
                pages.insert(pfn, Told::LeftOut);
                continue;
            }
            let (offset, size) = (file.number::<8>(table) as usize, file.number::<4>(table + 8) as usize);
            let flags = file.number::<4>(table + 12);
            table += 24;
            if offset == 0 {
                pages.insert(pfn, Told::Lost);
                continue;
            }
            let stored = &file.bytes[offset..offset + size];
            let mut page = Box::new([0; BLOCK_SIZE]);
            match flags {
                0 => page.copy_from_slice(stored),
                1 => {
                    let mut zlib = flate2::Decompress::new(true);
                    zlib.decompress(stored, &mut page[..], flate2::FlushDecompress::Finish).unwrap();
                    assert_eq!(zlib.total_out(), 4096);
                }
                0x20 => assert_eq!(zstd::bulk::decompress_to_buffer(stored, &mut page[..]).unwrap(), 4096),
                flags => panic!("page {pfn} has flags {flags:#x}"),
            }
            assert!(flags == 0 || size < 4096);
            pages.insert(pfn, Told::Data(page));
        }
        File { notes, vmcoreinfo, pages, ..file }
    }
}

/// The expected record of a machine's page.
fn expected(page: &Page) -> Told {
    match page {
        Page::Data(bytes) => Told::Data(bytes.clone()),
        Page::Zero => Told::Data(Box::new([0; BLOCK_SIZE])),
        Page::Arena | Page::LeftOut(_) => Told::LeftOut,
        Page::Unreadable | Page::Faulted => Told::Lost,
    }
}

fn dumped(machine: &Machine) -> Vec<u8> {
    let blocks = machine.pages.len() as u64 * 2 + 400;
    let mut disk = partition(blocks);
    write_dump(&mut disk, 1, machine);
    disk
}

fn save(
    machine: &Machine,
    disk: &Vec<u8>,
    compression: Compression,
    threads: usize,
) -> (Vec<u8>, kdump::Written) {
    let partition = scan(disk).unwrap();
    let found = partition.waiting().next().unwrap();
    let dump = machine.open(disk, &partition, found);
    let mut file = Ordered::default();
    let options = CoreOptions { level: None, threads };
    let written = kdump::write(&dump, compression, &options, &mut file, &mut ()).unwrap();
    assert_eq!(file.bytes.len() as u64, written.length);
    let room = kdump::room(&dump, &Selection::of(&dump, options.level)).unwrap();
    assert!((room.least..=room.most).contains(&written.length), "{room:?} {}", written.length);
    (file.bytes, written)
}

/// A file that insists on the order in which a [`Sink`] is written.
#[derive(Default)]
struct Ordered {
    bytes: Vec<u8>,
    head: Option<u64>,
    at: u64,
    in_head: bool,
}

impl Sink for Ordered {
    fn begin(&mut self, head: u64, _length: Option<u64>) -> std::io::Result<()> {
        assert!(self.head.is_none());
        (self.head, self.at) = (Some(head), head);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let head = self.head.unwrap();
        if offset < head && !self.in_head {
            (self.in_head, self.at) = (true, 0);
        }
        let end = offset + bytes.len() as u64;
        assert!(offset >= self.at && (!self.in_head || end <= head), "{offset} {end} {head}");
        self.at = end;
        self.bytes.write_at(offset, bytes)
    }

    fn set_len(&mut self, length: u64) -> std::io::Result<()> {
        Sink::set_len(&mut self.bytes, length)
    }
}

prop_compose! {
    fn machines()(
        pages in prop::collection::btree_map(0..300_u64, (0..9_usize, any::<u64>()), 1..120),
        high: bool,
        chunk_pages in 1..40_usize,
        unit_pages in prop::option::of(1..16_usize),
        rotate in 0..5_usize,
        encrypted: bool,
    ) -> Machine {
        let mut machine = Machine { chunk_pages, unit_pages, rotate, ..Machine::new() };
        machine.encrypt = encrypted.then(Encrypt::new);
        machine.pages = pages.into_iter().map(|(pfn, (kind, seed))| {
            let page = match kind {
                0..3 => Page::of(seed),
                3..5 => Page::dull(seed),
                // A zero page that the dump stores as data.
                5 => Page::Data(Box::new([0; BLOCK_SIZE])),
                6 => Page::Zero,
                7 => Page::Unreadable,
                _ => Page::LeftOut(RunKind::Free),
            };
            (if high && pfn > 150 { pfn + 0x8_0000 } else { pfn }, page)
        }).collect();
        machine
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_is_as_it_was_or_the_file_says_what_became_of_it(
        machine in machines(), which in 0..3_usize, threads in 1..4_usize
    ) {
        let disk = dumped(&machine);
        let (bytes, written) = save(&machine, &disk, COMPRESSIONS[which], threads);
        let (again, _) = save(&machine, &disk, COMPRESSIONS[which], 1);
        prop_assert!(bytes == again, "the number of threads shows");
        let file = File::read(bytes);
        let expected: BTreeMap<u64, Told> =
            machine.pages.iter().map(|(pfn, page)| (*pfn, expected(page))).collect();
        let lost = expected.values().filter(|told| **told == Told::Lost).count() as u64;
        prop_assert_eq!(written.lost, lost);
        prop_assert_eq!(file.status() & 8 != 0, lost > 0);
        prop_assert_eq!(file.pages, expected);
    }
}

#[test]
fn the_header_says_which_machine_crashed() {
    for (arch, name) in [(Arch::X86_64, "x86_64"), (Arch::Aarch64, "aarch64"), (Arch::Riscv64, "riscv64")] {
        let machine = Machine { arch, ..Machine::small() };
        let file = File::read(save(&machine, &dumped(&machine), Compression::Zlib, 1).0);
        let uts: Vec<&str> = (0..6).map(|field| file.text(12 + field * 65)).collect();
        assert_eq!(uts, ["testkernel", "(none)", "0.1", "unknown", name, "(none)"]);
        assert_eq!(file.number::<8>(408), machine.wall_clock);
        assert_eq!((file.number::<4>(456), file.number::<4>(460)), (0, 2));
        assert!(file.vmcoreinfo.is_empty());
    }
}

/// The CPU number and the first register of each NT_PRSTATUS in the notes.
fn registers(file: &File) -> Vec<(u64, u64)> {
    let (mut at, mut found) = (file.notes.start, Vec::new());
    while at < file.notes.end {
        let (name, length) = (file.number::<4>(at) as usize, file.number::<4>(at + 4) as usize);
        let bytes = at + 12 + name.next_multiple_of(4);
        if file.number::<4>(at + 8) == 1 {
            found.push((file.number::<4>(bytes + 32) - 1, file.number::<8>(bytes + 112)));
        }
        at = bytes + length.next_multiple_of(4);
    }
    assert_eq!(at, file.notes.end);
    found
}

#[test]
fn the_registers_of_a_linux_are_in_the_order_of_its_cpus_and_none_is_left_out() {
    let mut machine = Machine::small();
    machine.cpus = (0..4).map(crate::common::cpu).collect();
    let mut conditions =
        [CpuCondition::Stopped, CpuCondition::Silent, CpuCondition::Crashing, CpuCondition::Stopped];
    for (cpu, condition) in machine.cpus.iter_mut().zip(&mut conditions) {
        cpu.condition = (*condition as u32).into();
    }
    let hobby = File::read(save(&machine, &dumped(&machine), Compression::None, 1).0);
    assert_eq!(registers(&hobby), [(2, 0x3000), (0, 0x1000), (3, 0x4000)]);
    machine.vmcoreinfo = "OSRELEASE=6.1.0-test\nPAGESIZE=4096\nNUMBER(phys_base)=16777216\n".to_owned();
    let linux = File::read(save(&machine, &dumped(&machine), Compression::None, 1).0);
    assert_eq!(registers(&linux), [(0, 0x1000), (1, 0x2000), (2, 0x3000), (3, 0x4000)]);
    assert_eq!(&linux.bytes[linux.vmcoreinfo.clone()], machine.vmcoreinfo.as_bytes());
    assert!(linux.notes.start < linux.vmcoreinfo.start && linux.vmcoreinfo.end <= linux.notes.end);
    assert_eq!((linux.text(12), linux.text(12 + 130)), ("Linux", "6.1.0-test"));
    assert_eq!(linux.number::<8>(4096), 16_777_216);
}

#[test]
fn a_damaged_page_is_lost_and_the_file_says_that_it_is_incomplete() {
    let machine = Machine::small();
    let mut disk = partition(400);
    let written = write_dump(&mut disk, 1, &machine);
    let (_, block) = written.places[&5];
    block_mut(&mut disk, block)[9] ^= 1;
    let file = File::read(save(&machine, &disk, Compression::Zlib, 2).0);
    assert_eq!(file.pages[&5], Told::Lost);
    assert_eq!(file.pages[&4], expected(&machine.pages[&4]));
    assert_eq!(file.status(), 1 | 8);
}

#[test]
fn a_dump_that_ended_early_has_lost_the_rest_of_the_memory() {
    let mut machine = Machine::small();
    let disk = dumped(&machine);
    let whole = File::read(save(&machine, &disk, Compression::Zlib, 1).0);
    // The memory chunks from some point on were never written.
    let mut disk = partition(400);
    machine.incomplete = Incomplete::Budget;
    let written = write_dump(&mut disk, 1, &machine);
    crate::common::stop_in_the_middle(&mut disk, &written, |block| block < written.chunks[4]);
    let early = File::read(save(&machine, &disk, Compression::Zlib, 1).0);
    assert_eq!(early.pages.keys().collect::<Vec<_>>(), whole.pages.keys().collect::<Vec<_>>());
    assert!(early.pages.values().any(|told| *told == Told::Lost) && early.status() & 8 != 0);
    for (pfn, told) in &early.pages {
        assert!(*told == Told::Lost || *told == whole.pages[pfn], "page {pfn}");
    }
}

#[test]
fn memory_beyond_what_the_format_can_handle_is_refused_at_once() {
    let mut machine = Machine::small();
    machine.pages.insert(1 << 36, Page::Zero);
    let disk = dumped(&machine);
    let partition = scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, partition.waiting().next().unwrap());
    let mut file = Vec::new();
    let error = kdump::write(&dump, Compression::Zlib, &CoreOptions::default(), &mut file, &mut ());
    assert!(matches!(error, Err(Error::TooHigh { end: 0x1_0000_0000_1000 })), "{error:?}");
    assert!(file.is_empty());
}

#[test]
fn a_dump_that_claims_memory_without_end_is_refused_at_once() {
    let machine = Machine::small();
    let mut disk = partition(400);
    let written = write_dump(&mut disk, 1, &machine);
    let mut claimed = 0;
    for block in written.chunks {
        let block = block_mut(&mut disk, block);
        let header = ChunkHeader::of_mut(block).unwrap();
        let count = header.run_count.get() as usize;
        if let Some(run) = header.runs[..count].iter_mut().find(|run| run.kind() == RunKind::Zero) {
            run.count = 0x0fff_ffff.into();
            claimed += 1;
        }
        frame::set_checksum(block);
    }
    assert!(claimed > 0);
    let partition = scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, partition.waiting().next().unwrap());
    let mut file = Vec::new();
    let error = kdump::write(&dump, Compression::Zlib, &CoreOptions::default(), &mut file, &mut ());
    assert!(matches!(error, Err(Error::TooSparse { .. })), "{error:?}");
    assert!(file.is_empty());
}

/// What libkdumpfile's Python binding reads from a file: for each page named on standard input, its bytes in
/// hexadecimal or why there are none. Returns `None` if the binding is not installed.
fn libkdumpfile(path: &std::path::Path, pfns: &[u64]) -> Option<Vec<String>> {
    const SCRIPT: &str = "
import sys
try:
    import kdumpfile
except ImportError:
    sys.exit(77)
file = kdumpfile.kdumpfile(sys.argv[1])
print(file.attr['file.format'])
for line in sys.stdin:
    try:
        print(file.read(kdumpfile.KDUMP_MACHPHYSADDR, int(line) * 4096, 4096).hex())
    except Exception as error:
        print(type(error).__name__)
sys.stdout.flush()
# The binding's destructor may free twice.
import os
os._exit(0)
";
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take().unwrap();
    let lines: String = pfns.iter().map(|pfn| format!("{pfn}\n")).collect();
    // Without the binding, the reader may end before it reads this.
    let _ = input.write_all(lines.as_bytes());
    drop(input);
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn libkdumpfile_reads_every_page_of_a_kernel_of_any_kind() {
    for arch in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
        for compression in COMPRESSIONS {
            let mut machine = Machine { arch, unit_pages: Some(8), ..Machine::small() };
            for pfn in 50..60 {
                machine.pages.insert(pfn, Page::dull(pfn));
            }
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let (bytes, _) = save(&machine, &dumped(&machine), compression, 2);
            file.write_all(&bytes).unwrap();
            let pfns: Vec<u64> = machine.pages.keys().copied().collect();
            let Some(told) = libkdumpfile(file.path(), &pfns) else {
                eprintln!("skipped: python3-libkdumpfile is not installed");
                return;
            };
            assert_eq!(told[0], "diskdump");
            for ((pfn, page), told) in machine.pages.iter().zip(&told[1..]) {
                match expected(page) {
                    Told::Data(bytes) => {
                        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                        assert_eq!(*told, hex, "page {pfn} {arch:?} {compression:?}");
                    }
                    Told::LeftOut => assert_eq!(told, "NoDataException", "page {pfn}"),
                    // libkdumpfile does not support lost pages, and takes their entries for damage.
                    Told::Lost => assert_eq!(told, "CorruptException", "page {pfn}"),
                }
            }
        }
    }
}

#[test]
fn memory_far_above_64_tib_is_in_a_file_whose_bitmaps_are_holes() {
    // Where a Grace Hopper maps its GPU's memory.
    let far = 0x4200_0000_0000 / BLOCK_SIZE as u64;
    let mut machine = Machine::small();
    for pfn in [far, far + 9, (1 << 36) - 1] {
        machine.pages.insert(pfn, Page::dull(pfn));
    }
    let disk = dumped(&machine);
    let partition = scan(&disk).unwrap();
    let dump = machine.open(&disk, &partition, partition.waiting().next().unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut sink = file.as_file();
    kdump::write(&dump, Compression::Zlib, &CoreOptions::default(), &mut sink, &mut ()).unwrap();
    let metadata = file.as_file().metadata().unwrap();
    assert!(metadata.len() > 16 << 30, "two bitmaps of 8 GiB");
    assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks are written", metadata.blocks());
    // The sub header's own number, because the header's has only 32 bits.
    let mut number = [0; 8];
    file.as_file().read_exact_at(&mut number, 4096 + 96).unwrap();
    assert_eq!(u64::from_le_bytes(number), 1 << 36);
    let notes = u64::from(u32::from_le_bytes({
        let mut blocks = [0; 4];
        file.as_file().read_exact_at(&mut blocks, 432).unwrap();
        blocks
    }));
    for (bitmap, pfn, is_set) in [
        (0, far, 1),
        (1, far, 1),
        (0, far + 1, 0),
        (1, far + 9, 1),
        (0, (1 << 36) - 1, 1),
        (1, (1 << 36) - 1, 1),
    ] {
        let mut byte = [0];
        let at = (1 + notes) * 4096 + bitmap * (8 << 30) + pfn / 8;
        file.as_file().read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte[0] >> (pfn % 8) & 1, is_set, "bitmap {bitmap}, page {pfn:#x}");
    }
}

#[test]
fn libkdumpfile_reads_memory_above_64_tib() {
    let far = 0x4200_0000_0000 / BLOCK_SIZE as u64;
    let mut machine = Machine::small();
    machine.pages.insert(far, Page::dull(far));
    let disk = dumped(&machine);
    let partition = scan(&disk).unwrap();
    let dump = machine.open(&disk, &partition, partition.waiting().next().unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    kdump::write(&dump, Compression::Zlib, &CoreOptions::default(), &mut file.as_file(), &mut ()).unwrap();
    let Some(told) = libkdumpfile(file.path(), &[far, far + 1, 1]) else {
        eprintln!("skipped: python3-libkdumpfile is not installed");
        return;
    };
    let hex = |pfn| match expected(&machine.pages[&pfn]) {
        Told::Data(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(told, ["diskdump".to_owned(), hex(far), "NoDataException".to_owned(), hex(1)]);
}

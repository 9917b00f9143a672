//! Files of any content, used as the kernel that crashed.

use std::fs;
use std::sync::OnceLock;

use dumpcore::format::BLOCK_SIZE;
use savecore::backtrace::backtraces;
use savecore::dump::Dump;
use savecore::partition::{Partition, scan};
use tempfile::NamedTempFile;

use crate::common::{Machine, Page, partition as formatted, write_dump};

/// Where code begins in the kernels of `fuzz/corpus`, and where this machine's stack is.
const CODE: u64 = 0x1000;
const STACK: u64 = 0x8000;
/// Maximum length of a backtrace.
const LONGEST: usize = 1 << 20;

/// A machine without page tables in use, whose stack holds many code addresses.
fn disk() -> &'static (Vec<u8>, Partition) {
    static DISK: OnceLock<(Vec<u8>, Partition)> = OnceLock::new();
    DISK.get_or_init(|| {
        let mut machine = Machine::small();
        let mut stack = Box::new([0; BLOCK_SIZE]);
        for (index, word) in stack.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let index = index as u64;
            // Frame pointers that lead upwards, alternating with possible return addresses.
            let value = if index.is_multiple_of(2) { STACK + 8 * (index + 2) } else { CODE + index % 0x90 };
            *word = value.to_le_bytes();
        }
        machine.pages.insert(STACK >> 12, Page::Data(stack));
        for (number, cpu) in (0..).zip(&mut machine.cpus) {
            // rbp, rip, rsp; paging is off.
            (cpu.general[4], cpu.general[16]) = (STACK.into(), (CODE + 5 + number).into());
            cpu.general[19] = STACK.into();
            cpu.control[0] = 0x11.into();
        }
        let mut disk = formatted(96);
        write_dump(&mut disk, 1, &machine);
        let partition = scan(&disk).unwrap();
        (disk, partition)
    })
}

/// Makes backtraces with a kernel's file. Whatever is in it, nothing panics or hangs, and the output is
/// bounded and safe to show.
pub(crate) fn no_harm(bytes: &[u8]) {
    let (disk, partition) = disk();
    let dump = Dump::open(disk, partition, &partition.dumps[0]);
    let file = NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new()).unwrap();
    fs::write(file.path(), bytes).unwrap();
    let Ok(backtraces) = backtraces(&dump, file.path()) else { return };
    let text = backtraces.to_string();
    assert!(text.len() < LONGEST, "{} bytes", text.len());
    assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
    let frames: usize = backtraces.cpus.iter().map(|cpu| cpu.frames.len()).sum();
    assert!(frames < 10_000, "{frames} frames");
}

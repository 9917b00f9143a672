//! Scanning a partition takes the same memory however many dumps are on it. This is a program of its own,
//! because it checks its peak.

use std::io;

use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Status};
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};
use savecore::partition::{MAX_DUMPS, Search, scan_with};
use savecore::source::Source;

const UUID: Uuid = [3; 16];

/// Dumps of two blocks each, front and back header, as an attacker may write them.
const DUMPS: u64 = 100_000;
const BLOCKS: u64 = 1 + 2 * DUMPS;

/// Limit of the process's peak memory, in bytes; the headers of all dumps are 400 MB.
const LIMIT: u64 = 64 << 20;

/// A partition full of dumps, each block of which is made on demand.
struct Full;

impl Source for Full {
    fn blocks(&self) -> u64 {
        BLOCKS
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        for (number, block) in (first..).zip(into) {
            *block = [0; BLOCK_SIZE];
            if number == 0 {
                Label::new(UUID, BLOCKS, 0, "full").to_block(block);
                continue;
            }
            let dump = (number - 1) / 2;
            let mut header = Header::new();
            header.status = (Status::Complete as u32).into();
            (header.uuid, header.nonce, header.sequence) = (UUID, dump.into(), (dump as u32 + 1).into());
            (header.arch, header.trigger, header.window_blocks) = (62.into(), 1.into(), 1.into());
            header.first_block = (1 + 2 * dump).into();
            header.end_block = (3 + 2 * dump).into();
            header.to_block(if number % 2 == 1 { Kind::Front } else { Kind::Back }, block);
        }
        Ok(())
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The process's peak memory in bytes (proc_pid_status(5), VmHWM).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg_attr(sanitized, ignore = "measures memory")]
fn a_partition_full_of_dumps_is_looked_at_in_64_mib() {
    let partition = scan_with(&Full, Search::Quick, &mut ()).unwrap();
    assert_eq!((partition.number(), partition.number_waiting()), (DUMPS, DUMPS));
    assert_eq!((partition.dumps.len(), partition.free), (MAX_DUMPS, BLOCKS));
    let last = partition.dumps.last().unwrap();
    assert_eq!((u64::from(last.header.sequence.get()), last.end), (DUMPS, BLOCKS));
    assert_eq!(partition.earlier.end, partition.dumps[0].first);
    println!("peak {} MiB", peak() >> 20);
    assert!(peak() <= LIMIT, "{} MiB", peak() >> 20);
}

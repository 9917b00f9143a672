//! The pattern is written where it belongs and nowhere else, in an order that survives an interruption.

use std::io;

use dumpcore::format::Block;
use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Status};
use savecore::partition::{self, Verdict};
use savecore::source::{Progress, Source};

use crate::common::{Machine, Page, UUID, block, partition, write_dump};

/// A disk that records its writes and syncs.
struct Noted {
    disk: Vec<u8>,
    /// First block and number of each write; `None` for a sync.
    steps: Vec<Option<(u64, u64)>>,
}

impl Source for Noted {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.disk.read(first, into)
    }

    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()> {
        self.steps.push(Some((first, from.len() as u64)));
        self.disk.write(first, from)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.steps.push(None);
        Ok(())
    }
}

/// Adds up the progress that it is told.
#[derive(Default)]
struct Sum {
    total: u64,
    done: u64,
}

impl Progress for Sum {
    fn begin(&mut self, _what: &str, total: u64) {
        self.total += total;
    }

    fn advance(&mut self, blocks: u64) {
        self.done += blocks;
    }

    fn end(&mut self) {
        assert_eq!(self.done, self.total);
    }
}

/// A machine whose dump has this many blocks and a few more.
fn machine(pages: u64) -> Machine {
    let mut machine = Machine { chunk_pages: 128, ..Machine::new() };
    machine.pages.extend((0..pages).map(|pfn| (pfn, Page::of(pfn))));
    machine
}

#[test]
fn a_harvest_lays_the_pattern_over_the_blocks_of_the_dump_alone_and_its_front_last() {
    for pages in [1, 2000, 5000] {
        let empty = partition(pages + 400);
        let mut disk = empty.clone();
        let behind = write_dump(&mut disk, 1, &machine(3)).end;
        write_dump(&mut disk, behind, &machine(pages));
        let mut noted = Noted { disk, steps: Vec::new() };
        let found = partition::scan(&noted).unwrap().dumps[1].clone();
        let mut sum = Sum::default();
        partition::clear(&mut noted, &UUID, &found, &mut sum).unwrap();
        assert_eq!(sum.done, found.blocks());
        // The first write marks the dump as saved, and records where it ends.
        let (mark, steps) = noted.steps.split_first_chunk::<2>().unwrap();
        assert_eq!(*mark, [Some((found.first, 1)), None]);
        // The front header is overwritten in two steps, so that it is never torn into something that a kernel
        // would refuse.
        let (front, steps) = steps.split_last_chunk::<5>().map(|(steps, front)| (front, steps)).unwrap();
        assert_eq!(*front, [None, Some((found.first, 1)), None, Some((found.first, 1)), None]);
        let mut end = found.end;
        for step in steps {
            let (first, count) = step.unwrap();
            assert_eq!(first + count, end, "from the end to the front");
            end = first;
        }
        assert_eq!(end, found.first + 1);
        let start = behind as usize * 4096;
        assert!(noted.disk[start..] == empty[start..]);
        assert!(noted.disk[..start] != empty[..start], "the dump in front of it stays");
        assert_eq!(partition::scan(&noted).unwrap().dumps.len(), 1);
    }
}

#[test]
fn a_large_partition_is_formatted_from_front_to_end_and_its_label_comes_last() {
    let blocks = 9000;
    let mut noted = Noted { disk: vec![0x5a; blocks * 4096], steps: Vec::new() };
    let plan =
        partition::Plan { uuid: UUID, name: String::new(), created: 0, recipient: None, machine: None };
    let mut sum = Sum::default();
    partition::format(&mut noted, &plan, &mut sum).unwrap();
    assert_eq!(sum.done, blocks as u64);
    let (old, steps) = noted.steps.split_first_chunk::<2>().unwrap();
    assert_eq!(*old, [Some((0, 1)), None]);
    let (steps, label) = steps.split_last_chunk::<3>().unwrap();
    assert_eq!(*label, [None, Some((0, 1)), None]);
    let mut at = 1;
    for step in steps {
        let (first, count) = step.unwrap();
        assert_eq!(first, at);
        at += count;
    }
    assert_eq!(at, blocks as u64);
    assert_eq!(partition::check(&noted.disk, &mut ()).unwrap().verdict, Verdict::Ready);
}

#[test]
fn a_dump_that_was_marked_is_cleared_without_marking_it_again() {
    let mut disk = partition(300);
    write_dump(&mut disk, 1, &machine(50));
    let found = partition::scan(&disk).unwrap().dumps[0].clone();
    partition::mark_saved(&mut disk, &found, None).unwrap();
    assert_eq!(Header::parse(block(&disk, 1), Kind::Front).unwrap().status(), Status::Saved);
    let found = partition::scan(&disk).unwrap().dumps[0].clone();
    let mut noted = Noted { disk, steps: Vec::new() };
    partition::clear(&mut noted, &UUID, &found, &mut ()).unwrap();
    assert_eq!(noted.steps.first(), Some(&Some((2, found.end - 2))));
    assert!(noted.disk == partition(300));
}

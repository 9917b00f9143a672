//! Disks with unreadable sectors: the rest is saved, and missing data is reported.

use std::collections::BTreeSet;
use std::io;

use dumpcore::format::{BLOCK_SIZE, Block};
use proptest::prelude::*;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, Report};
use savecore::partition::{self, Search};
use savecore::source::Source;

use crate::common::{Machine, Page, partition as formatted, write_dump};
use crate::core::Core;

/// A disk on which some blocks cannot be read: a request that hits one fails as a whole.
struct Dying {
    disk: Vec<u8>,
    bad: BTreeSet<u64>,
}

impl Source for Dying {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        if self.bad.range(first..first + into.len() as u64).next().is_some() {
            return Err(rustix::io::Errno::IO.into());
        }
        self.disk.read(first, into)
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        panic!("nothing is written on a dying disk")
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whichever blocks of a dump cannot be read, except its headers: every page whose blocks can all be read
    /// is in the core, byte for byte; every other page is listed, and so is every unreadable block.
    #[test]
    fn all_that_can_be_read_is_in_the_core_and_all_else_is_listed(
        bad in prop::collection::btree_set(2_u64..100, 1..12),
        unit_pages in prop::option::of(1_usize..5),
    ) {
        let machine = Machine { unit_pages, ..Machine::small() };
        let mut disk = formatted(200);
        let written = write_dump(&mut disk, 1, &machine);
        let last = written.end - 1;
        let source = Dying { disk, bad: bad.into_iter().filter(|block| *block < last).collect() };
        let scanned = partition::salvage(&source, Search::Quick, &mut ()).unwrap();
        prop_assert_eq!((scanned.dumps.len(), scanned.dumps[0].end), (1, written.end));
        let dump = Dump::open(&source, &scanned, &scanned.dumps[0]);
        let mut bytes = Vec::new();
        elf::write(&dump, &CoreOptions::default(), &mut bytes, &mut ()).unwrap();
        let core = Core::parse(&bytes);
        let mut lost = 0;
        for (pfn, page) in &machine.pages {
            let Page::Data(content) = page else { continue };
            let is_there = written.needs[pfn].iter().all(|block| !source.bad.contains(block));
            lost += u64::from(!is_there);
            let found = core.physical(pfn * BLOCK_SIZE as u64, BLOCK_SIZE as u64);
            prop_assert_eq!(found.as_deref(), is_there.then_some(&content[..]), "page {:#x}", pfn);
        }
        let report = Report::new(&dump);
        let missing: u64 = [report.pages.damaged, report.pages.absent, report.pages.not_written].into_iter().sum();
        prop_assert!(missing >= lost);
        for block in &source.bad {
            let is_listed = report.damage.iter().any(|damage| (damage.block..damage.block + damage.count).contains(block));
            // The contents of a chunk without a header are unknown.
            let is_hidden = written.chunks.iter().any(|chunk| source.bad.contains(chunk) && chunk <= block);
            prop_assert!(is_listed || is_hidden, "block {} is not told", block);
        }
    }
}

#[test]
fn an_unreadable_label_or_header_hides_no_page() {
    let machine = Machine::small();
    let mut disk = formatted(200);
    let written = write_dump(&mut disk, 1, &machine);
    for bad in [0, 1, written.end - 1] {
        let source = Dying { disk: disk.clone(), bad: [bad].into() };
        let scanned = partition::salvage(&source, Search::Quick, &mut ()).unwrap();
        let dump = Dump::open(&source, &scanned, &scanned.dumps[0]);
        assert_eq!(dump.pages().data, 47, "block {bad}");
    }
}

//! A kernel that survives its dump, and writes more of them while savecore works.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use dumpcore::format::BLOCK_SIZE;
use savecore::harvest::{Harvest, harvest};
use savecore::partition::{self, Search};
use savecore::source::{Access, Progress};
use savecore::store::{self, Limits};
use savecore::targets::{TargetName, Targets};

use super::faults::options;
use super::{Place, formatted};
use crate::common::{Machine, write_dump};

const BLOCKS: u64 = 1200;

/// A kernel that dumps `left` more times, each time that an operation named `when` starts.
struct Kernel<'p> {
    place: &'p Place,
    when: &'static str,
    left: u32,
    /// Dumps so far, and where the next one begins.
    dumps: u32,
    next: u64,
    warnings: Vec<String>,
}

impl Kernel<'_> {
    fn new<'p>(place: &'p Place, when: &'static str, left: u32) -> Kernel<'p> {
        place.image("image", &formatted(BLOCKS));
        let mut kernel = Kernel { place, when, left, dumps: 0, next: 1, warnings: Vec::new() };
        kernel.dump();
        kernel
    }

    fn dump(&mut self) {
        self.dumps += 1;
        let machine = Machine { nonce: self.dumps.into(), sequence: self.dumps, ..Machine::small() };
        let mut disk = formatted(BLOCKS);
        let end = write_dump(&mut disk, self.next, &machine).end;
        let bytes = self.next as usize * BLOCK_SIZE..end as usize * BLOCK_SIZE;
        let image = OpenOptions::new().write(true).open(self.place.path("image")).unwrap();
        image.write_all_at(&disk[bytes.clone()], bytes.start as u64).unwrap();
        self.next = end;
    }

    fn harvest(&mut self, search: Search) -> Harvest {
        let name = TargetName::of(self.place.path("image"));
        let mut targets = Targets::open(&[name], Access::Harvest, search, None, None, &mut ()).unwrap();
        let mut store = store::open(&self.place.out(), &Limits::default()).unwrap();
        harvest(&mut targets, store.as_mut(), &options(), self).unwrap()
    }

    fn is_armed(&self) -> bool {
        fs::read(self.place.path("image")).unwrap() == formatted(BLOCKS)
    }
}

impl Progress for Kernel<'_> {
    fn begin(&mut self, what: &str, _total: u64) {
        if what == self.when && self.left > 0 {
            self.left -= 1;
            self.dump();
        }
    }

    fn advance(&mut self, _blocks: u64) {}

    fn end(&mut self) {}

    fn warn(&mut self, line: &str) {
        self.warnings.push(line.to_owned());
    }
}

#[test]
fn dumps_that_come_while_others_are_saved_are_saved_too() {
    for more in 0..4 {
        let place = Place::new();
        let mut kernel = Kernel::new(&place, "checking the dump", more);
        let done = kernel.harvest(Search::Quick);
        assert_eq!((done.dumps.len() as u32, kernel.dumps), (more + 1, more + 1));
        assert!(done.dumps.iter().all(|saved| saved.cleared), "{done:?}");
        assert_eq!(kernel.warnings, [""; 0]);
        assert!(kernel.is_armed());
        assert_eq!(place.crashes("out").len() as u32, more + 1);
    }
}

#[test]
fn a_kernel_that_dumps_without_end_is_not_waited_for_and_loses_nothing() {
    let place = Place::new();
    let mut kernel = Kernel::new(&place, "checking the dump", u32::MAX);
    let done = kernel.harvest(Search::Quick);
    assert!(done.dumps.len() < 10 && kernel.dumps as usize > done.dumps.len());
    let [warning] = kernel.warnings.as_slice() else { panic!("{:?}", kernel.warnings) };
    assert!(
        warning.ends_with("another dump came while others were saved: the next run saves it"),
        "{warning}"
    );
    assert!(done.dumps.iter().all(|saved| !saved.cleared && saved.kept_because.is_some()));
    let scanned = partition::scan(&fs::read(place.path("image")).unwrap()).unwrap();
    assert_eq!(scanned.dumps.len() as u32, kernel.dumps, "there is a gap");

    (kernel.left, kernel.warnings) = (0, Vec::new());
    kernel.harvest(Search::Quick);
    assert!(kernel.is_armed() && kernel.warnings.is_empty());
    assert_eq!(place.crashes("out").len() as u32, kernel.dumps);
}

#[test]
fn a_dump_that_comes_while_others_are_freed_is_told_of_and_found() {
    let place = Place::new();
    let mut kernel = Kernel::new(&place, "writing the pattern again", 1);
    kernel.harvest(Search::Quick);
    let [warning] = kernel.warnings.as_slice() else { panic!("{:?}", kernel.warnings) };
    assert!(warning.contains("a dump came while others were freed: `savecore save --search`"), "{warning}");
    let done = kernel.harvest(Search::Whole);
    assert_eq!(done.dumps.len(), 1);
    assert!(kernel.is_armed());
    assert_eq!(place.crashes("out").len(), 2);
}

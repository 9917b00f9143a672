//! All known pages, in order, on several threads.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use dumpcore::format::{BLOCK_SIZE, Block};
use proptest::prelude::*;
use savecore::corefile::{CoreOptions, Sink, elf, pages};
use savecore::dump::Dump;
use savecore::source::Source;
use savecore::{Error, partition};

use crate::common::{Encrypt, Machine, Page, UUID, partition, write_dump};
use crate::roundtrip::known;

/// A file in memory that checks that its writer keeps the rules of [`Sink`].
#[derive(Default)]
struct Strict {
    bytes: Vec<u8>,
    begun: Option<(u64, Option<u64>)>,
    /// First byte that may be written next.
    at: u64,
    /// Whether the head is being written.
    in_head: bool,
    ended: bool,
}

impl Sink for Strict {
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()> {
        assert_eq!(self.begun, None, "begun twice");
        self.begun = Some((head, length));
        self.at = head;
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (head, length) = self.begun.expect("nothing is written before it is begun");
        if offset < head && !self.in_head {
            (self.in_head, self.at) = (true, 0);
        }
        assert!(offset >= self.at, "{offset} is in front of {}", self.at);
        self.at = offset + bytes.len() as u64;
        assert!(!self.in_head || self.at <= head, "the head reaches to {}, not {head}", self.at);
        assert!(length.is_none_or(|length| self.at <= length) && !self.ended);
        self.bytes.write_at(offset, bytes)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let (_, stated) = self.begun.expect("it was begun");
        assert!(stated.is_none_or(|stated| stated == length));
        self.ended = true;
        Sink::set_len(&mut self.bytes, length)
    }
}

/// Memory in stretches, with chunks as large as real ones, written in several passes.
fn machine() -> impl Strategy<Value = Machine> {
    let stretch = (1_u64..500, 0_u64..40, 0..4_u32);
    let stretches = prop::collection::vec(stretch, 1..8);
    let form = (prop::option::of(1_usize..=16), 1_u64..4, prop_oneof![4 => Just(false), 1 => Just(true)]);
    (stretches, 1_usize..=120, any::<usize>(), form).prop_map(
        |(stretches, chunk_pages, rotate, (unit_pages, passes, encrypted))| {
            let mut machine = Machine { chunk_pages, rotate, unit_pages, passes, ..Machine::new() };
            machine.encrypt = encrypted.then(Encrypt::new);
            let mut pfn = 0;
            for (count, gap, kind) in stretches {
                for seed in pfn..pfn + count {
                    let page = match (kind, seed % 5) {
                        (0, _) | (3, 0) => Page::Zero,
                        (1, _) | (3, 1) => Page::of(seed),
                        (3, 2) => Page::Unreadable,
                        _ => Page::dull(seed),
                    };
                    machine.pages.insert(seed, page);
                }
                pfn += count + gap;
            }
            machine
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_known_page_comes_once_in_order_whatever_the_number_of_threads(
        machine in machine(), threads in 1_usize..5
    ) {
        let mut disk = partition(3 * machine.pages.len() as u64 + 300);
        write_dump(&mut disk, 1, &machine);
        let found = partition::scan(&disk).unwrap();
        let dump = machine.open(&disk, &found, &found.dumps[0]);
        let mut runs = dump.index().runs().filter(|run| run.fate.is_present());
        let mut given = Vec::new();
        let work = |(): &mut (), piece: pages::Piece| {
            let mut all = Vec::new();
            for part in piece.parts() {
                for (number, pfn) in (0..part.count as usize).zip(part.pfn..) {
                    all.push((pfn, part.bytes.map_or([0; BLOCK_SIZE], |bytes| bytes[number])));
                }
            }
            all
        };
        pages::for_each(&dump, &mut runs, threads, &|| (), &work, &mut (), &mut |all| {
            given.extend(all);
            Ok(())
        })
        .unwrap();
        let expected = machine.pages.iter().filter_map(|(pfn, page)| Some((*pfn, known(Some(page))?)));
        prop_assert!(given.iter().map(|(pfn, bytes)| (*pfn, bytes.to_vec())).eq(expected));
    }

    #[test]
    fn a_core_does_not_depend_on_threads_and_is_written_as_stores_need_it(machine in machine()) {
        let mut disk = partition(3 * machine.pages.len() as u64 + 300);
        write_dump(&mut disk, 1, &machine);
        let found = partition::scan(&disk).unwrap();
        let dump = machine.open(&disk, &found, &found.dumps[0]);
        let cores: Vec<Vec<u8>> = [1, 2, 7]
            .into_iter()
            .map(|threads| {
                let mut core = Strict::default();
                elf::write(&dump, &CoreOptions { level: None, threads }, &mut core, &mut ()).unwrap();
                assert!(core.ended);
                core.bytes
            })
            .collect();
        prop_assert!(cores[0] == cores[1] && cores[0] == cores[2]);
    }
}

/// A disk on which one block changes after a dump was opened.
struct Changing {
    disk: Vec<u8>,
    block: u64,
    changed: AtomicBool,
}

impl Source for Changing {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.disk.read(first, into)?;
        let index = self.block.checked_sub(first).map(|index| index as usize);
        if let Some(block) = index.and_then(|index| into.get_mut(index))
            && self.changed.load(Ordering::Relaxed)
        {
            block[77] ^= 4;
        }
        Ok(())
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        panic!("nothing is written")
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_medium_that_gives_other_bytes_than_before_is_found_out() {
    for (unit_pages, encrypted) in [(None, false), (Some(4), false), (Some(4), true), (None, true)] {
        let mut machine = Machine { unit_pages, passes: 2, ..Machine::small() };
        machine.encrypt = encrypted.then(Encrypt::new);
        let mut disk = partition(150);
        let written = write_dump(&mut disk, 1, &machine);
        let mut first = 0;
        for block in written.first..written.end {
            let source = Changing { disk: disk.clone(), block, changed: AtomicBool::new(false) };
            let found = partition::scan(&source).unwrap();
            let dump = Dump::open_with(&source, UUID, &found.dumps[0], machine.identity().as_ref(), &mut ());
            let needed: Vec<u64> = written
                .needs
                .iter()
                .filter(|(_, needs)| needs.contains(&block))
                .map(|(pfn, _)| *pfn)
                .collect();
            source.changed.store(true, Ordering::Relaxed);
            match elf::write(&dump, &CoreOptions { level: None, threads: 2 }, &mut Vec::new(), &mut ()) {
                Ok(_) => assert!(needed.is_empty(), "block {block} changed and nobody saw it"),
                Err(Error::Unsteady { block: told }) => {
                    assert!(!needed.is_empty() && told <= block);
                    first += 1;
                }
                Err(error) => panic!("{error}"),
            }
            // Reads of single pages fail, too.
            for pfn in needed {
                dump.read_page(pfn).unwrap_err();
            }
        }
        assert!(first > 10, "{first}");
    }
}

//! Dumps that were cut short or damaged return what is there, name what is missing, and never return anything
//! wrong.
//!
//! One file: a list of independent tests.

use dumpcore::format::BLOCK_SIZE;
use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Status};
use proptest::prelude::*;
use savecore::Error;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, Encryption, PageState, Report};
use savecore::partition::{self, Defect, Ending, Search, Verdict};
use savecore::source::Source;

use crate::common::{
    Encrypt, Machine, Page, UUID, Written, block, block_mut, partition, stop_in_the_middle, unwrite,
    write_dump,
};
use crate::core::Core;
use crate::roundtrip::{expected, machine, pfns};

/// Each page is as in the machine, or reported as unknown, or not mentioned.
pub(crate) fn assert_nothing_wrong(dump: &Dump<'_>, machine: &Machine) {
    for pfn in pfns() {
        let state = dump.read_page(pfn).unwrap();
        let allowed = match state {
            PageState::Damaged | PageState::NotWritten | PageState::Absent => true,
            ref known => *known == expected(machine.pages.get(&pfn)),
        };
        assert!(allowed, "page {pfn} is {state:?}");
    }
}

/// Every page is known if all of its blocks are left.
pub(crate) fn assert_all_that_is_left(
    dump: &Dump<'_>,
    machine: &Machine,
    written: &Written,
    left: impl Fn(u64) -> bool,
) {
    for (pfn, needs) in &written.needs {
        if needs.iter().all(|number| left(*number)) {
            assert_eq!(dump.read_page(*pfn).unwrap(), expected(machine.pages.get(pfn)), "page {pfn}");
        }
    }
}

/// Writes the core and compares it with what the dump says.
pub(crate) fn assert_core_agrees(dump: &Dump<'_>) {
    let mut core = Vec::new();
    elf::write(dump, &CoreOptions::default(), &mut core, &mut ()).unwrap();
    let core = Core::parse(&core);
    for pfn in pfns() {
        let known = match dump.read_page(pfn).unwrap() {
            PageState::Data(bytes) => Some(bytes.to_vec()),
            PageState::Zero => Some(vec![0; 4096]),
            _ => None,
        };
        assert_eq!(core.physical(pfn * 4096, 4096), known, "page {pfn}");
    }
}

/// Every page of the machine is known, left out on purpose, or listed as missing.
fn assert_missing_is_named(dump: &Dump<'_>, machine: &Machine) {
    let pages = dump.pages();
    assert_eq!(pages.total, machine.pages.len() as u64);
    assert_eq!(pages.data + pages.zero + pages.left_out() + pages.missing(), pages.total);
    if dump.facts().damaged {
        return;
    }
    for pfn in machine.pages.keys() {
        let listed =
            dump.missing().iter().any(|missing| (missing.pfn..missing.pfn + missing.count).contains(pfn));
        let lost = match dump.read_page(*pfn).unwrap() {
            PageState::Data(_) | PageState::Zero | PageState::Arena | PageState::LeftOut(_) => false,
            // The arena is in the memory map, too, but is not a loss.
            PageState::Absent => machine.pages[pfn] != Page::Arena,
            _ => true,
        };
        assert_eq!(listed, lost, "page {pfn}");
    }
}

/// [`Machine::small`], written in every form.
fn small_machines() -> Vec<Machine> {
    let forms = [(None, false), (Some(3), false), (None, true), (Some(8), true)];
    let form = |(unit_pages, encrypted): (Option<usize>, bool)| {
        let mut machine = Machine { unit_pages, encrypt: encrypted.then(Encrypt::new), ..Machine::small() };
        for pfn in [3, 4, 7, 8, 9, 15, 16] {
            machine.pages.insert(pfn, Page::dull(pfn));
        }
        machine
    };
    forms.into_iter().map(form).collect()
}

#[test]
fn a_dump_cut_off_behind_any_block_gives_its_beginning() {
    for machine in small_machines() {
        let mut whole = partition(150);
        let written = write_dump(&mut whole, 1, &machine);
        for cut in written.first + 1..written.end {
            let mut disk = whole.clone();
            stop_in_the_middle(&mut disk, &written, |number| number < cut);
            let partition = partition::scan(&disk).unwrap();
            assert_eq!(partition.dumps.len(), 1, "cut at {cut}");
            let found = &partition.dumps[0];
            assert_eq!((found.ending, found.end), (Ending::Open, cut));
            let dump = machine.open(&disk, &partition, found);
            assert!(!dump.is_whole() && !dump.is_damaged(), "cut at {cut}");
            assert_nothing_wrong(&dump, &machine);
            assert_all_that_is_left(&dump, &machine, &written, |number| number < cut);
            assert_missing_is_named(&dump, &machine);
            if cut % 5 == 0 {
                assert_core_agrees(&dump);
            }
        }
    }
}

#[test]
fn a_dump_whose_front_header_was_not_closed_any_more_is_read_whole() {
    let machine = Machine::small();
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &machine);
    stop_in_the_middle(&mut disk, &written, |_| true);
    let partition = partition::scan(&disk).unwrap();
    let found = &partition.dumps[0];
    assert_eq!((found.ending, found.end), (Ending::AlmostClosed, written.end));
    let dump = Dump::open(&disk, &partition, found);
    assert_missing_is_named(&dump, &machine);
    assert_eq!(dump.pages().missing(), 1);
    assert_eq!(Report::new(&dump).status, "unfinished");
}

#[test]
fn a_second_dump_behind_an_unfinished_one_is_found() {
    let first = Machine { window: 40, ..Machine::small() };
    let mut disk = partition(400);
    let written = write_dump(&mut disk, 1, &first);
    stop_in_the_middle(&mut disk, &written, |number| number < 20);
    let second = Machine { sequence: 2, nonce: 99, ..Machine::small() };
    let behind = write_dump(&mut disk, 20, &second);
    let partition = partition::scan(&disk).unwrap();
    let places: Vec<_> = partition.dumps.iter().map(|found| (found.first, found.end)).collect();
    assert_eq!(places, [(1, 20), (20, behind.end)]);
    assert_nothing_wrong(&Dump::open(&disk, &partition, &partition.dumps[0]), &first);
    let dump = Dump::open(&disk, &partition, &partition.dumps[1]);
    assert_eq!(dump.pages().missing(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn writes_in_flight_when_the_power_went_leave_holes_and_nothing_wrong(
        machine in machine(), cut in 2_u64..120, survived in any::<u64>()
    ) {
        let mut disk = partition(400);
        let written = write_dump(&mut disk, 1, &machine);
        // Within the window after the cut, any write may have arrived.
        let window = u64::from(machine.window).min(60);
        let left = |number: u64| {
            number < cut || (number - cut + 1 < window && survived >> (number - cut) & 1 == 1)
        };
        stop_in_the_middle(&mut disk, &written, left);
        let partition = partition::scan(&disk).unwrap();
        prop_assert_eq!(partition.dumps.len(), 1);
        let dump = machine.open(&disk, &partition, &partition.dumps[0]);
        assert_nothing_wrong(&dump, &machine);
        assert_all_that_is_left(&dump, &machine, &written, left);
        assert_missing_is_named(&dump, &machine);
        prop_assert!(!dump.is_damaged());
        partition::clear(&mut disk, &UUID, &partition.dumps[0], &mut ()).unwrap();
        prop_assert_eq!(partition::check(&disk, &mut ()).unwrap().verdict, Verdict::Ready);
    }

    #[test]
    fn flipped_bits_cost_the_pages_they_hit_and_are_told(
        machine in machine(), flips in prop::collection::vec((any::<u32>(), 0_u8..8), 1..6)
    ) {
        let mut disk = partition(400);
        let written = write_dump(&mut disk, 1, &machine);
        let bytes = (written.end - 1) * BLOCK_SIZE as u64;
        let mut hit: Vec<u64> = Vec::new();
        for (place, bit) in flips {
            let place = BLOCK_SIZE as u64 + u64::from(place) % bytes;
            disk[place as usize] ^= 1 << bit;
            hit.push(place / BLOCK_SIZE as u64);
        }
        hit.sort_unstable();
        let twice = hit.windows(2).any(|pair| pair[0] == pair[1]);
        let partition = partition::scan_with(&disk, Search::Whole, &mut ()).unwrap();
        for found in &partition.dumps {
            let dump = machine.open(&disk, &partition, found);
            assert_nothing_wrong(&dump, &machine);
            prop_assert!(dump.is_damaged() || twice);
            if partition.dumps.len() == 1 {
                assert_all_that_is_left(&dump, &machine, &written, |number| !hit.contains(&number));
            }
        }
        let check = partition::check(&disk, &mut ()).unwrap();
        prop_assert!(check.verdict == Verdict::Damaged || twice);
    }

    #[test]
    fn whatever_lies_on_a_partition_is_read_without_panic_and_in_bounds(
        machine in machine(),
        noise in prop::collection::vec((any::<u32>(), any::<u8>(), 0_u8..6), 1..40)
    ) {
        let mut disk = partition(300);
        write_dump(&mut disk, 1, &machine);
        // Fields are damaged and checksums corrected, so that what the fields say is believed.
        for (place, value, action) in noise {
            let number = 1 + u64::from(place) % 299;
            let offset = (place / 299) as usize % 300;
            let bytes = block_mut(&mut disk, number);
            match action {
                0 => bytes[(place >> 8) as usize % BLOCK_SIZE] = value,
                1 => bytes.fill(value),
                2 => unwrite(&mut disk, number),
                _ => {
                    bytes[offset] = value;
                    dumpcore::format::frame::set_checksum(bytes);
                }
            }
        }
        for search in [Search::Quick, Search::Whole] {
            let partition = partition::scan_with(&disk, search, &mut ()).unwrap();
            let mut next = 1;
            for found in &partition.dumps {
                prop_assert!(found.first >= next && found.end > found.first && found.end <= 300);
                next = found.end;
                let dump = machine.open(&disk, &partition, found);
                Report::new(&dump);
                for pfn in 0..90 {
                    dump.read_page(pfn).unwrap();
                }
                if dump.pages().data + dump.pages().zero < 10_000 {
                    match elf::write(&dump, &CoreOptions::default(), &mut Vec::new(), &mut ()) {
                        Err(Error::Encrypted) => prop_assert_eq!(dump.encryption(), Encryption::Refused),
                        result => drop(result.unwrap()),
                    }
                }
            }
        }
        partition::check(&disk, &mut ()).unwrap();
    }
}

#[test]
fn a_damaged_front_header_hides_no_page() {
    let machine = Machine::small();
    let mut disk = partition(300);
    let written = write_dump(&mut disk, 1, &machine);
    let behind = write_dump(&mut disk, written.end, &Machine { sequence: 2, nonce: 5, ..machine.clone() });
    block_mut(&mut disk, 1)[100] ^= 1;
    let partition = partition::scan(&disk).unwrap();
    let places: Vec<_> = partition.dumps.iter().map(|found| (found.first, found.end, found.ending)).collect();
    assert_eq!(places, [(1, written.end, Ending::FrontLost), (written.end, behind.end, Ending::Closed)]);
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    assert!(dump.is_damaged());
    assert_eq!(dump.pages().missing(), 1);
    assert_all_that_is_left(&dump, &machine, &written, |_| true);
}

#[test]
fn with_both_headers_lost_the_chunks_still_give_all_pages() {
    for machine in small_machines() {
        let mut disk = partition(300);
        let written = write_dump(&mut disk, 1, &machine);
        block_mut(&mut disk, written.first).fill(0x55);
        block_mut(&mut disk, written.end - 1).fill(0x55);
        let partition = partition::scan(&disk).unwrap();
        assert_eq!(partition.dumps.len(), 1);
        assert_eq!(partition.dumps[0].ending, Ending::BothLost);
        let dump = machine.open(&disk, &partition, &partition.dumps[0]);
        assert!(dump.is_damaged());
        assert_eq!(dump.authentic(), None);
        assert_eq!(dump.pages().missing(), 1);
        assert_eq!(dump.facts().message, machine.message);
        assert_all_that_is_left(&dump, &machine, &written, |_| true);
    }
}

#[test]
fn with_both_headers_lost_what_lies_in_front_of_the_dump_is_not_freed_with_it() {
    let machine = Machine::small();
    for lost_chunks in 0..2 {
        let mut disk = partition(300);
        for number in 1..10 {
            block_mut(&mut disk, number).fill(0xc3);
        }
        let written = write_dump(&mut disk, 10, &machine);
        block_mut(&mut disk, written.end - 1).fill(0x55);
        block_mut(&mut disk, written.first).fill(0x55);
        // Without its first chunk, the start of the dump is unknown.
        let first = written.chunks[lost_chunks] - u64::from(lost_chunks == 0);
        for number in written.first + 1..written.chunks[lost_chunks] {
            block_mut(&mut disk, number).fill(0x66);
        }
        for search in [Search::Quick, Search::Whole] {
            let mut disk = disk.clone();
            let partition = partition::scan_with(&disk, search, &mut ()).unwrap();
            let [found] = &partition.dumps[..] else { panic!("{} dumps", partition.dumps.len()) };
            assert_eq!((found.first, found.end, found.ending), (first, written.end, Ending::BothLost));
            assert_eq!(partition.foreign, vec![1..first]);
            assert_all_that_is_left(&Dump::open(&disk, &partition, found), &machine, &written, |number| {
                number >= written.chunks[lost_chunks]
            });
            let before = disk.clone();
            partition::clear(&mut disk, &UUID, found, &mut ()).unwrap();
            let kept = ..first as usize * BLOCK_SIZE;
            assert!(disk[kept] == before[kept], "a block in front of the dump was changed");
        }
    }
}

#[test]
fn an_unproven_block_is_torn_within_the_window_and_foreign_behind_it() {
    let machine = Machine { window: 4, ..Machine::small() };
    let mut whole = partition(300);
    let written = write_dump(&mut whole, 1, &machine);
    let last = 24;
    // Between the dump's whole blocks and after them, inside the last chunk's payload and outside of it.
    for bad in written.first + 1..200 {
        let mut disk = whole.clone();
        stop_in_the_middle(&mut disk, &written, |number| number <= last);
        let header = written.chunks.contains(&bad);
        block_mut(&mut disk, bad).fill(0x77);
        let partition = partition::scan(&disk).unwrap();
        let found = &partition.dumps[0];
        let dump = Dump::open(&disk, &partition, found);
        // A chunk whose header is gone proves nothing, and neither does its payload.
        if header && bad <= last {
            continue;
        }
        let proven = if bad == last { last - 1 } else { last };
        assert_eq!((found.ending, found.end), (Ending::Open, bad.max(last) + 1));
        assert_eq!(dump.is_damaged(), bad > proven + 4, "block {bad}");
        let foreign = dump.foreign().first().map(|foreign| (foreign.first, foreign.count));
        assert_eq!(foreign, (bad > proven + 4).then_some((bad, 1)), "block {bad}");
    }
    // A run of bad blocks across the window's edge is reported in two parts.
    let mut disk = whole.clone();
    stop_in_the_middle(&mut disk, &written, |number| number <= last);
    for number in last + 1..last + 11 {
        block_mut(&mut disk, number).fill(0x77);
    }
    let partition = partition::scan(&disk).unwrap();
    let report = Report::new(&Dump::open(&disk, &partition, &partition.dumps[0]));
    let told: Vec<_> =
        report.damage.iter().map(|damage| (damage.block, damage.count, damage.what.as_str())).collect();
    assert_eq!(told, [(last + 1, 4, "damaged"), (last + 5, 6, "foreign")]);
    assert_eq!((report.first_foreign, report.foreign_blocks), (Some(last + 5), 6));
}

#[test]
fn a_lost_chunk_header_costs_its_chunk_and_no_other() {
    let all = small_machines();
    for (machine, lost) in all.iter().flat_map(|machine| (0..8).map(move |lost| (machine, lost))) {
        let mut disk = partition(300);
        let written = write_dump(&mut disk, 1, machine);
        let header = written.chunks[lost];
        block_mut(&mut disk, header)[9] ^= 0x10;
        let partition = partition::scan(&disk).unwrap();
        let dump = machine.open(&disk, &partition, &partition.dumps[0]);
        assert!(dump.is_damaged());
        assert_all_that_is_left(&dump, machine, &written, |number| number != header);
        assert_nothing_wrong(&dump, machine);
        assert_core_agrees(&dump);
        let report = Report::new(&dump);
        assert_eq!(report.chunks + 1, report.chunks_expected.unwrap());
    }
}

#[test]
fn foreign_data_in_front_of_the_free_blocks_is_told_and_not_taken_for_a_dump() {
    let mut disk = partition(60);
    block_mut(&mut disk, 1).fill(7);
    block_mut(&mut disk, 2).fill(0);
    let partition = partition::scan(&disk).unwrap();
    assert!(partition.dumps.is_empty());
    assert_eq!(partition.foreign, vec![1..3]);
    let check = partition::check(&disk, &mut ()).unwrap();
    assert_eq!((check.verdict, check.bad_blocks), (Verdict::Damaged, 2));
    assert_eq!(check.first_bad.unwrap().holds, "foreign data");
}

#[test]
fn check_finds_one_wrong_bit_in_any_block() {
    let whole = partition(40);
    for number in 1..40 {
        let mut disk = whole.clone();
        let place = (number as usize * 977) % BLOCK_SIZE;
        block_mut(&mut disk, number)[place] ^= 0x80;
        let check = partition::check(&disk, &mut ()).unwrap();
        assert_eq!(check.verdict, Verdict::Damaged);
        assert_eq!(check.first_bad.unwrap().block, number);
    }
}

#[test]
fn without_a_dump_a_damaged_label_and_one_for_another_size_are_refused() {
    let salvage = |disk: &Vec<u8>| partition::salvage(disk, Search::Quick, &mut ());
    let mut disk = partition(40);
    disk.truncate(30 * BLOCK_SIZE);
    assert!(matches!(partition::scan(&disk), Err(Error::OtherSize { label: 40, partition: 30 })));
    assert!(matches!(salvage(&disk), Err(Error::OtherSize { label: 40, partition: 30 })));
    disk[70] ^= 1;
    assert!(matches!(partition::scan(&disk), Err(Error::Unformatted { .. })));
    assert!(matches!(salvage(&disk), Err(Error::Unformatted { .. })));
    assert_eq!(partition::waiting(&disk, None).unwrap(), (0, None));
}

#[test]
fn two_dumps_behind_a_damaged_label_are_read_as_if_it_were_whole() {
    let machine = machine_of_two();
    let mut disk = partition(300);
    let first = write_dump(&mut disk, 1, &machine[0]);
    write_dump(&mut disk, first.end, &machine[1]);
    let whole = partition::scan(&disk).unwrap();
    for bit in [0, 70 * 8, BLOCK_SIZE * 8 - 1] {
        let mut disk = disk.clone();
        disk[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(partition::scan(&disk), Err(Error::Unformatted { .. })));
        let salvaged = partition::salvage(&disk, Search::Quick, &mut ()).unwrap();
        assert_eq!((salvaged.defect, salvaged.uuid()), (Some(Defect::LabelDamaged), UUID));
        assert_eq!(partition::waiting(&disk, None).unwrap(), (2, Some(Defect::LabelDamaged)));
        for ((found, as_before), machine) in salvaged.dumps.iter().zip(&whole.dumps).zip(&machine) {
            assert_eq!((found.range(), found.ending), (as_before.range(), Ending::Closed));
            let dump = Dump::open(&disk, &salvaged, found);
            assert!(!dump.is_damaged());
            for (pfn, page) in &machine.pages {
                assert_eq!(dump.read_page(*pfn).unwrap(), expected(Some(page)), "page {pfn}");
            }
        }
        assert_eq!(salvaged.dumps.len(), 2);
    }
}

fn machine_of_two() -> [Machine; 2] {
    let mut second = Machine::small();
    (second.nonce, second.sequence) = (7, 2);
    [Machine::small(), second]
}

#[test]
fn a_copy_cut_anywhere_gives_all_pages_that_it_holds_and_nothing_wrong() {
    let machine = Machine::small();
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &machine);
    for blocks in 5..150 {
        let cut = disk[..blocks as usize * BLOCK_SIZE].to_vec();
        let salvaged = partition::salvage(&cut, Search::Quick, &mut ()).unwrap();
        assert_eq!(salvaged.defect, Some(Defect::Short { label: 150, partition: blocks }));
        assert_eq!(salvaged.dumps.len(), 1, "{blocks} blocks");
        let dump = Dump::open(&cut, &salvaged, &salvaged.dumps[0]);
        assert!(dump.found().end <= blocks);
        assert_eq!(dump.is_damaged(), blocks < written.end, "{blocks} blocks");
        assert_nothing_wrong(&dump, &machine);
        assert_all_that_is_left(&dump, &machine, &written, |number| number < blocks);
    }
}

#[test]
fn what_lies_behind_the_end_that_the_label_says_is_not_part_of_a_dump() {
    let mut disk = partition(100);
    let written = write_dump(&mut disk, 1, &Machine::small());
    stop_in_the_middle(&mut disk, &written, |number| number < 30);
    disk.resize(150 * BLOCK_SIZE, 7);
    let salvaged = partition::salvage(&disk, Search::Quick, &mut ()).unwrap();
    assert_eq!(salvaged.defect, Some(Defect::Long { label: 100, partition: 150 }));
    assert_eq!(salvaged.dumps[0].range(), 1..30);
}

#[test]
fn a_dump_behind_a_label_that_cannot_be_read_is_seen_and_without_block_1_nobody_can_tell() {
    let mut disk = partition(150);
    let mut source = Faulty { disk: disk.clone(), writes_left: 0, unreadable: vec![0] };
    assert_eq!(partition::waiting(&source, None).unwrap(), (0, None));
    write_dump(&mut disk, 1, &Machine::small());
    source.disk = disk;
    assert_eq!(partition::waiting(&source, None).unwrap(), (1, Some(Defect::LabelUnreadable)));
    assert!(matches!(partition::scan(&source), Err(Error::Read { block: 0, .. })));
    let salvaged = partition::salvage(&source, Search::Quick, &mut ()).unwrap();
    assert!(!Dump::open(&source, &salvaged, &salvaged.dumps[0]).is_damaged());
    source.unreadable.push(1);
    assert!(matches!(partition::waiting(&source, None), Err(Error::Read { block: 1, .. })));
}

/// A disk that fails after some writes, and has sectors that cannot be read.
struct Faulty {
    disk: Vec<u8>,
    writes_left: usize,
    unreadable: Vec<u64>,
}

impl Source for Faulty {
    fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    fn read(&self, first: u64, into: &mut [[u8; BLOCK_SIZE]]) -> std::io::Result<()> {
        if self.unreadable.iter().any(|number| (first..first + into.len() as u64).contains(number)) {
            return Err(std::io::Error::other("medium error"));
        }
        self.disk.read(first, into)
    }

    fn write(&mut self, first: u64, from: &[[u8; BLOCK_SIZE]]) -> std::io::Result<()> {
        for (number, bytes) in (first..).zip(from) {
            if self.writes_left == 0 {
                return Err(std::io::Error::other("power cut"));
            }
            self.writes_left -= 1;
            self.disk.write(number, std::slice::from_ref(bytes))?;
        }
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn clearing_can_be_interrupted_after_any_write_and_finished_later() {
    let empty = partition(150);
    let mut disk = empty.clone();
    let machine = Machine::small();
    let written = write_dump(&mut disk, 1, &machine);
    for writes in 0..written.end as usize {
        let mut source = Faulty { disk: disk.clone(), writes_left: writes, unreadable: Vec::new() };
        let partition = partition::scan(&source).unwrap();
        partition::clear(&mut source, &UUID, &partition.dumps[0], &mut ()).unwrap_err();
        source.writes_left = usize::MAX;
        let partition = partition::scan(&source).unwrap();
        assert_eq!(partition.dumps.len(), 1, "after {writes} writes");
        let found = &partition.dumps[0];
        assert_eq!((found.first, found.end), (1, written.end));
        // Before the first write the dump waits as before; after it, it is known to be saved.
        assert_eq!(found.header.status() == Status::Saved, writes > 0);
        assert_eq!(partition.waiting().count(), usize::from(writes == 0));
        partition::clear(&mut source, &UUID, found, &mut ()).unwrap();
        assert!(source.disk == empty, "after {writes} writes");
    }
}

#[test]
fn an_unfinished_dump_that_was_saved_says_where_it_ends() {
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &Machine::small());
    stop_in_the_middle(&mut disk, &written, |number| number < 30);
    let partition = partition::scan(&disk).unwrap();
    partition::mark_saved(&mut disk, &partition.dumps[0], None).unwrap();
    let header = Header::parse(block(&disk, 1), Kind::Front).unwrap();
    assert_eq!((header.status(), header.end_block.get()), (Status::Saved, 30));
}

#[test]
fn sectors_that_cannot_be_read_cost_their_page_alone() {
    let machine = Machine::small();
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &machine);
    let (_, bad) = written.places[&5];
    let source = Faulty { disk, writes_left: 0, unreadable: vec![bad, 100] };
    let partition = partition::scan(&source).unwrap();
    let dump = Dump::open(&source, &partition, &partition.dumps[0]);
    assert!(dump.is_damaged());
    assert_eq!(dump.read_page(5).unwrap(), PageState::Damaged);
    assert_all_that_is_left(&dump, &machine, &written, |number| number != bad);
    let check = partition::check(&source, &mut ()).unwrap();
    assert_eq!(check.bad_blocks, 1);
    assert_eq!(check.first_bad.unwrap().block, 100);
}

#[test]
fn an_interrupted_format_leaves_no_label() {
    let old = partition(50);
    let plan =
        partition::Plan { uuid: [9; 16], name: String::new(), created: 0, recipient: None, machine: None };
    for writes in 0..50 {
        let mut source = Faulty { disk: old.clone(), writes_left: writes, unreadable: Vec::new() };
        partition::format(&mut source, &plan, &mut ()).unwrap_err();
        if writes == 0 {
            assert!(source.disk == old);
        } else {
            assert!(matches!(partition::scan(&source), Err(Error::Unformatted { .. })), "{writes} writes");
        }
    }
}

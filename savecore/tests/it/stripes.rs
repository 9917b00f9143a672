//! Dumps that are striped over several partitions.

use proptest::prelude::*;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, DumpRef, Part, Report, gather};
use savecore::partition::{self, Partition, Search};

use crate::common::{
    Machine, Page, Stripe, Written, block, block_mut, partition, stop_in_the_middle, write_dump,
    write_striped,
};
use crate::core::Core;
use crate::damage::{assert_core_agrees, assert_nothing_wrong};
use crate::roundtrip::{expected, known, machine, missing_from_the_start, pfns};

/// Partitions with a dump striped over them; each stripe begins at its block in `firsts`.
fn striped(machine: &Machine, firsts: &[u64]) -> (Vec<Vec<u8>>, Vec<Written>) {
    let mut disks: Vec<Vec<u8>> = firsts.iter().map(|_| partition(400)).collect();
    for (number, (disk, first)) in disks.iter_mut().zip(firsts).enumerate() {
        fill_up(disk, *first, number as u64);
    }
    let mut stripes: Vec<Stripe<'_>> =
        disks.iter_mut().zip(firsts).map(|(disk, first)| Stripe { disk, first: *first }).collect();
    let written = write_striped(&mut stripes, machine);
    (disks, written)
}

/// Writes another dump before block `first`, if there is room.
fn fill_up(disk: &mut Vec<u8>, first: u64, number: u64) {
    if first > 1 {
        let mut machine = Machine { nonce: 1000 + number, log: String::new(), ..Machine::new() };
        // Front header, notes and their chunk header, a memory chunk's header, and the back header.
        for pfn in 0..first - 6 {
            machine.pages.insert(pfn, Page::of(pfn));
        }
        machine.chunk_pages = 128;
        let written = write_dump(disk, 1, &machine);
        assert_eq!(written.end, first);
    }
}

fn scan(disks: &[Vec<u8>]) -> Vec<Partition> {
    disks.iter().map(|disk| partition::scan(disk).unwrap()).collect()
}

/// A dump on one of the partitions.
fn dump_at(target: usize, dump: usize) -> DumpRef {
    DumpRef { target, dump }
}

fn open<'d>(
    machine: &Machine,
    disks: &'d [Vec<u8>],
    partitions: &[Partition],
    group: &[DumpRef],
) -> Dump<'d> {
    let part = |DumpRef { target, dump }: &DumpRef| Part {
        source: &disks[*target],
        uuid: partitions[*target].uuid(),
        found: partitions[*target].dumps[*dump].clone(),
    };
    Dump::open_parts(group.iter().map(part).collect(), machine.identity().as_ref(), &mut ())
}

#[test]
fn stripes_are_found_among_other_dumps_whatever_the_order_of_their_partitions() {
    let machine = Machine { unit_pages: Some(4), ..Machine::small() };
    let (mut disks, _) = striped(&machine, &[1, 20, 9]);
    let mut second = machine.clone();
    (second.nonce, second.sequence) = (77, 2);
    let frees: Vec<u64> = scan(&disks).iter().map(|partition| partition.free).collect();
    let [a, b, c] = &mut disks[..] else { unreachable!() };
    let mut stripes = [Stripe { disk: c, first: frees[2] }, Stripe { disk: a, first: frees[0] }];
    write_striped(&mut stripes, &second);
    let alone = Machine { nonce: 5, ..machine.clone() };
    write_dump(b, frees[1], &alone);
    let partitions = scan(&disks);
    let groups = gather(&partitions);
    let expected_groups = [
        vec![dump_at(0, 0), dump_at(1, 1), dump_at(2, 1)],
        vec![dump_at(2, 2), dump_at(0, 1)],
        vec![dump_at(1, 0)],
        vec![dump_at(1, 2)],
        vec![dump_at(2, 0)],
    ];
    assert_eq!(groups, expected_groups);
    for (group, machine) in [(&groups[0], &machine), (&groups[1], &second), (&groups[3], &alone)] {
        let dump = open(machine, &disks, &partitions, group);
        assert!(!dump.is_damaged());
        for pfn in pfns() {
            assert_eq!(dump.read_page(pfn).unwrap(), expected(machine.pages.get(&pfn)), "page {pfn}");
        }
    }
    // The same partition given twice is not two stripes.
    let twice: Vec<Partition> =
        [0, 0, 1, 2].iter().map(|index| partition::scan(&disks[*index]).unwrap()).collect();
    let groups = gather(&twice);
    assert!(
        groups.contains(&vec![dump_at(0, 0), dump_at(2, 1), dump_at(3, 1)])
            && groups.contains(&vec![dump_at(1, 0)])
    );
}

#[test]
fn a_missing_stripe_is_told_by_its_number_and_its_pages_are_absent() {
    let machine = Machine::small();
    let (disks, written) = striped(&machine, &[1, 1, 1]);
    let partitions = scan(&disks);
    for given in [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2]] {
        let group: Vec<DumpRef> = given.iter().map(|index| dump_at(*index, 0)).collect();
        let dump = open(&machine, &disks, &partitions, &group);
        let missing: Vec<u32> = (0..3).filter(|stripe| !given.contains(&(*stripe as usize))).collect();
        assert_eq!((dump.stripes(), dump.missing_stripes()), (3, &missing[..]));
        assert!(!dump.is_whole() && !dump.is_damaged(), "{given:?}");
        assert_nothing_wrong(&dump, &machine);
        assert_core_agrees(&dump);
        for (index, written) in written.iter().enumerate() {
            for pfn in written.places.keys() {
                let there = given.contains(&index).then(|| machine.pages.get(pfn)).flatten();
                assert_eq!(dump.read_page(*pfn).unwrap(), expected(there), "page {pfn}");
            }
        }
        let report = Report::new(&dump);
        assert_eq!((report.missing_stripes, report.parts.len()), (missing, given.len()));
        assert!(report.pages.absent > 0);
    }
}

#[test]
fn a_stripe_that_is_damaged_or_unfinished_makes_the_dump_so() {
    let machine = Machine { unit_pages: Some(2), ..Machine::small() };
    let (disks, written) = striped(&machine, &[1, 1]);
    for stripe in 0..2 {
        let group = [dump_at(0, 0), dump_at(1, 0)];
        let mut changed = disks.clone();
        let chunk = written[stripe].chunks[1];
        block_mut(&mut changed[stripe], chunk + 1)[5] ^= 1;
        let partitions = scan(&changed);
        let dump = open(&machine, &changed, &partitions, &group);
        assert!(dump.is_damaged());
        let report = Report::new(&dump);
        let told: Vec<_> = report.damage.iter().map(|damage| (damage.stripe, damage.block)).collect();
        assert_eq!((told, report.status), (vec![(stripe as u32, chunk + 1)], "complete"));
        assert_nothing_wrong(&dump, &machine);

        let mut changed = disks.clone();
        stop_in_the_middle(&mut changed[stripe], &written[stripe], |number| number < chunk + 2);
        let partitions = scan(&changed);
        let dump = open(&machine, &changed, &partitions, &group);
        assert!(!dump.is_damaged() && !dump.is_whole());
        assert_eq!(Report::new(&dump).status, "unfinished");
        assert_nothing_wrong(&dump, &machine);

        // Without its headers, a partition's stripe number is unknown, but its chunks say where they belong.
        let mut changed = disks.clone();
        block_mut(&mut changed[stripe], written[stripe].first).fill(3);
        block_mut(&mut changed[stripe], written[stripe].end - 1).fill(3);
        let partitions = scan(&changed);
        let groups = gather(&partitions);
        assert_eq!(groups.len(), 1);
        let dump = open(&machine, &changed, &partitions, &groups[0]);
        assert!(dump.is_damaged());
        assert_eq!(dump.pages().missing(), 1);
        for pfn in pfns() {
            assert_eq!(dump.read_page(pfn).unwrap(), expected(machine.pages.get(&pfn)), "page {pfn}");
        }
    }
}

#[test]
fn a_stripe_that_was_marked_as_saved_means_that_the_whole_dump_was() {
    let machine = Machine::small();
    let (mut disks, _) = striped(&machine, &[1, 1]);
    let partitions = scan(&disks);
    partition::mark_saved(&mut disks[1], &partitions[1].dumps[0], None).unwrap();
    let partitions = scan(&disks);
    let groups = gather(&partitions);
    assert_eq!(groups, [[dump_at(0, 0), dump_at(1, 0)]]);
    assert_eq!(Report::new(&open(&machine, &disks, &partitions, &groups[0])).status, "saved");
}

#[test]
fn a_chunk_that_is_there_twice_is_damage() {
    let machine = Machine { chunk_pages: 8, ..Machine::small() };
    let (mut disks, written) = striped(&machine, &[1, 1]);
    use dumpcore::format::chunk::ChunkHeader;
    use zerocopy::IntoBytes;
    let index = ChunkHeader::of(block(&disks[0], written[0].chunks[1])).unwrap().index;
    let chunk = written[1].chunks[1];
    let mut header = ChunkHeader::of(block(&disks[1], chunk)).unwrap().clone();
    header.index = index;
    let slot = block_mut(&mut disks[1], chunk);
    slot.copy_from_slice(header.as_bytes());
    dumpcore::format::frame::set_checksum(slot);
    let partitions = scan(&disks);
    let dump = open(&machine, &disks, &partitions, &[dump_at(0, 0), dump_at(1, 0)]);
    assert!(dump.is_damaged() && !dump.is_whole());
    assert!(dump.damage().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_dump_striped_over_several_partitions_gives_one_core_that_equals_the_memory(
        machine in machine(), firsts in prop::collection::vec(prop_oneof![Just(1_u64), 7_u64..40], 2..=4)
    ) {
        let (disks, _) = striped(&machine, &firsts);
        let partitions: Vec<Partition> =
            disks.iter().map(|disk| partition::scan_with(disk, Search::Whole, &mut ()).unwrap()).collect();
        let groups = gather(&partitions);
        let group = groups.iter().find(|group| group.len() > 1).unwrap();
        prop_assert_eq!(group.len(), firsts.len());
        let dump = open(&machine, &disks, &partitions, group);
        prop_assert!(!dump.is_damaged());
        prop_assert_eq!(dump.is_whole(), missing_from_the_start(&machine) == 0);
        prop_assert_eq!(dump.pages().total, machine.pages.len() as u64);
        let mut core = Vec::new();
        elf::write(&dump, &CoreOptions::default(), &mut core, &mut ()).unwrap();
        let core = Core::parse(&core);
        for pfn in pfns() {
            prop_assert_eq!(dump.read_page(pfn).unwrap(), expected(machine.pages.get(&pfn)), "page {}", pfn);
            prop_assert_eq!(core.physical(pfn * 4096, 4096), known(machine.pages.get(&pfn)), "page {}", pfn);
        }
    }
}

//! The whole way on a simulated machine: what savecore gives back equals the memory, or says what is missing.

use std::collections::BTreeSet;

use dumpcore::arm::{Config, Ownership, Target};
use dumpcore::crash::Outcome;
use dumpcore::format::{BLOCK_SIZE, PAGE_BYTES};
use dumpcore::platform::{RamRange, Registers};
use dumpcore::sim::{Disk, DiskFault, Machine, MachineFault};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{ResetPolicy, Verify};
use proptest::prelude::*;
use savecore::dump::{Dump, PageState};
use savecore::partition;

const UUID: [u8; 16] = *b"the whole way...";
const FIRST: u64 = 2;
const ARENA: usize = 128 << 10;

/// A machine's memory, in pages.
#[derive(Clone, Debug)]
struct Memory {
    ram: Vec<RamRange>,
    filled: BTreeSet<u64>,
    unreadable: BTreeSet<u64>,
    /// All pages but every so many-th are read by the disk where they are.
    still: Option<u64>,
    seed: u64,
}

impl Memory {
    /// Page frames of whole pages in the map.
    fn pfns(&self) -> BTreeSet<u64> {
        let whole = |range: &RamRange| range.start.div_ceil(PAGE_BYTES)..range.end / PAGE_BYTES;
        self.ram.iter().flat_map(whole).collect()
    }

    fn arena(&self) -> std::ops::Range<u64> {
        let first = self.ram[0].start.div_ceil(PAGE_BYTES);
        first..first + ARENA as u64 / PAGE_BYTES
    }
}

prop_compose! {
    /// Ranges with odd ends, holes and overlaps, the first with room for the arena.
    fn memories()(
        start in 0..8_u64,
        others in proptest::collection::vec((0x80..0x200_u64, 0..0x40_u64, 0..0x1000_u64, 0..0x1000_u64), 0..5),
        high: bool,
        filled in proptest::collection::btree_set(0..0x240_u64, 0..120),
        unreadable in proptest::collection::btree_set(0..0x240_u64, 0..4),
        still in proptest::option::of(2..9_u64),
        seed: u64,
    ) -> Memory {
        let mut ram = vec![RamRange { start: start * PAGE_BYTES, end: (start + 0x40) * PAGE_BYTES }];
        for (first, pages, before, behind) in others {
            let first = if high && first > 0x100 { first + 0x10_0000 } else { first };
            let start = first * PAGE_BYTES + before;
            ram.push(RamRange { start, end: start + pages * PAGE_BYTES + behind });
        }
        Memory { ram, filled, unreadable, still, seed }
    }
}

fn machine(memory: &Memory, disk: &Disk) -> &'static mut Machine {
    let machine = Machine::new(memory.ram.clone(), ARENA, disk);
    let pfns: Vec<u64> = memory.pfns().into_iter().collect();
    for pick in &memory.filled {
        machine.fill_page(pfns[*pick as usize % pfns.len()], memory.seed);
    }
    for pick in &memory.unreadable {
        machine.make_unreadable(pfns[*pick as usize % pfns.len()]);
    }
    let mut stopped = Registers::ZERO;
    stopped.general[16] = 0x1234;
    // Pages are only still when all CPUs are.
    let third = memory.still.map(|_| stopped);
    machine.set_cpus(vec![Some(Registers::ZERO), Some(stopped), third]);
    if let Some(every) = memory.still {
        machine.make_still(every);
    }
    machine.set_log((0..20_000_u32).flat_map(|line| format!("{line}\n").into_bytes()).collect());
    machine
}

fn crash(
    memory: &Memory,
    disk: &Disk,
    blocks: u64,
    verify: Verify,
    fault: DiskFault,
    depth: usize,
) -> (&'static Machine, Outcome) {
    let machine: &'static Machine = machine(memory, disk);
    (machine, crash_on(machine, disk, blocks, verify, fault, depth, 60 * SECOND))
}

fn crash_on(
    machine: &'static Machine,
    disk: &Disk,
    blocks: u64,
    verify: Verify,
    fault: DiskFault,
    depth: usize,
    budget: u64,
) -> Outcome {
    let target = Target {
        device: Box::leak(Box::new(disk.device(depth))),
        first_block: FIRST,
        blocks,
        uuid: Some(UUID),
        ownership: Ownership::Shared,
    };
    let config = Config { verify, budget, reset: ResetPolicy::Return, ..Config::default() };
    machine.dump().arm(machine, target, machine.arena(), config).expect("it can be armed");
    disk.set_fault(fault);
    machine.panic("the whole way")
}

fn partition_of(disk: &Disk, blocks: u64) -> Vec<u8> {
    let bytes = disk.bytes();
    bytes[FIRST as usize * BLOCK_SIZE..][..blocks as usize * BLOCK_SIZE].to_vec()
}

/// Frees all dumps; the partition is then as it was when it was formatted.
fn assert_all_is_freed(image: &[u8], fresh: &[u8]) {
    let mut image = image.to_vec();
    let partition = partition::scan(&image).expect("the label is as it was");
    for found in partition.dumps.iter().rev() {
        partition::clear(&mut image, &UUID, found, &mut ()).expect("memory can be written");
    }
    assert!(partition.foreign.is_empty(), "blocks that belong to no dump: {:?}", partition.foreign);
    assert!(image == fresh, "something is left of the dump");
}

/// Compares what savecore reads with the machine; says how many pages were there.
fn compare(
    memory: &Memory,
    machine: &Machine,
    image: &Vec<u8>,
    whole: bool,
) -> Result<Option<usize>, TestCaseError> {
    let partition = partition::scan(image).expect("the label is as it was");
    let Some(found) = partition.dumps.last() else { return Ok(None) };
    let dump = Dump::open(image, &partition, found);
    let mut there = 0;
    for pfn in memory.pfns() {
        let state = dump.read_page(pfn).expect("memory can be read");
        let truth = machine.page_bytes(pfn);
        match state {
            PageState::Data(bytes) => {
                prop_assert_eq!(Some(&*bytes), truth, "page {:#x}", pfn);
                there += 1;
            }
            PageState::Zero => {
                prop_assert!(truth.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)), "page {pfn:#x}");
                there += 1;
            }
            PageState::Arena => prop_assert!(memory.arena().contains(&pfn), "page {pfn:#x}"),
            PageState::Unreadable => prop_assert!(truth.is_none(), "page {pfn:#x}"),
            PageState::Damaged | PageState::NotWritten | PageState::Absent => {
                prop_assert!(!whole, "page {pfn:#x} is missing from a whole dump");
            }
        }
    }
    // What is not RAM is not in the dump.
    let pfns = memory.pfns();
    for pfn in (0..0x300).chain(0x10_0100..0x10_0300).filter(|pfn| !pfns.contains(pfn)) {
        prop_assert!(matches!(dump.read_page(pfn).expect("memory can be read"), PageState::Absent));
    }
    if whole {
        let lost = pfns.iter().any(|pfn| !memory.arena().contains(pfn) && machine.page_bytes(*pfn).is_none());
        prop_assert_eq!(dump.is_whole(), !lost, "an unreadable page is a missing one");
        let facts = dump.facts();
        prop_assert_eq!(facts.message.as_str(), "the whole way");
        prop_assert_eq!(facts.cpus.len(), 3);
        prop_assert!(facts.log.ends_with(b"19998\n19999\n"));
        prop_assert_eq!(facts.log.len(), 64 << 10);
    } else {
        prop_assert!(!dump.is_whole(), "a dump that was cut off says so");
    }
    Ok(Some(there))
}

fn verifies() -> impl Strategy<Value = Verify> {
    prop_oneof![
        Just(Verify::All),
        Just(Verify::Ahead),
        (1..70_u64).prop_map(|every| Verify::Sample { every })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_complete_dump_gives_back_all_memory(
        memory in memories(),
        verify in verifies(),
        depth in 1..6_usize,
        seed: u64,
    ) {
        let blocks = 400;
        let disk = Disk::formatted(blocks + 10, FIRST, blocks, &UUID, seed);
        let fresh = partition_of(&disk, blocks);
        let (machine, outcome) = crash(&memory, &disk, blocks, verify, DiskFault::None, depth);
        prop_assert_eq!(outcome, Outcome::Complete, "{}", machine.console_text());
        assert_all_is_freed(&partition_of(&disk, blocks), &fresh);
        let there = compare(&memory, machine, &partition_of(&disk, blocks), true)?;
        prop_assert!(there.is_some());
    }

    #[test]
    fn a_dump_that_failed_gives_back_what_it_has_and_says_what_it_has_not(
        memory in memories(),
        verify in verifies(),
        depth in 1..6_usize,
        fault in prop_oneof![
            (0..200_u64, any::<bool>()).prop_map(|(after_blocks, torn)| DiskFault::PowerCut { after_blocks, torn }),
            (0..20_u64).prop_map(DiskFault::WriteError),
            (0..40_u64).prop_map(DiskFault::Stuck),
            (0..40_u64).prop_map(DiskFault::Gone),
            (0..40_u64).prop_map(DiskFault::WrongId),
            Just(DiskFault::NoFlush),
            Just(DiskFault::None),
        ],
        blocks in 40..400_u64,
        write_back: bool,
        nested in proptest::option::of(0..4000_u64),
        budget in prop_oneof![Just(60 * SECOND), (0..40 * MILLISECOND).prop_map(|time| time + 1)],
        seed: u64,
    ) {
        let disk = Disk::formatted(blocks + 10, FIRST, blocks, &UUID, seed);
        if write_back {
            disk.set_write_back();
        }
        let machine = machine(&memory, &disk);
        machine.set_tick(20_000);
        if let Some(looks) = nested {
            machine.set_fault(MachineFault::NestedCrash(looks));
        }
        let machine: &'static Machine = machine;
        let fresh = partition_of(&disk, blocks);
        let outcome = crash_on(machine, &disk, blocks, verify, fault, depth, budget);
        let after = partition_of(&disk, blocks);
        // A dump without its first block is looked for only when asked to.
        if write_back || !matches!(outcome, Outcome::Refused(_)) {
            let begun = partition::scan(&after).expect("the label is as it was").dumps.first().map(|dump| dump.first);
            if begun == Some(1) {
                assert_all_is_freed(&after, &fresh);
            }
        }
        let whole = outcome == Outcome::Complete;
        let there = compare(&memory, machine, &partition_of(&disk, blocks), whole || {
            // The last block of all may have arrived before the failure was noticed.
            let image = partition_of(&disk, blocks);
            let partition = partition::scan(&image).expect("the label is as it was");
            partition.dumps.last().is_some_and(|found| Dump::open(&image, &partition, found).is_whole())
        })?;
        if whole {
            prop_assert!(there.is_some());
        }
        if matches!(outcome, Outcome::Refused(_)) && !matches!(fault, DiskFault::PowerCut { .. }) {
            prop_assert_eq!(there, None, "refused, and yet there is a dump");
        }
    }
}

#[test]
fn the_power_is_cut_after_every_single_write_and_each_prefix_is_a_dump() {
    let memory = Memory {
        ram: vec![RamRange { start: 0, end: 0x60_0000 }],
        filled: (0x90..0x150).collect(),
        unreadable: BTreeSet::new(),
        still: Some(7),
        seed: 3,
    };
    let blocks = 300;
    let disk = Disk::formatted(blocks + 10, FIRST, blocks, &UUID, 5);
    let (_, outcome) = crash(&memory, &disk, blocks, Verify::All, DiskFault::None, 4);
    assert_eq!(outcome, Outcome::Complete);
    let writes = disk.blocks_written();
    assert!(writes > 200, "the dump has {writes} writes");

    for (torn, write_back) in [(false, false), (true, false), (true, true)] {
        let mut most = 0;
        for after_blocks in 0..writes {
            let disk = Disk::formatted(blocks + 10, FIRST, blocks, &UUID, after_blocks);
            if write_back {
                disk.set_write_back();
            }
            let before = disk.bytes();
            let cut = DiskFault::PowerCut { after_blocks, torn };
            let (machine, _) = crash(&memory, &disk, blocks, Verify::All, cut, 4);
            let image = partition_of(&disk, blocks);
            let whole = {
                let partition = partition::scan(&image).expect("the label is as it was");
                if !write_back && let Some(found) = partition.dumps.first().filter(|found| found.first == 1) {
                    let dump = Dump::open(&image, &partition, found);
                    // A front header that was torn when it was closed is another story.
                    let torn_front = found.ending.is_damaged();
                    assert!(torn_front || !dump.is_damaged(), "after {after_blocks} writes, torn {torn}");
                    assert_eq!(dump.foreign(), None, "after {after_blocks} writes, torn {torn}");
                }
                partition.dumps.last().is_some_and(|found| Dump::open(&image, &partition, found).is_whole())
            };
            assert!(!whole || after_blocks + 2 >= writes, "whole after {after_blocks} of {writes} writes");
            let there = compare(&memory, machine, &image, whole).expect("what is there is right");
            if !write_back && after_blocks > 40 {
                assert!(there.is_some(), "after {after_blocks} writes nothing could be read");
            }
            most = most.max(there.unwrap_or(0));
            if there.is_some() {
                assert_all_is_freed(&image, &before[FIRST as usize * BLOCK_SIZE..][..image.len()]);
            }
            let (after, end) = (disk.bytes(), (FIRST + blocks) as usize * BLOCK_SIZE);
            assert!(
                before[..(FIRST as usize + 1) * BLOCK_SIZE] == after[..(FIRST as usize + 1) * BLOCK_SIZE]
            );
            assert!(before[end..] == after[end..], "behind the partition nothing changed");
        }
        assert!(most > 150, "the longest prefix has only {most} pages");
    }
}

#[test]
fn a_cache_that_lost_much_of_an_unfinished_dump_leaves_no_block_behind_and_no_overlap() {
    let memory = Memory {
        ram: vec![RamRange { start: 0, end: 0x60_0000 }],
        filled: (0x40..0x500).collect(),
        unreadable: BTreeSet::new(),
        still: None,
        seed: 9,
    };
    let blocks = 4000;
    let disk = Disk::formatted(blocks + 10, FIRST, blocks, &UUID, 5);
    let fresh = partition_of(&disk, blocks);
    crash(&memory, &disk, blocks, Verify::All, DiskFault::PowerCut { after_blocks: 1100, torn: false }, 2);
    // What lay in the disk's cache is lost, and more of it than was ever in flight together.
    let hole = 40..900;
    disk.change(|bytes| {
        let partition = &mut bytes[FIRST as usize * BLOCK_SIZE..];
        let bytes = hole.start * BLOCK_SIZE..hole.end * BLOCK_SIZE;
        partition[bytes.clone()].copy_from_slice(&fresh[bytes]);
    });
    disk.switch_on();
    let image = partition_of(&disk, blocks);
    let partition = partition::scan(&image).expect("the label is as it was");
    let [found] = &partition.dumps[..] else { panic!("{} dumps", partition.dumps.len()) };
    assert!(found.header.window_blocks.get() < hole.len() as u32, "the hole is a large one");
    assert!(found.end > hole.end as u64, "what is behind the hole belongs to the dump");
    assert_all_is_freed(&image, &fresh);

    // The next dump goes behind all of it, and both are freed.
    let (_, outcome) = crash(&memory, &disk, blocks, Verify::All, DiskFault::None, 2);
    assert_eq!(outcome, Outcome::Complete);
    let image = partition_of(&disk, blocks);
    let partition = partition::scan(&image).expect("the label is as it was");
    assert_eq!(partition.dumps.iter().map(|dump| dump.first).collect::<Vec<_>>(), [1, found.end]);
    assert_all_is_freed(&image, &fresh);
}

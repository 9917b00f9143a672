//! savecore's output equals the machine's memory.

use std::collections::BTreeMap;

use dumpcore::format::chunk::{MAX_UNIT_PAGES, RunKind};
use dumpcore::format::header::Incomplete;
use proptest::prelude::*;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, Encryption, Fate, PageState};
use savecore::partition::{self, Ending, Verdict};

use crate::common::{Encrypt, Machine, Page, UUID, motley, partition, write_dump};
use crate::core::Core;

/// What `read_page` should say of a page of an undamaged dump.
pub(crate) fn expected(page: Option<&Page>) -> PageState {
    match page {
        None => PageState::Absent,
        Some(Page::Data(bytes)) => PageState::Data(bytes.clone()),
        Some(Page::Zero) => PageState::Zero,
        Some(Page::Arena) => PageState::Arena,
        Some(Page::Unreadable) => PageState::Unreadable,
        Some(Page::Faulted) => PageState::Faulted,
        Some(Page::LeftOut(reason)) => PageState::LeftOut(match reason {
            RunKind::Cache => Fate::Cache,
            RunKind::CachePrivate => Fate::CachePrivate,
            RunKind::User => Fate::User,
            RunKind::Free => Fate::Free,
            RunKind::NotKernel => Fate::NotKernel,
            RunKind::Device => Fate::Device,
            other => panic!("{other:?} is no reason"),
        }),
    }
}

pub(crate) fn page() -> impl Strategy<Value = Page> {
    prop_oneof![
        4 => any::<u64>().prop_map(Page::of),
        4 => any::<u64>().prop_map(Page::dull),
        3 => Just(Page::Zero),
        1 => Just(Page::Arena),
        1 => Just(Page::Unreadable),
        1 => Just(Page::Faulted),
        2 => (5..RunKind::ALL.len()).prop_map(|index| Page::LeftOut(RunKind::ALL[index])),
    ]
}

pub(crate) fn machine() -> impl Strategy<Value = Machine> {
    let low = prop::collection::btree_map(0_u64..80, page(), 1..60);
    let high = prop::collection::btree_map((1_u64 << 20)..(1 << 20) + 40, page(), 0..30);
    let form = (prop::option::of(1_usize..=MAX_UNIT_PAGES), prop::option::of(any::<u32>()), any::<bool>());
    (low, high, 1_usize..=64, any::<usize>(), any::<u64>(), 1_u32..20, form).prop_map(
        |(low, high, chunk_pages, rotate, nonce, window, (unit_pages, attempt, classes))| {
            let mut machine = Machine::new();
            machine.pages = low.into_iter().chain(high).collect::<BTreeMap<_, _>>();
            if classes {
                machine.class_of = motley;
            }
            let encrypt = attempt.map(|attempt| Encrypt { attempt, ..Encrypt::new() });
            Machine { chunk_pages, rotate, nonce, window, unit_pages, encrypt, ..machine }
        },
    )
}

/// The page frames that [`machine`] may have, and some around them.
pub(crate) fn pfns() -> impl Iterator<Item = u64> {
    (0..100).chain((1 << 20) - 5..(1 << 20) + 50)
}

/// The expected contents of a page's place in the core.
pub(crate) fn known(page: Option<&Page>) -> Option<Vec<u8>> {
    match page {
        Some(Page::Data(bytes)) => Some(bytes.to_vec()),
        Some(Page::Zero) => Some(vec![0; 4096]),
        _ => None,
    }
}

/// Pages that should be in a dump but are missing.
pub(crate) fn missing_from_the_start(machine: &Machine) -> u64 {
    let is_missing = |page: &&Page| matches!(page, Page::Unreadable | Page::Faulted);
    machine.pages.values().filter(is_missing).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_whole_dump_gives_back_the_memory_and_its_core_too(machine in machine()) {
        let mut disk = partition(400);
        let written = write_dump(&mut disk, 1, &machine);
        let found = partition::scan(&disk).unwrap();
        prop_assert_eq!(found.dumps.len(), 1);
        prop_assert_eq!(found.dumps[0].ending, Ending::Closed);
        prop_assert_eq!(found.free, written.end);
        prop_assert!(found.foreign.is_empty());
        let dump = machine.open(&disk, &found, &found.dumps[0]);
        for pfn in pfns() {
            prop_assert_eq!(dump.read_page(pfn).unwrap(), expected(machine.pages.get(&pfn)), "page {}", pfn);
            let class = machine.pages.get(&pfn).map(|_| (machine.class_of)(pfn));
            prop_assert_eq!(dump.index().find(pfn).map(|run| run.class), class, "page {}", pfn);
        }
        let missing = missing_from_the_start(&machine);
        prop_assert_eq!(dump.pages().total, machine.pages.len() as u64);
        prop_assert_eq!(dump.pages().missing(), missing);
        let kept = dump.pages().data + dump.pages().zero + missing;
        prop_assert_eq!(dump.pages().left_out(), machine.pages.len() as u64 - kept);
        prop_assert_eq!(dump.missing().iter().map(|missing| missing.count).sum::<u64>(), missing);
        prop_assert_eq!(dump.is_whole(), missing == 0);
        prop_assert!(!dump.is_damaged());
        let (encryption, authentic) = match machine.encrypt {
            Some(_) => (Encryption::Opened, Some(true)),
            None => (Encryption::None, None),
        };
        prop_assert_eq!((dump.encryption(), dump.authentic()), (encryption, authentic));

        let mut core = Vec::new();
        elf::write(&dump, &CoreOptions::default(), &mut core, &mut ()).unwrap();
        let core = Core::parse(&core);
        for pfn in pfns() {
            prop_assert_eq!(core.physical(pfn * 4096, 4096), known(machine.pages.get(&pfn)), "page {}", pfn);
        }
    }

    #[test]
    fn check_calls_a_partition_with_whole_dumps_waiting_and_after_clearing_ready(machine in machine()) {
        let empty = partition(400);
        let mut disk = empty.clone();
        prop_assert_eq!(partition::check(&disk, &mut ()).unwrap().verdict, Verdict::Ready);
        write_dump(&mut disk, 1, &machine);
        let check = partition::check(&disk, &mut ()).unwrap();
        prop_assert_eq!(check.verdict, Verdict::Waiting);
        partition::clear(&mut disk, &UUID, &check.partition.dumps[0], &mut ()).unwrap();
        prop_assert!(disk == empty, "the pattern is not as it was");
    }
}

#[test]
fn notes_come_back_as_they_were_given() {
    let mut disk = partition(200);
    let mut machine = Machine::small();
    machine.vmcoreinfo = "OSRELEASE=0.1\nPAGESIZE=4096\n".to_owned();
    machine.incomplete = Incomplete::Budget;
    write_dump(&mut disk, 1, &machine);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    let facts = dump.facts();
    assert_eq!(facts.message, machine.message);
    assert_eq!(facts.log, machine.log.as_bytes());
    assert_eq!(facts.vmcoreinfo, machine.vmcoreinfo.as_bytes());
    assert_eq!(facts.system, "testkernel 0.1");
    assert_eq!(facts.cpus, machine.cpus);
    assert_eq!(facts.lacks, Some(4));
    assert!(!facts.damaged && !facts.torn && !dump.is_damaged() && !dump.is_whole());
}

#[test]
fn dumps_behind_one_another_are_all_found() {
    let mut disk = partition(500);
    let mut at = 1;
    for sequence in 1..=3 {
        let machine = Machine { sequence, nonce: sequence.into(), ..Machine::small() };
        at = write_dump(&mut disk, at, &machine).end;
    }
    let partition = partition::scan(&disk).unwrap();
    let found: Vec<_> = partition.dumps.iter().map(|found| found.header.sequence.get()).collect();
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(partition.free, at);
}

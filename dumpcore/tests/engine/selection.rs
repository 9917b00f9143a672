//! Which pages are dumped or excluded, and in which order: for any machine.

use dumpcore::Outcome;
use dumpcore::format::chunk::{Encoding, MAX_RUNS, RunKind};
use dumpcore::format::header::Incomplete;
use dumpcore::format::note::{NoteKind, Notes};
use dumpcore::helpers::job::UNIT_PAGES;
use dumpcore::platform::Lacks;
use dumpcore::sim::{MachineFault, cases};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Level, PageClass};
use proptest::prelude::*;

use crate::world::{Content, DiskPlan, Plan, World, any_disks, config, good_disks, pass_of, plans};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(150), ..ProptestConfig::default() })]

    #[test]
    fn a_complete_dump_says_everything_and_nothing_twice(
        plan in plans(proptest::collection::vec(good_disks(700..800), 1..4).boxed()),
    ) {
        let world = World::new(plan);
        match world.arm() {
            // A dump of only the kernel, on a machine without kernel pages.
            Err(dumpcore::ArmError::NoClasses) => {
                prop_assert!(world.plan.config.level.contains(Level::KERNEL_ONLY));
                prop_assert!(!crate::world::pfns().iter().any(|pfn| world.machine.class_of(*pfn).is_kernel()));
                return Ok(());
            }
            armed => armed.unwrap(),
        };
        let before = world.bytes();
        let outcome = world.machine.panic("healthy");
        prop_assert_eq!(outcome, Outcome::Complete, "{}", world.console());
        world.check_after(&before, outcome);
        let dumps = world.dumps();
        prop_assert_eq!(dumps.len(), 1);
        // A dump is striped only over disks with the same key.
        let disks = &world.plan.disks;
        let alike = disks.iter().filter(|disk| disk.encrypted == disks[0].encrypted).count();
        let stripes = if world.plan.config.stripe { alike } else { 1 };
        prop_assert_eq!(dumps[0].parts.len(), stripes, "{}", world.console());
    }

    #[test]
    fn no_block_is_ever_changed_that_was_not_pattern(
        plan in plans(proptest::collection::vec(any_disks(), 1..4).boxed()),
        nested in proptest::option::weighted(0.3, prop_oneof![
            (0..3000_u64).prop_map(MachineFault::NestedCrash),
            (0..800_u64).prop_map(MachineFault::NestedCrashAtPage),
        ]),
        budget in prop_oneof![3 => Just(60 * SECOND), 1 => (1..60_u64).prop_map(|time| time * MILLISECOND)],
    ) {
        let config = dumpcore::Config { budget, ..plan.config.clone() };
        let world = World::new(Plan { fault: nested.unwrap_or(MachineFault::None), config, ..plan });
        // A disk that cannot be armed on its own is a different case.
        prop_assume!(world.arm().is_ok());
        let (before, begin) = (world.bytes(), world.machine.clock());
        let outcome = world.machine.panic("any fault");
        world.check_after(&before, outcome);
        let took = world.machine.clock() - begin;
        prop_assert!(took < budget + 2 * SECOND, "it took {} s", took / SECOND);
    }

    #[test]
    fn a_full_partition_or_a_spent_budget_costs_the_least_valuable_pages(
        plan in plans(proptest::collection::vec(good_disks(8..300), 1..3).boxed()),
        budget in prop_oneof![1 => Just(60 * SECOND), 1 => (1..60_u64).prop_map(|time| time * MILLISECOND)],
    ) {
        let config = dumpcore::Config { budget, ..plan.config.clone() };
        let world = World::new(Plan { config, ..plan });
        prop_assume!(world.arm().is_ok());
        let (before, begin) = (world.bytes(), world.machine.clock());
        let outcome = world.machine.panic("no room");
        let ended = matches!(
            outcome,
            Outcome::Complete | Outcome::Refused(_) | Outcome::Incomplete(Incomplete::Full | Incomplete::Budget)
        );
        // A dump without even the time to close may blame the disk that it waits for.
        let in_time = world.machine.clock() - begin < budget;
        prop_assert!(ended || !in_time, "{:?}\n{}", outcome, world.console());
        world.check_after(&before, outcome);
    }
}

/// A machine with pages of every class, in the wrong order.
fn mixed() -> Plan {
    let classes = [
        (260..300, PageClass::User),
        (300..340, PageClass::KernelData),
        (340..360, PageClass::Cache),
        (360..400, PageClass::Free),
        (400..410, PageClass::PageTable),
        (410..420, PageClass::Device),
        (420..440, PageClass::CachePrivate),
        (440..450, PageClass::Stack),
        (450..470, PageClass::KernelText),
        (470..480, PageClass::Slab),
    ];
    Plan {
        contents: (256..500).map(|place| (place, Content::Random)).collect(),
        classes: classes.to_vec(),
        ..Plan::default()
    }
}

#[test]
fn stacks_and_page_tables_come_first_then_the_kernel_then_the_rest() {
    let world = World::new(mixed());
    world.arm().unwrap();
    assert_eq!(world.machine.panic("in order"), Outcome::Complete);
    let dumps = world.dumps();
    let chunks = &dumps[0].parts[0].1.chunks;
    let order: Vec<u32> = chunks
        .iter()
        .flat_map(|chunk| chunk.header.runs())
        .filter(|run| run.kind() == RunKind::Data)
        .map(|run| pass_of(world.machine.class_of(run.pfn.get())))
        .collect();
    assert!(order.is_sorted() && order.first() == Some(&1) && order.contains(&2) && order.contains(&3));
    let metrics = dumps[0].header().metrics;
    let told: Vec<u64> = metrics.passes.iter().map(|pass| pass.pages.get()).collect();
    assert_eq!(told[1], 20, "{told:?}");
    assert_eq!(told[2], 40 + 20 + 10, "{told:?}");
    assert!(metrics.passes.iter().all(|pass| pass.bytes.get() > 0), "{:?}", metrics.passes);
}

#[test]
fn each_level_leaves_out_what_it_says_and_names_the_reason() {
    let level = Level::USER | Level::FREE | Level::CACHE_PRIVATE;
    let world = World::new(Plan { config: dumpcore::Config { level, ..config() }, ..mixed() });
    world.arm().unwrap();
    assert_eq!(world.machine.panic("levels"), Outcome::Complete);
    let dumps = world.dumps();
    world.check(&dumps[0]);
    let counts = RunKind::ALL.map(|kind| dumps[0].header().metrics.pages[kind as usize - 1].get());
    let count = |kind: RunKind| counts[kind as usize - 1];
    let left_out = [RunKind::Cache, RunKind::CachePrivate, RunKind::User, RunKind::Free, RunKind::Device];
    assert_eq!(left_out.map(count), [20, 20, 40, 40, 10]);
    assert_eq!(count(RunKind::NotKernel), 0);

    let kernel_only = dumpcore::Config { level: Level::KERNEL_ONLY, ..config() };
    let world = World::new(Plan { config: kernel_only, ..mixed() });
    world.arm().unwrap();
    assert_eq!(world.machine.panic("kernel only"), Outcome::Complete);
    let dumps = world.dumps();
    world.check(&dumps[0]);
    assert_eq!(dumps[0].header().data_pages.get(), 40 + 10 + 10 + 20 + 10);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn memory_whose_class_changes_with_every_page_takes_no_more_chunks_than_its_runs_need() {
    // Of one pass, so that they are adjacent on disk too.
    let motley = [PageClass::User, PageClass::Cache, PageClass::CachePrivate, PageClass::Free];
    let chunks = |encoding, every: usize, mixed: bool| {
        let contents = (256..512).step_by(every).map(|place| (place, Content::Packable)).collect();
        let class = |place: usize| if mixed { motley[place % 4] } else { PageClass::User };
        let classes = (0..640).map(|place| (place..place + 1, class(place))).collect();
        let config = dumpcore::Config { encoding, ..config() };
        let world = World::new(Plan { contents, classes, config, ..Plan::default() });
        world.arm().unwrap();
        assert_eq!(world.machine.panic("motley"), Outcome::Complete);
        let dumps = world.dumps();
        world.check(&dumps[0]);
        let chunks = dumps[0].parts[0].1.chunks.iter().map(|chunk| chunk.header.runs().len());
        let runs: Vec<usize> = chunks.filter(|runs| *runs > 0).collect();
        (runs.len(), runs.iter().sum::<usize>())
    };
    for encoding in [Encoding::Plain, Encoding::Units] {
        for every in [1, 2] {
            let (plain, _) = chunks(encoding, every, false);
            let (mixed, runs) = chunks(encoding, every, true);
            assert!(runs > 2 * MAX_RUNS, "a run for each page: {runs}");
            // Before a unit, there is room for the runs of all its pages.
            let full = MAX_RUNS - UNIT_PAGES + 1;
            assert!(mixed <= plain + runs.div_ceil(full), "{mixed} chunks instead of {plain}, {encoding:?}");
        }
    }
}

#[test]
fn the_kernel_only_of_a_machine_that_does_not_say_what_is_the_kernels_is_refused_when_armed() {
    for (class, refused) in [(None, true), (Some(PageClass::User), true), (Some(PageClass::Slab), false)] {
        let classes = class.into_iter().map(|class| (600..601, class)).collect();
        let config = dumpcore::Config { level: Level::KERNEL_ONLY, ..config() };
        let world = World::new(Plan { classes, config, ..Plan::default() });
        assert_eq!(world.arm().err(), refused.then_some(dumpcore::ArmError::NoClasses), "{class:?}");
    }
}

/// The platform's missing features, from the dump's notes.
pub(crate) fn lacks(world: &World) -> Lacks {
    let dumps = world.dumps();
    let notes = &dumps[0].parts[0].1.chunks[0].payload;
    let found = Notes::new(notes).find(|(kind, _)| *kind == NoteKind::Lacks as u32);
    let bits = found.and_then(|(_, bytes)| bytes.first_chunk().copied()).expect("a note of what was lacking");
    Lacks::from_bits_retain(u32::from_le_bytes(bits))
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_dump_says_what_it_had_to_do_without() {
    let classes = vec![(600..601, PageClass::Slab)];
    for (plan, expected) in [
        (Plan { classes: classes.clone(), ..Plan::default() }, Lacks::empty()),
        (Plan::default(), Lacks::CLASSES),
        (Plan { classes: classes.clone(), guard: false, ..Plan::default() }, Lacks::GUARD),
        (Plan { classes: classes.clone(), still: None, ..Plan::default() }, Lacks::STACK),
        (Plan { classes, silent: true, ..Plan::default() }, Lacks::OTHER_CPUS),
    ] {
        let world = World::new(plan);
        world.arm().unwrap();
        assert_eq!(world.machine.panic("poor"), Outcome::Complete);
        assert_eq!(lacks(&world), expected);
    }
}

#[test]
fn the_numbers_in_the_header_are_those_of_the_dump() {
    let world = World::new(mixed());
    let report = world.arm().unwrap();
    assert_eq!(world.machine.panic("in numbers"), Outcome::Complete);
    let dumps = world.dumps();
    let header = dumps[0].header();
    let metrics = header.metrics;
    assert_eq!(metrics.checked.get(), 799, "every block but the label");
    assert_eq!(metrics.buffers.get(), report.buffers as u32);
    assert!((1..=4).contains(&metrics.depth.get()));
    let sent: u64 = metrics.passes.iter().map(|pass| pass.bytes.get()).sum();
    let blocks = header.end_block.get() - header.first_block.get() - 2;
    assert_eq!(sent, blocks * 4096, "all but the two headers");
    let spoken_of: u64 = metrics.passes.iter().map(|pass| pass.pages.get()).sum();
    assert_eq!(spoken_of, header.total_pages.get());
    let phases: u64 = metrics.phases.iter().map(|time| time.get()).sum();
    assert!(phases > 0 && phases <= header.elapsed.get(), "{:?}", metrics.phases);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn units_take_less_room_than_pages_and_what_does_not_shrink_is_stored_as_it_is() {
    let written = |encoding, content| {
        let contents = (256..500).map(|place| (place, content)).collect();
        let plan = Plan { contents, config: dumpcore::Config { encoding, ..config() }, ..Plan::default() };
        let world = World::new(plan);
        world.arm().unwrap();
        assert_eq!(world.machine.panic("how large"), Outcome::Complete);
        let header = world.dumps()[0].header().clone();
        (header.end_block.get() - header.first_block.get(), header.metrics)
    };
    let (plain, _) = written(Encoding::Plain, Content::Packable);
    let (packed, metrics) = written(Encoding::Units, Content::Packable);
    assert!(packed * 3 < plain * 2, "{packed} blocks instead of {plain}");
    assert!(metrics.packed_to.get() < metrics.packed_from.get());
    assert_eq!(metrics.packed_from.get(), 244 * 4096);
    assert_eq!(metrics.units_stored.get(), 0);
    let (stored, metrics) = written(Encoding::Units, Content::Random);
    assert!(stored <= plain + 4, "{stored} blocks instead of {plain}");
    assert!(metrics.units_stored.get() >= 244 / 8);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn memory_ten_times_as_large_takes_no_byte_more_of_the_arena() {
    let used = |pages: u64, blocks: u64| {
        let disk = dumpcore::sim::Disk::formatted(blocks + 9, 3, blocks, &crate::world::uuid(0), 1);
        let ram = vec![dumpcore::platform::RamRange { start: 0, end: pages * 4096 }];
        let machine = dumpcore::sim::Machine::new(ram, crate::world::ARENA, &disk);
        machine.set_guard();
        machine.make_still(0);
        machine.set_class(0..pages / 2, PageClass::Slab);
        for pfn in (300..pages).step_by(3) {
            machine.fill_page_packable(pfn, 1);
        }
        let machine: &'static dumpcore::sim::Machine = machine;
        let target = dumpcore::Target {
            device: Box::leak(Box::new(disk.device(4))),
            first_block: 3,
            blocks,
            uuid: Some(crate::world::uuid(0)),
            recipient: None,
            ownership: dumpcore::Ownership::Shared,
        };
        let report = machine.dump().arm(machine, [target], machine.arena(), config()).unwrap();
        assert_eq!(machine.panic("large"), Outcome::Complete);
        let line =
            machine.console_text().lines().find(|line| line.contains("bytes of arena")).map(str::to_owned);
        (report.arena_used, line.unwrap().split("stack, ").nth(1).unwrap().to_owned())
    };
    let (small, large) = (used(1_000, 800), used(10_000, 8_000));
    assert_eq!(small.0, large.0);
    assert_eq!(small.1.split(" requests").next(), large.1.split(" requests").next());
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_page_that_is_read_while_it_changes_is_stored_as_it_was_at_one_moment() {
    for encoding in [Encoding::Plain, Encoding::Units] {
        for guard in [false, true] {
            let contents = (256..400)
                .map(|place| (place, if place % 3 == 0 { Content::Restless } else { Content::Packable }))
                .collect();
            let config = dumpcore::Config { encoding, ..config() };
            let world = World::new(Plan { contents, guard, config, silent: true, ..Plan::default() });
            world.arm().unwrap();
            assert_eq!(world.machine.panic("restless"), Outcome::Complete);
            let dumps = world.dumps();
            assert!(dumps[0].is_whole());
            world.check(&dumps[0]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_page_that_faults_costs_itself_and_nothing_else() {
    for encoding in [Encoding::Plain, Encoding::Units] {
        for every in [1, 2, 7, 8, 9] {
            let contents: std::collections::BTreeMap<_, _> = (256..400)
                .map(|place| (place, if place % every == 0 { Content::Faulty } else { Content::Packable }))
                .collect();
            let faulty = contents.values().filter(|content| **content == Content::Faulty).count();
            let config = dumpcore::Config { encoding, ..config() };
            for (still, disk) in
                [(0, DiskPlan::default()), (100, DiskPlan { depth: 1, ..DiskPlan::default() })]
            {
                let plan = Plan {
                    contents: contents.clone(),
                    still: Some(still),
                    disks: vec![disk],
                    config: config.clone(),
                    ..Plan::default()
                };
                let world = World::new(plan);
                world.arm().unwrap();
                assert_eq!(world.machine.panic("bad memory"), Outcome::Complete, "{}", world.console());
                let dumps = world.dumps();
                world.check(&dumps[0]);
                assert_eq!(
                    dumps[0].header().metrics.pages[RunKind::Faulted as usize - 1].get(),
                    faulty as u64
                );
            }
        }
    }
}

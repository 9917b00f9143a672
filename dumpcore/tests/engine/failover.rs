//! Several targets: which one gets the dump, and the state of the others.

use dumpcore::Outcome;
use dumpcore::format::chunk::Encoding;
use dumpcore::format::header::{Incomplete, Status};
use dumpcore::format::metrics::Refused;
use dumpcore::sim::{Disk, DiskFault, cases};
use dumpcore::{ArmError, Config, Verify};
use proptest::prelude::*;

use crate::world::{Content, DiskPlan, FIRST, Plan, World, config, faults, good_disks, helpers, verifies};

fn disk(fault: DiskFault) -> DiskPlan {
    DiskPlan { fault, ..DiskPlan::default() }
}

fn risky(fault: DiskFault) -> DiskPlan {
    DiskPlan { fault, risky: true, ..DiskPlan::default() }
}

/// Dumps to these disks; returns the outcome, and the world for inspection.
fn dumped(disks: Vec<DiskPlan>, config: Config<'static>) -> (Outcome, World) {
    let world = World::new(Plan { disks, config, tick: 20_000, ..Plan::default() });
    world.arm().unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("several disks");
    world.check_after(&before, outcome);
    (outcome, world)
}

/// The same with incompressible memory, so that there is more to write.
fn dumped_random(disks: Vec<DiskPlan>) -> (Outcome, World) {
    let contents = (256..640).map(|place| (place, Content::Random)).collect();
    let world = World::new(Plan { disks, contents, tick: 20_000, ..Plan::default() });
    world.arm().unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("several disks");
    world.check_after(&before, outcome);
    (outcome, world)
}

/// The disks with a complete dump.
fn whole_on(world: &World) -> Vec<usize> {
    let whole = world.dumps().into_iter().filter(|dump| dump.is_whole());
    whole.flat_map(|dump| dump.parts.into_iter().map(|(disk, _)| disk)).collect()
}

fn text(refused: &Refused) -> String {
    let end = refused.why.iter().position(|byte| *byte == 0).unwrap_or(refused.why.len());
    String::from_utf8(refused.why[..end].to_vec()).expect("it is UTF-8")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), ..ProptestConfig::default() })]

    #[test]
    fn when_the_first_disk_fails_the_next_one_has_the_whole_dump(
        first in good_disks(700..800),
        fault in faults(),
        second in good_disks(700..800),
        (verify, helpers) in (verifies(), helpers()),
        (stripe, third) in any::<(bool, bool)>(),
        seed: u64,
    ) {
        // A disk that hangs only once works again after its reset. What it had by then must not be all that
        // is left of the dump.
        let mut disks = vec![DiskPlan { fault, ..first }, second];
        if third {
            disks.push(DiskPlan::default());
        }
        let config = config().verify(verify).stripe(stripe);
        let world = World::new(Plan { disks, helpers, config, tick: 20_000, seed, ..Plan::default() });
        world.arm().unwrap();
        let before = world.bytes();
        let outcome = world.machine.panic("fail over");
        prop_assert_eq!(outcome, Outcome::Complete, "{}", world.console());
        world.check_after(&before, outcome);
        let whole = whole_on(&world);
        prop_assert!(!whole.is_empty());
        for dump in world.dumps().iter().filter(|dump| !dump.is_whole()) {
            let status = |wanted: Status| dump.parts.iter().any(|(_, part)| part.front.status() == wanted);
            prop_assert!(status(Status::Incomplete) || status(Status::InProgress));
        }
    }
}

#[test]
fn the_first_healthy_disk_gets_the_dump_and_the_others_are_not_touched() {
    let (outcome, world) = dumped(vec![disk(DiskFault::None); 3], config());
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![0]));
    for untouched in [1, 2] {
        assert_eq!(world.disks[untouched].blocks_written(), 0);
    }
    assert_eq!(world.dumps()[0].header().metrics.refusals.get(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_disk_that_fails_in_the_middle_is_closed_as_incomplete_and_the_dump_begins_again_on_the_next() {
    for request in 0..5 {
        let fault = DiskFault::WriteError(request);
        let (outcome, world) = dumped_random(vec![disk(fault), disk(DiskFault::None)]);
        assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![1]), "{}", world.console());
        let failed = world.dumps_on(0);
        // The first write is the front header itself.
        if request > 0 {
            let front = &failed[0].front;
            assert_eq!(front.status(), Status::Incomplete, "write {request}\n{}", world.console());
            assert_eq!(front.incomplete(), Incomplete::Device);
        }
        let whole = &world.dumps_on(1)[0].front;
        assert_ne!(failed.first().map(|dump| dump.front.nonce), Some(whole.nonce));
        let metrics = whole.metrics;
        assert_eq!((metrics.refusals.get(), metrics.target.get()), (1, 1));
        assert_eq!(metrics.refused[0].target.get(), 0);
        assert_eq!(metrics.refused[0].begun.get(), 1);
        assert!(text(&metrics.refused[0]).contains("failed to write"), "{}", text(&metrics.refused[0]));
    }
}

#[test]
fn a_disk_that_vanishes_leaves_a_dump_in_progress_and_the_next_has_all() {
    let (outcome, world) = dumped(vec![disk(DiskFault::Gone(20)), disk(DiskFault::None)], config());
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![1]), "{}", world.console());
    assert!(world.dumps_on(0).iter().all(|dump| dump.front.status() == Status::InProgress));
    assert!(text(&world.dumps_on(1)[0].front.metrics.refused[0]).contains("gone"));
}

#[test]
fn when_all_disks_fail_the_console_says_why_of_each() {
    let faults = [DiskFault::Unusable, DiskFault::NoQuiesce, DiskFault::ReadError(0)];
    let (outcome, world) = dumped(faults.map(disk).to_vec(), config());
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    let console = world.console();
    for why in ["the device is gone", "the reset did not happen within", "failed to read"] {
        assert!(console.contains(why), "{why}: {console}");
    }
    assert_eq!(world.machine.resets(), 1);
    for disk in &world.disks {
        assert_eq!(disk.blocks_written(), 0);
    }
}

#[test]
fn a_dump_that_was_begun_somewhere_and_is_whole_nowhere_is_not_refused() {
    let faults = [DiskFault::Unusable, DiskFault::WriteError(2), DiskFault::NoQuiesce];
    let (outcome, world) = dumped(faults.map(disk).to_vec(), config());
    assert_eq!(outcome, Outcome::Incomplete(Incomplete::Device), "{}", world.console());
    assert_eq!(world.dumps_on(1)[0].front.status(), Status::Incomplete);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_risky_disk_is_used_when_no_other_is_left_and_only_if_it_may_be() {
    let allowed = config().allow_risky(true);
    let forbidden = config().allow_risky(false);

    // Healthy ones first, though the risky one was named before.
    for config in [&allowed, &forbidden] {
        let (outcome, world) = dumped(vec![risky(DiskFault::None), disk(DiskFault::None)], config.clone());
        assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![1]));
        assert_eq!(world.disks[0].blocks_written(), 0);
    }
    // The second round.
    let disks = vec![risky(DiskFault::None), disk(DiskFault::WriteError(4))];
    let (outcome, world) = dumped(disks.clone(), allowed);
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![0]), "{}", world.console());
    assert!(world.console().contains("risky"), "{}", world.console());
    let (outcome, world) = dumped(disks, forbidden.clone());
    assert_eq!(outcome, Outcome::Incomplete(Incomplete::Device));
    assert_eq!(world.disks[0].blocks_written(), 0);
    // Alone.
    let (outcome, world) = dumped(vec![risky(DiskFault::None)], forbidden);
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert!(world.console().contains("risky"), "{}", world.console());
    let (outcome, world) = dumped(vec![risky(DiskFault::None)], config());
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![0]));
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_spoilt_or_full_partition_is_passed_over() {
    let spoilt = DiskPlan { spoilt: Some((70, 5)), ..DiskPlan::default() };
    let (outcome, world) = dumped(vec![spoilt, disk(DiskFault::None)], config());
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![1]));
    assert_eq!(world.disks[0].blocks_written(), 0);
    assert!(world.console().contains("block 70 does not hold its pattern"), "{}", world.console());

    // The same, detected just before writing there.
    let ahead = config().verify(Verify::Ahead).encoding(Encoding::Plain);
    let spoilt = DiskPlan { spoilt: Some((70, 5)), ..DiskPlan::default() };
    let (outcome, world) = dumped(vec![spoilt, disk(DiskFault::None)], ahead.clone());
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![1]), "{}", world.console());
    assert_eq!(world.dumps_on(0)[0].front.incomplete(), Incomplete::Pattern, "{}", world.console());
    assert!(text(&world.dumps_on(1)[0].front.metrics.refused[0]).contains("block 70"));
    // A dump that does not get so far is not affected.
    let spoilt = DiskPlan { spoilt: Some((700, 5)), ..DiskPlan::default() };
    let (outcome, world) = dumped(vec![spoilt, disk(DiskFault::None)], ahead);
    assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, vec![0]), "{}", world.console());

    // Unsaved dumps leave no room.
    let small = DiskPlan { blocks: 8, ..DiskPlan::default() };
    let world = World::new(Plan { disks: vec![small, disk(DiskFault::None)], ..Plan::default() });
    world.disks[0].change(|bytes| {
        let other = World::new(Plan {
            disks: vec![DiskPlan { blocks: 8, ..DiskPlan::default() }],
            ..Plan::default()
        });
        other.arm().unwrap();
        assert_eq!(other.machine.panic("fills it"), Outcome::Incomplete(Incomplete::Full));
        *bytes = other.disks[0].bytes();
    });
    world.arm().unwrap();
    let before = world.disks[0].bytes();
    assert_eq!(world.machine.panic("no room"), Outcome::Complete, "{}", world.console());
    assert!(before == world.disks[0].bytes(), "the dump that waits there is as it was");
    assert!(world.dumps_on(1)[0].is_whole());
}

#[test]
fn a_full_partition_is_as_good_as_it_gets_if_none_is_larger() {
    // A dump that runs out of space is a dump: the next disk is only for failed devices.
    let small = DiskPlan { blocks: 60, ..DiskPlan::default() };
    let (outcome, world) = dumped(vec![small], config());
    assert_eq!(outcome, Outcome::Incomplete(Incomplete::Full));
    assert_eq!(world.dumps_on(0)[0].front.incomplete(), Incomplete::Full);
}

#[test]
fn stripes_take_turns_and_each_disk_has_its_part() {
    let config = config().stripe(true);
    let clear = disk(DiskFault::None);
    let encrypted = DiskPlan { encrypted: true, ..DiskPlan::default() };
    for disks in [vec![clear; 3], vec![encrypted; 2]] {
        let count = disks.len();
        let (outcome, world) = dumped(disks, config.clone());
        assert_eq!(outcome, Outcome::Complete, "{}", world.console());
        let dumps = world.dumps();
        assert_eq!(dumps.len(), 1);
        assert!(dumps[0].is_whole());
        for (stripe, (disk, part)) in dumps[0].parts.iter().enumerate() {
            assert_eq!((part.front.stripe.get(), *disk), (stripe as u32, stripe));
            assert_eq!(part.front.stripes.get(), count as u32);
            for chunk in &part.chunks {
                assert_eq!(chunk.header.index.get() % count as u64, stripe as u64, "chunks go round robin");
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_dump_is_not_striped_over_disks_with_different_keys() {
    let clear = disk(DiskFault::None);
    let encrypted = DiskPlan { encrypted: true, ..DiskPlan::default() };
    let config = config().stripe(true);
    for (disks, expected) in [
        (vec![encrypted.clone(), clear.clone(), encrypted.clone()], vec![0, 2]),
        (vec![clear, encrypted.clone(), encrypted], vec![0]),
    ] {
        let (outcome, world) = dumped(disks, config.clone());
        assert_eq!((outcome, whole_on(&world)), (Outcome::Complete, expected), "{}", world.console());
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_stripe_that_fails_costs_nothing_but_time() {
    for (count, failing) in [(2, 0), (2, 1), (3, 1)] {
        for fault in
            [DiskFault::WriteError(3), DiskFault::Stuck(15), DiskFault::Unusable, DiskFault::NoQuiesce]
        {
            let config = config().stripe(true);
            let mut disks = vec![disk(DiskFault::None); count];
            disks[failing].fault = fault;
            let (outcome, world) = dumped(disks, config);
            assert_eq!(outcome, Outcome::Complete, "{fault:?}\n{}", world.console());
            let whole = whole_on(&world);
            assert_eq!(whole, (0..count).filter(|disk| *disk != failing).collect::<Vec<_>>(), "{fault:?}");
        }
    }
}

#[test]
fn a_striped_dump_goes_on_where_there_is_room_when_one_disk_is_full() {
    let small = DiskPlan { blocks: 20, ..DiskPlan::default() };
    let config = config().stripe(true);
    let (outcome, world) = dumped(vec![small, disk(DiskFault::None)], config);
    assert_eq!(outcome, Outcome::Complete, "{}", world.console());
    let dumps = world.dumps();
    assert_eq!((dumps.len(), dumps[0].parts.len()), (1, 2));
    assert!(dumps[0].is_whole());
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn the_power_is_cut_at_every_write_of_a_striped_and_encrypted_dump_and_what_is_there_is_true() {
    let plan = |fault_of: usize, write_back, fault| Plan {
        disks: (0..2)
            .map(|disk| DiskPlan {
                encrypted: true,
                write_back,
                fault: if disk == fault_of { fault } else { DiskFault::None },
                ..DiskPlan::default()
            })
            .collect(),
        config: config().stripe(true),
        ..Plan::default()
    };
    let world = World::new(plan(0, false, DiskFault::None));
    world.arm().unwrap();
    assert_eq!(world.machine.panic("as a measure"), Outcome::Complete);
    let writes: Vec<u64> = world.disks.iter().map(Disk::blocks_written).collect();
    assert!(writes.iter().all(|writes| *writes > 30), "{writes:?}");
    for (cut, writes) in writes.into_iter().enumerate() {
        for after_blocks in 0..writes {
            let torn = after_blocks % 2 == 0;
            let world =
                World::new(plan(cut, after_blocks % 3 == 0, DiskFault::PowerCut { after_blocks, torn }));
            Disk::share_power(&world.disks);
            world.arm().unwrap();
            let before = world.bytes();
            let outcome = world.machine.panic("cut");
            assert!(outcome != Outcome::Complete, "after {after_blocks}");
            world.check_after(&before, outcome);
        }
    }
}

#[test]
fn what_cannot_be_armed_is_refused_by_its_place_in_the_list() {
    let arm = |disks: Vec<DiskPlan>| World::new(Plan { disks, ..Plan::default() }).arm();
    assert_eq!(arm(vec![disk(DiskFault::None); 4]).unwrap().targets, 4);
    let small = DiskPlan { blocks: 4, ..DiskPlan::default() };
    let refused = arm(vec![DiskPlan::default(), small]);
    assert_eq!(refused, Err(ArmError::TooSmall { target: 1, blocks: 4 }));
    let exclusive = DiskPlan { exclusive: true, ..DiskPlan::default() };
    assert!(arm(vec![DiskPlan::default(), exclusive.clone()]).is_ok());
    let spoilt = DiskPlan { spoilt: Some((0, 4000)), ..exclusive };
    assert!(matches!(arm(vec![DiskPlan::default(), spoilt]), Err(ArmError::Unfit { target: 1, .. })));

    let world = World::new(Plan::default());
    let none = world.machine.dump().arm(world.machine, [], world.machine.arena(), config());
    assert_eq!(none, Err(ArmError::NoTargets));
}

#[test]
fn another_disk_in_the_place_of_the_first_is_passed_over() {
    // Armed for one disk, but another one is there.
    let world = World::new(Plan { disks: vec![DiskPlan::default(); 2], ..Plan::default() });
    world.arm().unwrap();
    let other = Disk::formatted(FIRST + 809, FIRST, 800, b"not that disk...", 1);
    world.disks[0].change(|bytes| *bytes = other.bytes());
    let before = world.disks[0].bytes();
    assert_eq!(world.machine.panic("swapped"), Outcome::Complete, "{}", world.console());
    assert!(before == world.disks[0].bytes());
    assert!(world.console().contains("the label is of another partition"), "{}", world.console());
    assert!(world.dumps_on(1)[0].is_whole());
}

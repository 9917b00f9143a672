//! Helpers that work, die, stall, come late, or crash themselves.

use dumpcore::Config;
use dumpcore::Outcome;
use dumpcore::format::chunk::Encoding;
use dumpcore::sim::{DiskFault, Helper, MachineFault, cases};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{ArmReport, Verify};
use proptest::prelude::*;

use crate::world::{Content, DiskPlan, Plan, World, config, helpers};

/// A machine with much work and these helpers.
fn busy(helpers: Vec<Helper>, config: Config<'static>) -> Plan {
    let contents =
        (256..640).map(|place| (place, if place % 5 == 0 { Content::Random } else { Content::Packable }));
    Plan { contents: contents.collect(), helpers, config, ..Plan::default() }
}

fn dump(plan: Plan) -> (World, ArmReport) {
    let world = World::new(plan);
    let report = world.arm().unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("helped");
    assert_eq!(outcome, Outcome::Complete, "{}", world.console());
    world.check_after(&before, outcome);
    (world, report)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(150), ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_helpers_do_the_dump_is_whole(
        helpers in helpers(),
        patience in prop_oneof![Just(SECOND / 2), 50_000..20 * MILLISECOND],
        units: bool,
        verify in crate::world::verifies(),
        still in prop_oneof![Just(0_u64), Just(100)],
        depth in 1..6_usize,
        (one_window, encrypted) in any::<(bool, bool)>(),
    ) {
        let encoding = if units { Encoding::Units } else { Encoding::Plain };
        let config = Config { encoding, verify, helper_patience: patience, ..config() };
        let disks = vec![DiskPlan { depth, encrypted, ..DiskPlan::default() }];
        let world = World::new(Plan { still: Some(still), one_window, disks, tick: 20_000, ..busy(helpers, config) });
        world.arm().unwrap();
        let (before, begin) = (world.bytes(), world.machine.clock());
        let outcome = world.machine.panic("helped");
        prop_assert_eq!(outcome, Outcome::Complete, "{}", world.console());
        world.check_after(&before, outcome);
        let took = world.machine.clock() - begin;
        prop_assert!(took < 20 * SECOND, "it took {} ms", took / MILLISECOND);
    }
}

#[test]
fn helpers_pack_pages_and_check_blocks_and_the_dump_tells_how_many() {
    // As long as a host may take to schedule a thread.
    let config = Config { helper_patience: 600 * SECOND, budget: 3600 * SECOND, ..config() };
    let (mut packed, mut checked) = (false, false);
    // When a thread is scheduled is up to the host.
    for _ in 0..100 {
        let (world, report) = dump(busy(vec![Helper::Works; 3], config.clone()));
        assert_eq!(report.helpers, 3);
        let metrics = world.dumps()[0].header().metrics;
        assert!((1..=3).contains(&metrics.helpers.get()), "{metrics:?}");
        assert!(metrics.units_by_helpers.get() <= metrics.units.get());
        assert_eq!((metrics.helpers_lost.get(), metrics.units_redone.get()), (0, 0));
        packed |= world.machine.looks_of_helpers() > 0;
        checked |= metrics.units_by_helpers.get() > 0;
        if packed && checked {
            return;
        }
    }
    panic!("packed {packed}, checked {checked}");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_helper_that_dies_costs_its_unit_and_no_more() {
    for encoding in [Encoding::Plain, Encoding::Units] {
        for look in [0, 1, 5, 17, 40] {
            for verify in [Verify::All, Verify::Ahead] {
                let config = Config { encoding, verify, ..config() };
                let (world, _) = dump(busy(vec![Helper::Dies(look)], config));
                let metrics = world.dumps()[0].header().metrics;
                // Whether it came so far is a matter of luck.
                if metrics.helpers_lost.get() > 0 {
                    assert_eq!((metrics.helpers_lost.get(), metrics.units_redone.get()), (1, 1));
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_helper_that_comes_back_when_it_was_given_up_harms_nothing() {
    for encoding in [Encoding::Plain, Encoding::Units] {
        for span in [1, 10, 100, 400, 1000] {
            let helpers =
                (0..3).map(|number| Helper::Stalls { look: 3 + 9 * number, span: span * MILLISECOND });
            let config = Config { encoding, helper_patience: 20 * MILLISECOND, ..config() };
            dump(Plan { tick: 20_000, ..busy(helpers.collect(), config) });
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn more_helpers_than_the_dump_has_room_for_are_sent_away() {
    let config = Config { helpers: 2, ..config() };
    let (_, report) = dump(busy(vec![Helper::Works; 12], config));
    assert_eq!(report.helpers, 2);
    let config = Config { helpers: 100, ..crate::world::config() };
    let (_, report) = dump(busy(vec![Helper::Works; 12], config));
    assert!((1..=dumpcore::limits::MAX_HELPERS).contains(&report.helpers));
    let config = Config { helpers: 0, ..crate::world::config() };
    let (world, report) = dump(busy(vec![Helper::Works; 2], config));
    assert_eq!((report.helpers, world.machine.looks_of_helpers()), (0, 0));
}

#[test]
fn a_cpu_without_a_stack_in_the_arena_does_not_help() {
    let (world, _) = dump(Plan { helper_stacks: false, ..busy(vec![Helper::Works; 2], config()) });
    assert_eq!(world.machine.looks_of_helpers(), 0);
    assert_eq!(world.dumps()[0].header().metrics.units_by_helpers.get(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_helper_that_crashes_is_told_who_dumps_and_its_unit_is_done_again() {
    for look in [0, 3, 20] {
        let (world, _) = dump(busy(vec![Helper::Crashes(look), Helper::Works], config()));
        assert!(!world.console().contains("crashed itself"), "{}", world.console());
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_crash_in_the_midst_of_the_helpers_ends_in_bounded_time() {
    let mut told = 0;
    for at in (0..500).step_by(23) {
        for fault in [MachineFault::NestedCrash(200 + 3 * at), MachineFault::NestedCrashAtPage(at)] {
            let plan = busy(
                vec![Helper::Works, Helper::Dies(30), Helper::Stalls { look: 9, span: SECOND }],
                config(),
            );
            let world = World::new(Plan { fault, tick: 20_000, ..plan });
            world.arm().unwrap();
            let (before, begin) = (world.bytes(), world.machine.clock());
            let outcome = world.machine.panic("outer");
            world.check_after(&before, outcome);
            assert!(world.machine.clock() - begin < 100 * SECOND);
            told += usize::from(world.console().contains("crashed itself while "));
        }
    }
    assert!(told > 5, "only {told} of the crashes fell into a dump");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_clock_that_stands_still_does_not_make_the_dump_wait_for_dead_helpers_for_ever() {
    // Whether a helper dies with work in progress, and before the dump ends, is up to the host.
    for round in 0..60 {
        let looks = 60 + round % 6 * 30;
        let plan = busy(vec![Helper::Dies(3), Helper::Dies(12)], config());
        let world = World::new(Plan { fault: MachineFault::DeadClock(looks), ..plan });
        world.arm().unwrap();
        let before = world.bytes();
        let outcome = world.machine.panic("dead clock");
        world.check_after(&before, outcome);
        assert!(!matches!(outcome, Outcome::OtherCpu { .. } | Outcome::NotArmed), "{outcome:?}");
        if round >= 3 && world.machine.looks() > looks + 1_000_000 {
            return;
        }
    }
    panic!("the dump never waited on a clock that stood still");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn units_that_were_out_when_a_disk_failed_do_not_turn_up_in_the_next_dump() {
    for request in 5..14 {
        for helper in [Helper::Works, Helper::Stalls { look: 12, span: 100 * MILLISECOND }] {
            let disks = vec![
                DiskPlan { fault: DiskFault::WriteError(request), ..DiskPlan::default() },
                DiskPlan { fault: DiskFault::Stuck(request + 9), ..DiskPlan::default() },
                DiskPlan::default(),
            ];
            let config = Config { encoding: Encoding::Plain, ..config() };
            let contents = (256..640).map(|place| (place, Content::Random)).collect();
            let plan = busy(vec![helper, helper, Helper::Works], config);
            dump(Plan { disks, contents, tick: 100_000, ..plan });
        }
    }
}

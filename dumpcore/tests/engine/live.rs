//! Dumps of a kernel that survives, and dumps after dumps.

use std::sync::Mutex;
use std::thread;

use dumpcore::format::header::Trigger;
use dumpcore::outcome::{Crash, Outcome};
use dumpcore::sim::{DiskFault, Helper, MachineFault, cases};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Config, Registers};
use proptest::prelude::*;

use crate::world::{DiskPlan, Plan, World, any_disks, config, helpers, plans};

/// Room for several dumps.
fn roomy() -> Plan {
    Plan { disks: vec![DiskPlan { blocks: 2_000, ..DiskPlan::default() }], ..Plan::default() }
}

#[test]
fn after_a_snapshot_the_machine_goes_on_and_later_dumps_go_behind() {
    let world = World::new(Plan { helpers: vec![Helper::Works, Helper::StaysAway], ..roomy() });
    world.arm().unwrap();
    let before = world.bytes();
    assert_eq!(world.machine.snapshot("alive"), Outcome::Complete, "{}", world.console());
    assert_eq!((world.machine.resets(), world.machine.resumed()), (0, 2));
    assert!(!dumpcore::crashdump_mode());
    world.check_after(&before, Outcome::Complete);
    let first = world.bytes();
    assert_eq!(world.dumps()[0].header().trigger.get(), Trigger::Oops as u32);

    // The machine continues and changes its memory.
    for pfn in 0x280..0x290 {
        world.machine.fill_page(pfn, 77);
    }
    assert_eq!(world.machine.snapshot("still alive"), Outcome::Complete, "{}", world.console());
    assert_eq!((world.machine.resets(), world.machine.resumed()), (0, 4));
    for pfn in 0x280..0x290 {
        world.machine.fill_page(pfn, 78);
    }
    assert_eq!(world.machine.panic("dead"), Outcome::Complete, "{}", world.console());
    assert_eq!((world.machine.resets(), world.machine.resumed()), (1, 4));
    world.check_harm(&first);

    let dumps = world.dumps();
    let told: Vec<_> =
        dumps.iter().map(|dump| (dump.header().sequence.get(), dump.header().message())).collect();
    assert_eq!(told, [(1, "alive"), (2, "still alive"), (3, "dead")]);
    assert!(dumps.iter().all(crate::world::Whole::is_whole));
    world.check(&dumps[2]);
    let page = |dump: usize| dumps[dump].pages()[&0x285].bytes.clone();
    assert!(page(0) != page(1) && page(1) != page(2));
    let mut nonces: Vec<u64> = dumps.iter().map(|dump| dump.header().nonce.get()).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 3);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_snapshot_that_fails_leaves_the_machine_alive_and_armed() {
    for fault in [
        DiskFault::Unusable,
        DiskFault::NoQuiesce,
        DiskFault::WriteError(2),
        DiskFault::Stuck(9),
        DiskFault::Gone(9),
    ] {
        let mut plan = Plan { helpers: vec![Helper::Works], tick: 20_000, ..roomy() };
        plan.disks[0].fault = fault;
        let world = World::new(plan);
        world.arm().unwrap();
        let before = world.bytes();
        let outcome = world.machine.snapshot("unlucky");
        assert!(outcome != Outcome::Complete, "{fault:?}: {outcome:?}");
        assert_eq!((world.machine.resets(), world.machine.resumed()), (0, 1), "{fault:?}");
        world.check_after(&before, outcome);
        // The disk was repaired.
        world.disks[0].switch_on();
        let before = world.bytes();
        assert_eq!(world.machine.panic("better luck"), Outcome::Complete, "{fault:?}\n{}", world.console());
        world.check_harm(&before);
        assert!(world.dumps().iter().any(crate::world::Whole::is_whole));
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_crash_inside_a_snapshot_ends_in_the_reset_policy() {
    let mut told = 0;
    for at in (0..400).step_by(13) {
        let world = World::new(Plan { fault: MachineFault::NestedCrashAtPage(at), ..roomy() });
        world.arm().unwrap();
        let before = world.bytes();
        let outcome = world.machine.snapshot("alive?");
        world.check_after(&before, outcome);
        if world.console().contains("crashed itself while ") {
            assert_eq!(world.machine.resets(), 1, "{}", world.console());
            told += 1;
        }
    }
    assert!(told > 5, "only {told}");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_helper_that_sleeps_through_one_dump_and_wakes_in_the_next_harms_neither() {
    for look in [0, 5, 20] {
        let helpers = vec![Helper::Sleeps(look), Helper::Works, Helper::Sleeps(look + 7)];
        let config = Config { helper_patience: MILLISECOND, ..config() };
        let world = World::new(Plan { helpers, config, tick: 20_000, ..roomy() });
        world.arm().unwrap();
        for message in ["first", "second", "third"] {
            let before = world.bytes();
            assert_eq!(world.machine.snapshot(message), Outcome::Complete, "{}", world.console());
            world.check_after(&before, Outcome::Complete);
        }
        assert_eq!(world.dumps().len(), 3);
    }
}

#[test]
fn a_cpu_that_panics_during_a_snapshot_is_told_that_the_kernel_goes_on_and_has_its_dump_afterwards() {
    let world = World::new(roomy());
    world.arm().unwrap();
    let machine = world.machine;
    let told: &'static Mutex<Option<Outcome>> = Box::leak(Box::default());
    machine.at_console_line("begins at block", move || {
        // Another CPU has another stack.
        let other = thread::spawn(move || {
            let registers = Registers::ZERO;
            let crash =
                Crash { trigger: Trigger::Panic, message: "in the midst of it", registers: &registers };
            machine.dump().crash(machine, &crash)
        });
        *told.lock().unwrap() = Some(other.join().unwrap());
    });
    assert_eq!(machine.snapshot("alive"), Outcome::Complete, "{}", world.console());
    assert_eq!(*told.lock().unwrap(), Some(Outcome::OtherCpu { cpu: 0, resumes: true }));
    assert_eq!(machine.panic("in the midst of it"), Outcome::Complete, "{}", world.console());
    assert_eq!(world.dumps()[1].header().message(), "in the midst of it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(50), ..ProptestConfig::default() })]

    #[test]
    fn no_dump_ever_harms_the_ones_before_it(
        plan in plans(proptest::collection::vec(any_disks(), 1..4).boxed()),
        live in proptest::collection::vec(any::<bool>(), 1..4),
        helpers in helpers(),
    ) {
        let world = World::new(Plan { helpers, ..plan });
        prop_assume!(world.arm().is_ok());
        for live in live {
            let (before, begin) = (world.bytes(), world.machine.clock());
            let outcome = if live { world.machine.snapshot("live") } else { world.machine.panic("dead") };
            prop_assert!(!matches!(outcome, Outcome::NotArmed | Outcome::OtherCpu { .. }), "{:?}", outcome);
            world.check_after(&before, outcome);
            prop_assert!(world.machine.clock() - begin < crate::world::BUDGET + 2 * SECOND);
            // Failed disks stay as they are, except for the power.
            for (disk, plan) in world.disks.iter().zip(&world.plan.disks) {
                disk.switch_on();
                disk.set_fault(plan.fault);
            }
        }
    }
}

//! Many CPUs that panic at once: one of them dumps, and the others do not interfere.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dumpcore::format::Block;
use dumpcore::format::header::{Status, Trigger};
use dumpcore::outcome::{Crash, Outcome};
use dumpcore::platform::{ClassRun, CodeRange, Guarded, Lacks, RamRange};
use dumpcore::sim::{Machine, cases};
use dumpcore::stack::RED_ZONE;
use dumpcore::{Platform, Registers, ResetPolicy};
use proptest::prelude::*;

use crate::selection::lacks;
use crate::world::{Plan, World};

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// The progress of the machine.
#[derive(Default)]
struct Gate {
    /// CPUs in `crash()`.
    inside: u32,
    /// A reset: CPUs that are not in `crash()` never get there.
    dead: bool,
}

/// A machine whose CPUs are the threads that crash. Without CPU numbers it is the minimal kernel with five
/// methods.
struct Smp {
    machine: &'static Machine,
    numbered: bool,
    cpus: u32,
    gate: Mutex<Gate>,
    resets: AtomicU32,
    /// The read of a page at which the dump itself crashes.
    crash_at: u64,
    looks: AtomicU64,
    nested: Mutex<Vec<Outcome>>,
}

impl Smp {
    fn new(machine: &'static Machine, numbered: bool, cpus: u32, crash_at: u64) -> Smp {
        Smp {
            machine,
            numbered,
            cpus,
            gate: Mutex::default(),
            resets: AtomicU32::new(0),
            crash_at,
            looks: AtomicU64::new(0),
            nested: Mutex::default(),
        }
    }

    fn gate<T>(&self, change: impl FnOnce(&mut Gate) -> T) -> T {
        change(&mut self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn crash(&self, message: &str, registers: &Registers) -> Outcome {
        self.machine.dump().crash(self, &Crash { trigger: Trigger::Panic, message, registers })
    }

    /// A CPU: it panics after this many reads of the clock.
    fn cpu_panics(&self, cpu: u32, moment: u64) -> Option<Outcome> {
        CPU.set(cpu);
        while self.machine.looks() < moment && !self.gate(|gate| gate.dead) {
            thread::sleep(Duration::from_micros(20));
        }
        let alive = self.gate(|gate| {
            gate.inside += u32::from(!gate.dead);
            !gate.dead
        });
        let outcome = alive.then(|| self.crash("one of many", &Registers::ZERO));
        self.gate(|gate| gate.inside -= u32::from(alive));
        outcome
    }

    /// Makes all CPUs panic, and returns the result of each.
    fn all_panic(&self, moments: &[u64]) -> Vec<Outcome> {
        thread::scope(|scope| {
            let cpus: Vec<_> = moments
                .iter()
                .enumerate()
                .map(|(cpu, moment)| scope.spawn(move || self.cpu_panics(cpu as u32, *moment)))
                .collect();
            cpus.into_iter().filter_map(|cpu| cpu.join().unwrap()).collect()
        })
    }
}

// SAFETY: everything except the numbers is the machine's own.
unsafe impl Platform for Smp {
    fn now(&self) -> u64 {
        self.machine.now()
    }
    fn console(&self, text: &str) {
        self.machine.console(text);
    }
    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        self.machine.ram(visit);
    }
    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        if self.looks.fetch_add(1, Ordering::SeqCst) == self.crash_at {
            let outcome = self.crash("the dump itself", &Registers::ZERO);
            self.nested.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
        self.machine.page(pfn)
    }
    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        self.machine.guarded_copy(from, to)
    }
    fn has_guard(&self) -> bool {
        self.machine.has_guard()
    }
    fn class(&self, pfn: u64) -> ClassRun {
        self.machine.class(pfn)
    }
    fn reset(&self, policy: ResetPolicy) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.gate(|gate| gate.dead = true);
        // On a real machine no CPU gets beyond this.
        while self.gate(|gate| gate.inside) > 1 {
            thread::sleep(Duration::from_micros(20));
        }
        self.machine.reset(policy);
    }
    fn cpu(&self) -> u32 {
        if self.numbered { CPU.get() } else { 0 }
    }
    fn cpus(&self) -> u32 {
        if self.numbered { self.cpus } else { 0 }
    }
    fn code_ranges(&self) -> &[CodeRange] {
        self.machine.code_ranges()
    }
    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        self.machine.on_stack(stack, run)
    }
}

/// The panic times of two to eight CPUs: one is immediate.
fn moments() -> impl Strategy<Value = Vec<u64>> {
    let moment = prop_oneof![Just(0), 0..40_u64, 0..3_000_u64];
    proptest::collection::vec(moment, 1..8).prop_map(|mut moments| {
        moments.push(0);
        moments
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), ..ProptestConfig::default() })]

    #[test]
    fn however_many_cpus_panic_there_is_one_dump_and_it_is_whole(
        moments in moments(),
        numbered in any::<bool>(),
    ) {
        let world = World::new(Plan::default());
        world.arm().unwrap();
        let smp = Smp::new(world.machine, numbered, moments.len() as u32, u64::MAX);
        let told = smp.all_panic(&moments);
        let other = |outcome: &&Outcome| !matches!(outcome, Outcome::OtherCpu { .. });
        let own: Vec<_> = told.iter().filter(other).collect();
        prop_assert_eq!(&own, &[&Outcome::Complete], "{:?}\n{}", &told, world.console());
        prop_assert_eq!(smp.resets.load(Ordering::SeqCst), 1, "{}", world.console());
        prop_assert!(!world.console().contains("crashed itself"), "{}", world.console());
        let dumps = world.dumps_on(0);
        prop_assert_eq!(dumps.len(), 1);
        prop_assert_eq!(dumps[0].front.status(), Status::Complete);
    }

    #[test]
    #[cfg_attr(miri, ignore = "switches stacks")]
    fn a_dump_that_crashes_itself_is_told_from_other_cpus_that_panic(
        moments in moments(),
        numbered in any::<bool>(),
        crash_at in 0..200_u64,
    ) {
        let world = World::new(Plan::default());
        world.arm().unwrap();
        let smp = Smp::new(world.machine, numbered, moments.len() as u32, crash_at);
        smp.all_panic(&moments);
        let nested = smp.nested.lock().unwrap_or_else(PoisonError::into_inner).clone();
        prop_assert_eq!(nested, [Outcome::Nested], "{}", world.console());
        prop_assert!(world.console().contains("crashed itself while"), "{}", world.console());
    }
}

#[test]
fn a_fault_that_is_handled_on_a_stack_of_its_own_is_known_by_its_registers() {
    let world = World::new(Plan::default());
    world.arm().unwrap();
    let smp: &'static Smp = Box::leak(Box::new(Smp::new(world.machine, false, 2, u64::MAX)));
    let (arena, _) = world.machine.arena_memory();
    let mut registers = Registers::ZERO;
    // One of these is the stack pointer.
    for place in [2, 19, 31] {
        registers.general[place] = (arena.addr() + RED_ZONE + 1_000) as u64;
    }
    assert_ne!(registers.stack_pointer(), 0);
    let told: &'static Mutex<Vec<Outcome>> = Box::leak(Box::default());
    world.machine.at_console_line("begins at block", move || {
        // A thread stands for the handler's stack.
        let handler = thread::spawn(move || smp.crash("a fault", &registers));
        told.lock().unwrap().push(handler.join().unwrap());
    });
    smp.crash("first", &Registers::ZERO);
    assert_eq!(*told.lock().unwrap(), [Outcome::Nested], "{}", world.console());
}

#[test]
fn a_platform_that_does_not_say_how_many_cpus_there_are_lacks_their_stop() {
    let world = World::new(Plan::default());
    world.arm().unwrap();
    let smp = Smp::new(world.machine, false, 1, u64::MAX);
    assert_eq!(smp.crash("alone?", &Registers::ZERO), Outcome::Complete, "{}", world.console());
    assert!(lacks(&world).contains(Lacks::OTHER_CPUS), "{:?}", lacks(&world));
    assert_eq!(world.dumps_on(0)[0].front.cpus.get(), 1);
}

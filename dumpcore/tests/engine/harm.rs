//! A dump that detects damage to itself while it runs stops writing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Geometry, Health, Rejected, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::header::Status;
use dumpcore::integrity::{Digest, Harm};
use dumpcore::outcome::{Outcome, Refusal};
use dumpcore::sim::{Disk, DiskFault, Machine, SimDevice};
use dumpcore::stack::RED_ZONE;
use dumpcore::wait::Wait;
use dumpcore::{Config, Ownership, Target};

use crate::world::{BUDGET, Content, DiskPlan, FIRST, Plan, World, config, uuid};

/// The event in a driver at its n-th write, and the number of later calls.
struct Trap {
    at: u64,
    calls: AtomicU64,
    sprung: AtomicBool,
    writes_after: AtomicU64,
    spring: Box<dyn Fn() + Send + Sync>,
}

impl Trap {
    fn new(at: u64, spring: impl Fn() + Send + Sync + 'static) -> &'static Trap {
        Box::leak(Box::new(Trap {
            at,
            calls: AtomicU64::new(0),
            sprung: AtomicBool::new(false),
            writes_after: AtomicU64::new(0),
            spring: Box::new(spring),
        }))
    }

    fn step(&self, direction: Direction) {
        if direction == Direction::Read {
            return;
        }
        if self.sprung.load(Ordering::SeqCst) {
            self.writes_after.fetch_add(1, Ordering::SeqCst);
        } else if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            self.sprung.store(true, Ordering::SeqCst);
            (self.spring)();
        }
    }

    fn has_sprung(&self) -> bool {
        self.sprung.load(Ordering::SeqCst)
    }

    fn writes_after(&self) -> u64 {
        self.writes_after.load(Ordering::SeqCst)
    }
}

/// A driver with a trap.
struct Trapped {
    inner: SimDevice,
    trap: &'static Trap,
}

// SAFETY: it forwards every call to a device that fulfils the contract, and keeps no buffer.
unsafe impl DumpDevice for Trapped {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn geometry(&self) -> Option<Geometry> {
        self.inner.geometry()
    }
    fn integrity(&self, digest: &mut Digest) {
        self.inner.integrity(digest);
    }
    fn sanity_check(&mut self, wait: &Wait<'_>) -> Health {
        self.inner.sanity_check(wait)
    }
    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.inner.quiesce(wait)
    }
    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        self.trap.step(direction);
        self.inner.rw_block(direction, block, buffer, wait)
    }
    fn depth(&self) -> usize {
        self.inner.depth()
    }
    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        self.trap.step(request.direction);
        self.inner.submit(request, wait)
    }
    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        self.inner.poll(wait)
    }
    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.inner.flush(wait)
    }
    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.inner.shutdown(wait)
    }
}

/// Arms a world, with the trap in each disk's driver.
fn arm(world: &World, trap: &'static Trap) {
    let target = |(number, disk): (usize, &Disk)| Target {
        device: Box::leak(Box::new(Trapped { inner: disk.device(4), trap })),
        first_block: FIRST,
        blocks: world.plan.disks[number].blocks,
        uuid: Some(uuid(number)),
        recipient: None,
        ownership: Ownership::Shared,
    };
    let targets = world.disks.iter().enumerate().map(target);
    let config: Config<'static> = world.plan.config.clone();
    world.machine.dump().arm(world.machine, targets, world.machine.arena(), config).unwrap();
    world.disks.iter().zip(&world.plan.disks).for_each(|(disk, plan)| disk.set_fault(plan.fault));
}

/// A dump of several chunks: its fourth write is memory.
fn long() -> Plan {
    let contents = (300..460).map(|place| (place, Content::Random)).collect();
    Plan { contents, ..Plan::default() }
}

/// Recurses until it has left the stack whose lowest byte is at `lowest`.
#[inline(never)]
fn overrun(lowest: usize) -> u64 {
    let frame = std::hint::black_box([0x11_u64; 16]);
    if frame.as_ptr().addr() < lowest { frame[3] } else { overrun(lowest).wrapping_add(frame[5]) }
}

#[test]
#[cfg_attr(miri, ignore = "switches stacks")]
fn after_a_driver_overran_the_stack_no_block_is_written_and_the_console_says_so_once() {
    for at in 0..5 {
        let disks = vec![DiskPlan::default(), DiskPlan::default()];
        let world = World::new(Plan { disks, ..long() });
        let (arena, _) = world.machine.arena_memory();
        let lowest = arena.addr() + RED_ZONE;
        let trap = Trap::new(at, move || {
            std::hint::black_box(overrun(lowest));
        });
        arm(&world, trap);
        let outcome = world.machine.panic("overrun");
        let console = world.console();
        assert!(trap.has_sprung(), "{console}");
        let stack = DeviceError::Harmed(Harm::Stack);
        assert_eq!(outcome, Outcome::Unclosed(stack), "write {at}\n{console}");
        assert_eq!(trap.writes_after(), 0, "write {at}\n{console}");
        assert_eq!(world.disks[1].blocks_written(), 0);
        assert_eq!(console.matches("overflowed").count(), 1, "{console}");
        assert!(!console.contains("diskdump: complete"), "{console}");
        let written = world.disks[0].blocks_written();
        assert_eq!(world.machine.panic("again"), Outcome::NotArmed, "what is harmed is not armed");
        assert_eq!(world.disks[0].blocks_written(), written);
    }
}

#[test]
fn a_dump_that_does_not_overrun_its_stack_leaves_the_red_zone_whole() {
    let world = World::new(Plan::default());
    arm(&world, Trap::new(u64::MAX, || ()));
    assert_eq!(world.machine.panic("fine"), Outcome::Complete, "{}", world.console());
    world.disks[0].switch_on();
    assert_eq!(world.machine.panic("fine again"), Outcome::Complete, "{}", world.console());
    assert!(!world.console().contains("overflowed"));
}

/// The place of the 16 settings in the armed state: the third is the budget.
fn encrypted_words(machine: &Machine) -> *mut u64 {
    let (state, length) = machine.dump().armed_state();
    let words = state.cast::<u64>();
    for word in 0..length / 8 {
        // SAFETY: inside the armed state, which is aligned and not in use now.
        if unsafe { words.add(word).read_volatile() } == BUDGET {
            return words.wrapping_add(word).wrapping_sub(2);
        }
    }
    panic!("the budget is not in the armed state");
}

/// Flips a bit of the armed state.
fn flip(word: usize, bit: u32) {
    let word = core::ptr::with_exposed_provenance_mut::<u64>(word);
    // SAFETY: one of the settings, which the dump reads again only to check them.
    unsafe { word.write_volatile(word.read_volatile() ^ (1 << bit)) };
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn protected_state_that_changes_between_two_targets_keeps_the_second_from_being_written() {
    for word in 0..16 {
        for bit in [0, 3, 40] {
            let disks = vec![
                DiskPlan { fault: DiskFault::WriteError(3), ..DiskPlan::default() },
                DiskPlan::default(),
            ];
            let world = World::new(Plan { disks, ..long() });
            // The write that fails: the dump then continues on the second disk.
            let place = Box::leak(Box::new(AtomicU64::new(0)));
            let at: &'static AtomicU64 = place;
            let trap = Trap::new(3, move || flip(at.load(Ordering::SeqCst) as usize, bit));
            arm(&world, trap);
            let words = encrypted_words(world.machine);
            at.store(words.wrapping_add(word).expose_provenance() as u64, Ordering::SeqCst);
            let outcome = world.machine.panic("changed");
            assert!(trap.has_sprung());
            let harmed = matches!(outcome, Outcome::Unclosed(DeviceError::Harmed(Harm::Integrity { .. })));
            assert!(harmed, "word {word}, bit {bit}: {outcome:?}\n{}", world.console());
            assert_eq!(world.disks[1].blocks_written(), 0, "word {word}, bit {bit}");
            assert_eq!(world.console().matches("the armed state was changed").count(), 1);
            assert_eq!(world.machine.panic("again"), Outcome::NotArmed);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn protected_state_that_changes_before_anything_was_written_refuses_the_next_target() {
    let disks = vec![DiskPlan { spoilt: Some((7, 77)), ..DiskPlan::default() }, DiskPlan::default()];
    let world = World::new(Plan { disks, config: config(), ..Plan::default() });
    arm(&world, Trap::new(u64::MAX, || ()));
    let words = encrypted_words(world.machine).expose_provenance();
    // The refusal of the first disk is reported on the console: the flip happens there.
    world.machine.at_console_line("refused: ", move || flip(words + 8 * 10, 4));
    let outcome = world.machine.panic("changed");
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::Integrity { .. })),
        "{outcome:?}\n{}",
        world.console()
    );
    assert_eq!(world.disks.iter().map(Disk::blocks_written).sum::<u64>(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn protected_state_that_changes_while_memory_is_written_leaves_a_dump_in_progress() {
    let world = World::new(long());
    let place: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
    let trap = Trap::new(3, move || flip(place.load(Ordering::SeqCst) as usize + 8 * 7, 9));
    arm(&world, trap);
    place.store(encrypted_words(world.machine).expose_provenance() as u64, Ordering::SeqCst);
    let outcome = world.machine.panic("changed");
    assert!(matches!(outcome, Outcome::Unclosed(DeviceError::Harmed(Harm::Integrity { .. }))), "{outcome:?}");
    let dumps = world.dumps();
    assert_eq!(dumps[0].header().status(), Status::InProgress);
}

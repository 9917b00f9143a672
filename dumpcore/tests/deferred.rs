//! The private queues: the needs of a diskdump driver of 2004, and the limits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dumpcore::Outcome;
use dumpcore::arm::{Config, Ownership, Target};
use dumpcore::deferred::{DeferError, Handler, HostQueues, Queues, TASKLET_CAPACITY, TIMER_CAPACITY};
use dumpcore::device::{DeviceError, Direction, DumpDevice, Geometry, Health};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::header::Trigger;
use dumpcore::integrity::Digest;
use dumpcore::sim::{Disk, Machine};
use dumpcore::wait::{MILLISECOND, Wait};
use dumpcore::{Platform, ResetPolicy, platform::RamRange};

const UUID: [u8; 16] = *b"deferred tests..";

/// Observations of a test from inside a dump.
static SEEN: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
static FAILED: AtomicUsize = AtomicUsize::new(0);

fn count(word: usize) {
    SEEN[word].fetch_add(1, Ordering::Relaxed);
}

fn nothing(_: usize) {}

fn expect(what: bool) {
    if !what {
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
}

/// A driver in the style of 2004: a timer finishes its requests and schedules a tasklet.
struct OldDriver {
    inner: dumpcore::sim::SimDevice,
    queues: &'static Queues,
    machine: &'static Machine,
}

impl OldDriver {
    fn timer(word: usize) -> Handler {
        Handler { run: count, word }
    }

    /// Everything that a driver may do with the queues, in crashdump mode.
    fn exercise(&self, wait: &Wait<'_>) {
        let (queues, machine) = (self.queues, self.machine);
        expect(queues.crashdump_mode() && dumpcore::crashdump_mode());
        let now = machine.now();
        // Timers: in time, not early, modified, deleted.
        expect(queues.set_timer(machine, Self::timer(0), now + MILLISECOND).is_ok());
        expect(queues.set_timer(machine, Self::timer(1), now + 3600 * 1000 * MILLISECOND).is_ok());
        expect(queues.set_timer(machine, Self::timer(2), now).is_ok());
        expect(queues.set_timer(machine, Self::timer(2), now + 3600 * 1000 * MILLISECOND).is_ok());
        expect(queues.set_timer(machine, Self::timer(3), now + MILLISECOND).is_ok());
        expect(queues.delete_timer(machine, Self::timer(3)) == Ok(true));
        expect(queues.delete_timer(machine, Self::timer(3)) == Ok(false));
        expect(queues.schedule_tasklet(machine, Self::timer(4)).is_ok());
        expect(queues.schedule_tasklet(machine, Self::timer(4)).is_ok());
        wait.pause(5 * MILLISECOND);
        // A full queue returns an error, and keeps its entries.
        for word in 0..TIMER_CAPACITY - 2 {
            expect(queues.set_timer(machine, Handler { run: nothing, word }, u64::MAX).is_ok());
        }
        let one_more = Handler { run: nothing, word: 999 };
        let full = queues.set_timer(machine, one_more, u64::MAX);
        expect(full == Err(DeferError::Full { capacity: TIMER_CAPACITY }));
        for word in 0..TASKLET_CAPACITY {
            expect(queues.schedule_tasklet(machine, Handler { run: nothing, word }).is_ok());
        }
        let full = queues.schedule_tasklet(machine, one_more);
        expect(full == Err(DeferError::Full { capacity: TASKLET_CAPACITY }));
        wait.pause(MILLISECOND);
        expect(queues.schedule_tasklet(machine, one_more).is_ok());
    }
}

// SAFETY: every buffer goes to the simulated disk and is returned by it.
unsafe impl DumpDevice for OldDriver {
    fn name(&self) -> &str {
        "a 2004 driver"
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
        if self.queues.crashdump_mode() {
            self.exercise(wait);
        }
        self.inner.quiesce(wait)
    }
    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        self.inner.rw_block(direction, block, buffer, wait)
    }
    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.inner.flush(wait)
    }
    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.inner.shutdown(wait)
    }
}

/// A kernel with its own timers and tasklets, which only records requests.
#[derive(Default)]
struct Host {
    asked: std::sync::Mutex<Vec<String>>,
}

impl HostQueues for Host {
    fn set_timer(&self, handler: Handler, expires: u64) -> Result<(), DeferError> {
        self.asked.lock().unwrap().push(format!("set {} at {expires}", handler.word));
        Ok(())
    }
    fn delete_timer(&self, handler: Handler) -> bool {
        self.asked.lock().unwrap().push(format!("delete {}", handler.word));
        true
    }
    fn schedule_tasklet(&self, handler: Handler) -> Result<(), DeferError> {
        self.asked.lock().unwrap().push(format!("schedule {}", handler.word));
        Err(DeferError::Full { capacity: 1 })
    }
}

// SAFETY: page() returns nothing.
unsafe impl Platform for Host {
    fn now(&self) -> u64 {
        0
    }
    fn console(&self, _: &str) {}
    fn ram(&self, _: &mut dyn FnMut(RamRange)) {}
    fn page(&self, _: u64) -> Option<std::ptr::NonNull<u8>> {
        None
    }
    fn reset(&self, _: ResetPolicy) {}
    fn host_queues(&self) -> Option<&dyn HostQueues> {
        Some(self)
    }
}

#[test]
fn in_normal_operation_the_queues_hand_through_to_the_kernels_own() {
    let (host, queues) = (Host::default(), Queues::new());
    let handler = Handler { run: nothing, word: 5 };
    assert!(!queues.crashdump_mode());
    assert_eq!(queues.set_timer(&host, handler, 77), Ok(()));
    assert_eq!(queues.delete_timer(&host, handler), Ok(true));
    assert_eq!(queues.schedule_tasklet(&host, handler), Err(DeferError::Full { capacity: 1 }));
    assert_eq!(*host.asked.lock().unwrap(), ["set 5 at 77", "delete 5", "schedule 5"]);
}

/// A machine with another CPU that is stopped in the middle of a driver.
struct Stopping {
    machine: &'static Machine,
    queues: &'static Queues,
    host: Host,
}

// SAFETY: everything is the machine's own except for stop_cpus().
unsafe impl Platform for Stopping {
    fn now(&self) -> u64 {
        self.machine.now()
    }
    fn console(&self, text: &str) {
        self.machine.console(text);
    }
    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        self.machine.ram(visit);
    }
    fn page(&self, pfn: u64) -> Option<std::ptr::NonNull<u8>> {
        self.machine.page(pfn)
    }
    fn reset(&self, _: ResetPolicy) {}
    fn host_queues(&self) -> Option<&dyn HostQueues> {
        Some(&self.host)
    }
    fn stop_cpus(&self) {
        let other = Handler { run: nothing, word: 9 };
        expect(self.queues.set_timer(self, other, 123) == Ok(()));
        expect(!self.queues.crashdump_mode());
    }
}

#[test]
fn a_cpu_that_is_stopped_in_the_middle_of_a_driver_cannot_hold_the_private_queues() {
    let disk = Disk::formatted(512, 0, 512, &UUID, 1);
    let machine: &'static Machine = Machine::new(vec![RamRange { start: 0, end: 2 << 20 }], 1 << 20, &disk);
    let queues: &'static Queues = Box::leak(Box::new(Queues::new()));
    let stopping = Stopping { machine, queues, host: Host::default() };
    let target = Target {
        device: Box::leak(Box::new(disk.device(1))),
        first_block: 0,
        blocks: 512,
        uuid: Some(UUID),
        recipient: None,
        ownership: Ownership::Shared,
    };
    let config = Config { queues: Some(queues), reset: ResetPolicy::Return, ..Config::default() };
    machine.dump().arm(&stopping, [target], machine.arena(), config).unwrap();
    let registers = dumpcore::Registers::ZERO;
    let crash = dumpcore::Crash { trigger: Trigger::Panic, message: "stopped", registers: &registers };
    assert_eq!(machine.dump().crash(&stopping, &crash), Outcome::Complete);
    // The other CPU's requests went to its kernel, and took no lock of the dump's.
    assert_eq!(*stopping.host.asked.lock().unwrap(), ["set 9 at 123"]);
    assert_eq!(FAILED.load(Ordering::Relaxed), 0);
}

#[test]
fn in_a_dump_the_queues_run_the_drivers_timers_and_tasklets_and_nothing_else() {
    let disk = Disk::formatted(512, 0, 512, &UUID, 1);
    let machine = Machine::new(vec![RamRange { start: 0, end: 2 << 20 }], 1 << 20, &disk);
    machine.fill_page(400, 1);
    let machine: &'static Machine = machine;
    let queues: &'static Queues = Box::leak(Box::new(Queues::new()));

    // In normal operation they pass requests through, and this kernel has no queues of its own.
    let handler = OldDriver::timer(7);
    assert_eq!(queues.set_timer(machine, handler, 0), Err(DeferError::NoHostQueues));
    assert_eq!(queues.schedule_tasklet(machine, handler), Err(DeferError::NoHostQueues));

    let driver = Box::leak(Box::new(OldDriver { inner: disk.device(1), queues, machine }));
    let target = Target {
        device: driver,
        first_block: 0,
        blocks: 512,
        uuid: Some(UUID),
        recipient: None,
        ownership: Ownership::Exclusive,
    };
    let config = Config { queues: Some(queues), reset: ResetPolicy::Return, ..Config::default() };
    machine.dump().arm(machine, [target], machine.arena(), config).unwrap();
    assert_eq!(machine.panic("with timers"), Outcome::Complete);

    assert_eq!(FAILED.load(Ordering::Relaxed), 0, "an expectation inside the dump failed");
    let seen: Vec<u64> = SEEN.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(seen, [1, 0, 0, 0, 1, 0, 0, 0], "timer 0 and tasklet 4 ran, each once");
    assert!(!queues.crashdump_mode(), "a dump that returns leaves crashdump mode");
}

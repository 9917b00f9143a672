//! The other CPUs of the simulated machine: threads that help with a dump, or fail to.
//!
//! The crashing CPU is the thread that calls [`Machine::panic`](super::Machine::panic). Only its reads of the
//! clock advance time.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::dump::Dump;
use crate::format::header::Trigger;
use crate::outcome::{Crash, Outcome};
use crate::platform::{Platform, Registers};

/// The machine, as seen by its other CPUs.
pub(super) trait Board: Platform {
    /// The dump that they help with.
    fn dump(&self) -> &'static Dump<'static>;

    /// The other CPUs.
    fn others(&self) -> &Others;

    /// The machine's clock in nanoseconds. Reading it takes no time.
    fn clock(&self) -> u64;

    /// How often the dumping CPU has read a page since the last dump ended.
    fn looks_at_pages(&self) -> u64;
}

/// The behaviour of another CPU after it was stopped. A look is a call of one of the methods for reading a
/// page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Helper {
    /// It helps.
    Works,
    /// It never takes work.
    StaysAway,
    /// It starts taking work this many nanoseconds after it was stopped, or when the dump is over.
    Late(u64),
    /// It stops for good at its n-th look.
    Dies(u64),
    /// It stops at its n-th look, for `span` or until the dump is over; then it continues as if nothing had
    /// happened.
    Stalls {
        /// The look, from 0.
        look: u64,
        /// Nanoseconds on the machine's clock.
        span: u64,
    },
    /// It stops at its n-th look and continues in the middle of the next dump.
    Sleeps(u64),
    /// It crashes at its n-th look, calls `crash()`, and stops for good.
    Crashes(u64),
}

/// The state of another CPU's thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whereabouts {
    /// There is no thread: the CPU runs normally.
    Running,
    /// Stopped, and about to help, helping, or waiting to be resumed.
    Stopped,
    /// As for [`Helper::Sleeps`].
    Asleep,
    /// It never does anything again.
    Dead,
}

/// All other CPUs.
#[derive(Default)]
pub(super) struct Others {
    plans: Vec<Helper>,
    whereabouts: Mutex<Vec<Whereabouts>>,
    /// Number of threads that have work to do.
    busy: AtomicUsize,
    /// Errors found by the threads.
    failures: Mutex<Vec<String>>,
    /// Number of dumps that have ended.
    over: AtomicU64,
    /// Calls of `resume_cpus`.
    resumes: AtomicU64,
    /// Number of CPUs that continued where they were.
    resumed: AtomicU64,
    /// Looks at pages by helpers.
    looks: AtomicU64,
    /// Number of threads that have started waiting for work.
    arrived: AtomicUsize,
}

/// A thread's state.
#[derive(Clone, Copy)]
struct Me {
    cpu: u32,
    plan: Helper,
    looks: u64,
    /// Number of dumps that had ended when it was stopped.
    over: u64,
    /// Number of its reads of the clock; a waiting CPU reads the clock.
    clock_looks: u64,
}

thread_local! {
    /// `None` for the CPU that crashes.
    static ME: Cell<Option<Me>> = const { Cell::new(None) };
}

/// Number of the current CPU.
pub(super) fn this_cpu() -> u32 {
    ME.get().map_or(0, |me| me.cpu)
}

/// Real time between two polls of a thread.
const NAP: Duration = Duration::from_micros(20);

/// Real time within which a CPU returns from helping after the end of the dump.
const PATIENCE: Duration = Duration::from_secs(20);

impl Others {
    pub(super) fn new(plans: &[Helper]) -> Others {
        let whereabouts = Mutex::new(vec![Whereabouts::Running; plans.len()]);
        Others { plans: plans.to_vec(), whereabouts, ..Others::default() }
    }

    /// Whether any thread has work to do.
    pub(super) fn are_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    pub(super) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::SeqCst)
    }

    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub(super) fn resume(&self) {
        self.resumes.fetch_add(1, Ordering::SeqCst);
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn is(&self, helper: usize, now: Whereabouts) {
        let mut all = self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = all.get_mut(helper) {
            let busy = |where_: Whereabouts| usize::from(where_ == Whereabouts::Stopped);
            self.busy.fetch_add(busy(now), Ordering::Relaxed);
            self.busy.fetch_sub(busy(*slot), Ordering::Relaxed);
            *slot = now;
        }
    }

    fn any(&self, at: Whereabouts) -> bool {
        self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner).contains(&at)
    }

    /// Stops the CPUs: each running one is asked to help.
    pub(super) fn stop(&self, machine: &'static dyn Board) {
        self.arrived.store(0, Ordering::SeqCst);
        let mut expected = 0;
        for (number, plan) in self.plans.iter().enumerate() {
            let state = self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner).get(number).copied();
            if state != Some(Whereabouts::Running) {
                continue;
            }
            self.is(number, Whereabouts::Stopped);
            let over = self.over.load(Ordering::SeqCst);
            let me = Me { cpu: number as u32 + 1, plan: *plan, looks: 0, over, clock_looks: 0 };
            expected += usize::from(!matches!(plan, Helper::StaysAway | Helper::Late(_)));
            let resumes = self.resumes.load(Ordering::SeqCst);
            let thread = thread::Builder::new().name(format!("cpu {}", me.cpu)).stack_size(512 << 10);
            let spawned = thread.spawn(move || machine.others().stopped(machine, me, resumes));
            spawned.expect("a thread for each CPU");
        }
        // A busy host may start the threads only after the dump is over. A real CPU is there at once, so wait
        // for them.
        let begin = Instant::now();
        while self.arrived.load(Ordering::SeqCst) < expected && begin.elapsed() < PATIENCE {
            thread::sleep(NAP);
        }
    }

    /// Called when this CPU reads the clock, which is the first thing it does when waiting for work. Waiting
    /// threads leave the host's time to those that work.
    pub(super) fn look_at_clock(&self) {
        let Some(me) = ME.get() else { return };
        ME.set(Some(Me { clock_looks: me.clock_looks + 1, ..me }));
        if me.clock_looks == 0 {
            self.arrived.fetch_add(1, Ordering::SeqCst);
        }
        if me.clock_looks % 16 == 15 {
            thread::sleep(NAP);
        }
    }

    /// Runs a CPU from its stop until it continues.
    fn stopped(&self, machine: &'static dyn Board, me: Me, resumes: u64) {
        ME.set(Some(me));
        let help = || match me.plan {
            Helper::StaysAway => (),
            plan => {
                if let Helper::Late(span) = plan {
                    self.idle(machine, me, span);
                }
                machine.dump().help(machine);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(help)) {
            self.fail(format!("cpu {}: {}", me.cpu, message(&*panic)));
        }
        self.look_at_clock();
        // It waits to be resumed; once a machine's dump is over for good, it is not needed any more.
        let resumed = || self.resumes.load(Ordering::SeqCst) != resumes;
        while !resumed() && self.over.load(Ordering::SeqCst) == me.over {
            thread::sleep(NAP);
        }
        if resumed() {
            self.resumed.fetch_add(1, Ordering::SeqCst);
        }
        self.is(me.cpu as usize - 1, Whereabouts::Running);
    }

    /// Lets time pass until the dump is over.
    fn idle(&self, machine: &dyn Board, me: Me, span: u64) {
        let end = machine.clock().saturating_add(span);
        while machine.clock() < end && self.over.load(Ordering::SeqCst) == me.over {
            thread::sleep(NAP);
        }
    }

    /// Called when this CPU reads a page: carries out its plan.
    pub(super) fn look(&self, machine: &dyn Board) {
        let Some(mut me) = ME.get() else { return };
        let look = me.looks;
        me.looks += 1;
        ME.set(Some(me));
        self.looks.fetch_add(1, Ordering::Relaxed);
        match me.plan {
            Helper::Dies(at) if at == look => self.die(me),
            Helper::Stalls { look: at, span } if at == look => self.idle(machine, me, span),
            Helper::Sleeps(at) if at == look => {
                self.is(me.cpu as usize - 1, Whereabouts::Asleep);
                while self.over.load(Ordering::SeqCst) == me.over || machine.looks_at_pages() < 30 {
                    thread::sleep(NAP);
                }
                self.is(me.cpu as usize - 1, Whereabouts::Stopped);
            }
            // A CPU that was given up may get here after the end of the dump; that crash would be a separate
            // one.
            Helper::Crashes(at) if at == look && self.over.load(Ordering::SeqCst) == me.over => {
                let registers = Registers::ZERO;
                let crash =
                    Crash { trigger: Trigger::Fault, message: "a helper crashes", registers: &registers };
                let outcome = machine.dump().crash(machine, &crash);
                if !matches!(outcome, Outcome::OtherCpu { cpu: 0, .. }) {
                    self.fail(format!("a helper that crashes is told {outcome:?}"));
                }
                self.die(me);
            }
            _ => (),
        }
    }

    fn die(&self, me: Me) {
        self.is(me.cpu as usize - 1, Whereabouts::Dead);
        loop {
            thread::park();
        }
    }

    /// Called when a dump is over: waits for the CPUs that return from it.
    ///
    /// # Panics
    /// If a CPU does not return, or if any thread found an error.
    pub(super) fn come_back(&self) {
        self.over.fetch_add(1, Ordering::SeqCst);
        let begin = Instant::now();
        while self.any(Whereabouts::Stopped) {
            assert!(begin.elapsed() < PATIENCE, "a CPU does not come back from helping");
            thread::sleep(NAP);
        }
        let failures = core::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(failures.is_empty(), "{failures:?}");
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

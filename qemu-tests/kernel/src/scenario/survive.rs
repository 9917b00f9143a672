//! Dumps that the kernel survives: it continues afterwards, and proves that all its CPUs do.

use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::format::header::Trigger;

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{clock, cpu, guard, power, registers};
use crate::command_line::Options;
use crate::log::log;
use crate::scenario::outcomes;
use crate::{panic, watchdog};

/// An unmapped address, for `scenario=oops`.
const NOWHERE: u64 = 0x1000;
/// How long the other CPUs may take to continue, in nanoseconds.
const RESUME_PATIENCE: u64 = 10_000_000_000;
/// How long to wait for a button press, in nanoseconds.
const BUTTON_PATIENCE: u64 = 60_000_000_000;
/// How long the watchdog is patted before it is neglected, in nanoseconds.
const PATTED: u64 = 1_000_000_000;

/// The work of each CPU: the number of its loop iterations.
static WORK: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Does a little work on a CPU.
pub(crate) fn work(own: usize) {
    if let Some(work) = WORK.get(own) {
        work.fetch_add(1, Ordering::Relaxed);
    }
    core::hint::spin_loop();
}

/// `scenario=snapshot`.
pub(crate) fn snapshots(options: &Options) -> ! {
    for number in 1..=options.dumps {
        let count = options.dumps;
        panic::snapshot(
            Trigger::Request,
            format_args!("dump {number} of {count} of the live kernel, as the command line asks"),
            &registers::here(),
        );
        prove_alive();
    }
    power::exit(outcomes::exit_value())
}

/// `scenario=oops`.
pub(crate) fn oopses(options: &Options) -> ! {
    for _ in 0..options.dumps {
        guard::oops(NOWHERE);
        prove_alive();
    }
    power::exit(outcomes::exit_value())
}

/// `scenario=nmi`: `panic::nmi` handles the NMI; if that is a crash, it does not return.
pub(crate) fn wait_for_button(options: &Options) -> Result<(), &'static str> {
    wait_for_nmis(options.dumps, || {
        log!("testkernel: waiting for nmi");
    })
}

/// `scenario=watchdog`, with the watchdog started.
pub(crate) fn starve_watchdog(options: &Options) -> Result<(), &'static str> {
    wait_for_nmis(options.dumps, || {
        let fed = clock::now() + PATTED;
        while clock::now() < fed {
            watchdog::pat();
            work(cpu::number());
        }
        log!("testkernel: nobody pats the watchdog any more");
    })
}

/// Waits for `count` dumps caused by NMIs, calling `begin` before each.
fn wait_for_nmis(count: u32, begin: impl Fn()) -> Result<(), &'static str> {
    for _ in 0..count {
        let dumps = outcomes::dumps();
        begin();
        let deadline = clock::now() + BUTTON_PATIENCE;
        while outcomes::dumps() == dumps {
            if clock::now() > deadline {
                return Err("no NMI came");
            }
            work(cpu::number());
        }
        prove_alive();
    }
    power::exit(outcomes::exit_value())
}

/// Waits until every other CPU works again, and reports how many CPUs do, including this one.
fn prove_alive() {
    let own = cpu::number();
    let done = || WORK.each_ref().map(|work| work.load(Ordering::Relaxed));
    let before = done();
    let running = || {
        let now = done();
        (0..cpu::count()).filter(|cpu| *cpu == own || now[*cpu] > before[*cpu]).count()
    };
    let deadline = clock::now() + RESUME_PATIENCE;
    while running() < cpu::count() && clock::now() < deadline {
        core::hint::spin_loop();
    }
    log!("testkernel: resumed cpus={}", running());
}

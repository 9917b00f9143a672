//! The scenarios: what happens before the crash, and how it happens.
//!
//! | file | scenarios |
//! | --- | --- |
//! | `harm.rs`, `sabotage.rs` | corrupt-code, corrupt-state, nested-…, dead-helper, late-helper |
//! | `unplug.rs` | device-gone, unplug |
//! | `live/` | shared-live |
//! | `interrupt.rs` | interrupt |
//! | `fill.rs` | bad-memory |
//! | `survive.rs`, `outcomes.rs` | snapshot, oops, nmi, watchdog, two-crashes |
//! | `footprint.rs` | footprint |
//! | `bench.rs` | bench-… |

pub(crate) mod bench;
mod fill;
pub(crate) mod footprint;
mod harm;
mod interrupt;
pub(crate) mod live;
pub(crate) mod outcomes;
pub(crate) mod sabotage;
mod survive;
mod unplug;

use core::fmt::Write;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{clock, console, cpu, guard, power};
use crate::arm::Armed;
use crate::command_line::{Options, Scenario, options};
use crate::end::{EXIT_COMPLETE, give_up};
use crate::log::{Text, log};
use crate::scenario::bench::Transfer;
use crate::scenario::sabotage::SABOTAGE;
use crate::{memory, watchdog, witness};

/// The order for each waiting CPU, see [`Order`].
static ORDERS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(Order::Wait as u8) }; MAX_CPUS];

/// Orders for a CPU that waits in `witness_inner`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Wait = 0,
    Panic = 1,
    Fault = 2,
    Overflow = 3,
    Snapshot = 4,
    Oops = 5,
}

/// At which page read a helper is disturbed, unless `helpers.die=` says otherwise.
const HELPER_PAGE: u32 = 10;
/// How late a helper is in `scenario=late-helper`, in ms, unless `helpers.stall=` says otherwise.
const HELPER_LATE: u64 = 3000;
/// The watchdog's timeout in ms in `scenario=watchdog`, unless `watchdog=` says otherwise.
const WATCHDOG: u32 = 2000;

/// Runs everything that comes before the crash, on the boot CPU. Benchmarks without a crash end here.
pub(crate) fn prepare(options: &Options, armed: Armed) {
    options.keep();
    if let Err(why) = prepare_scenario(options, armed) {
        give_up(format_args!("scenario {}: {why}", options.scenario.name()));
    }
}

fn prepare_scenario(options: &Options, armed: Armed) -> Result<(), &'static str> {
    let filled = fill::fill(options)?;
    let watchdog = options.watchdog_ms.or((options.scenario == Scenario::Watchdog).then_some(WATCHDOG));
    watchdog.map_or(Ok(()), watchdog::start)?;
    let late = options.helper_stalls_ms.or((options.scenario == Scenario::LateHelper).then_some(HELPER_LATE));
    if let Some(late) = late {
        SABOTAGE.set_helper(HELPER_PAGE, Some(late.max(1) * 1_000_000));
    } else if options.scenario == Scenario::DeadHelper || options.helper_dies.is_some() {
        SABOTAGE.set_helper(options.helper_dies.unwrap_or(HELPER_PAGE), None);
    }
    match options.scenario {
        Scenario::Panic
        | Scenario::Fault
        | Scenario::Overflow
        | Scenario::DoublePanic
        | Scenario::NestedBeforeWrite
        | Scenario::NestedAfterWrite
        | Scenario::Snapshot
        | Scenario::Oops
        | Scenario::Nmi
        | Scenario::Watchdog
        | Scenario::TwoCrashes
        | Scenario::BadMemory
        | Scenario::DeadHelper
        | Scenario::LateHelper
        | Scenario::HaltOnly => Ok(()),
        Scenario::CorruptCode => harm::code(),
        Scenario::CorruptState => harm::state(&armed, options.state_offset),
        Scenario::DeviceGone => unplug::wait(&armed),
        Scenario::Unplug => unplug::slot(&armed).map(|slot| SABOTAGE.set_unplug(slot)),
        Scenario::SharedLive => live::start(&armed, options),
        Scenario::Interrupt => interrupt::run().map(|()| power::exit(EXIT_COMPLETE)),
        Scenario::Footprint => {
            footprint::enable();
            Ok(())
        }
        Scenario::BenchPlain => bench::transfer(armed, options, Transfer::Write).map(|()| power::exit(0)),
        Scenario::BenchReads => bench::transfer(armed, options, Transfer::Read).map(|()| power::exit(0)),
        Scenario::BenchVerify => bench::transfer(armed, options, Transfer::Verify).map(|()| power::exit(0)),
        Scenario::BenchDump => {
            bench::enable(options.fill_mib << 20);
            Ok(())
        }
        Scenario::BenchChecksum => bench::checksums(options.bench_bytes).map(|()| power::exit(0)),
        Scenario::BenchLz4 => bench::lz4(&filled).map(|()| power::exit(0)),
        Scenario::BenchPack => bench::pack(&filled).map(|()| power::exit(0)),
    }
}

/// Where each CPU waits, in `witness_inner`, until it is ordered to crash. The boot CPU gives the order when
/// all are there.
#[inline(never)]
pub(crate) fn wait_and_crash(own: usize) -> ! {
    core::hint::black_box(&own);
    if own == 0 {
        give_orders();
    }
    loop {
        match ORDERS[own].load(Ordering::Acquire) {
            order if order == Order::Panic as u8 => crash_by_panic(own as u32),
            order if order == Order::Fault as u8 => crash_by_fault(own as u32, core::ptr::null_mut()),
            order if order == Order::Overflow as u8 => {
                crash_by_overflow(own as u64);
            }
            order if order == Order::Snapshot as u8 => survive::snapshots(options()),
            order if order == Order::Oops as u8 => survive::oopses(options()),
            // The normal driver continues on the boot CPU, which takes its interrupts.
            _ if own == 0 && options().scenario == Scenario::SharedLive => live::keep_going(),
            _ => survive::work(own),
        }
    }
}

fn give_orders() {
    let options = options();
    while witness::standing() < cpu::count() {
        core::hint::spin_loop();
    }
    // After counting themselves, the others need a few more instructions to reach their loop.
    clock::pause(1_000_000);
    if options.scenario == Scenario::HaltOnly {
        console::write("testkernel: halted\n");
        cpu::halt();
    }
    log!("testkernel: crashing scenario={} cpu={}", options.scenario.name(), options.cpu);
    tell_classes();
    if let Some(number) = options.asleep {
        harm::send_to_sleep(number).unwrap_or_else(|why| give_up(format_args!("asleep={number}: {why}")));
    }
    match options.scenario {
        Scenario::NestedBeforeWrite => harm::before_write(),
        Scenario::NestedAfterWrite => harm::after_write(options.nested_page),
        Scenario::SharedLive => {
            if let Err(why) = live::warm_up(options) {
                give_up(format_args!("scenario shared-live: {why}"));
            }
        }
        _ => {}
    }
    let waited = match options.scenario {
        Scenario::Nmi => survive::wait_for_button(options),
        Scenario::Watchdog => survive::starve_watchdog(options),
        _ => Ok(()),
    };
    if let Err(why) = waited {
        give_up(format_args!("scenario {}: {why}", options.scenario.name()));
    }
    if options.live_locked {
        // The driver panics.
        return;
    }
    let order = match options.scenario {
        Scenario::Snapshot => Order::Snapshot,
        Scenario::Oops => Order::Oops,
        Scenario::Fault => Order::Fault,
        Scenario::Overflow => Order::Overflow,
        _ => Order::Panic,
    };
    if options.scenario == Scenario::DoublePanic {
        ORDERS[(options.cpu + 1) % cpu::count()].store(order as u8, Ordering::Release);
    }
    ORDERS[options.cpu].store(order as u8, Ordering::Release);
}

/// Prints the classes of memory, which do not change from here on.
fn tell_classes() {
    let mut line = Text::<256>::new();
    for (name, pages) in memory::classes() {
        // Cannot fail: Text accepts what fits.
        let _ = write!(line, " {name}={pages}");
    }
    log!("testkernel: classes{}", line.as_str());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn crash_by_panic(cpu: u32) -> ! {
    core::hint::black_box(&cpu);
    panic!("CPU {cpu} panics, as the command line asks");
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn crash_by_fault(cpu: u32, address: *mut u64) -> ! {
    core::hint::black_box((&cpu, &address));
    // SAFETY: none; that is the point. Nothing is mapped at 0, so the CPU faults right here.
    unsafe { guard::store!(address, u64::from(cpu)) };
    panic!("a write through a null pointer did not fault");
}

/// Recurses until the stack overflows: the fault that follows has no stack either, so this becomes a double
/// fault.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(unconditional_recursion, reason = "it is meant to end in a fault")]
extern "C" fn crash_by_overflow(depth: u64) -> u64 {
    core::hint::black_box(crash_by_overflow(core::hint::black_box(depth + 1))) + depth
}

//! The scenarios: what happens before the crash, and how it comes.
//!
//! | file | which |
//! | --- | --- |
//! | `harm.rs` | corrupt-code, corrupt-state, nested-… |
//! | `unplug.rs` | device-gone |
//! | `live.rs` | shared-live |
//! | `footprint.rs` | footprint |
//! | `bench.rs` | bench-plain, bench-dump, bench-checksum |

pub(crate) mod bench;
pub(crate) mod footprint;
mod harm;
mod live;
mod unplug;

use core::sync::atomic::{AtomicU8, Ordering};

use dumpcore::ResetPolicy;

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{clock, cpu, power, serial};
use crate::arm::Armed;
use crate::command_line::{Options, Scenario};
use crate::log::log;
use crate::panic::give_up;
use crate::{memory, witness};

/// The options, for the CPUs that wait.
static OPTIONS: spin::Once<Options> = spin::Once::new();

/// What a waiting CPU is told, see [`Order`].
static ORDERS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(Order::Wait as u8) }; MAX_CPUS];

/// What a CPU that stands in `witness_inner` is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Wait = 0,
    Panic = 1,
    Fault = 2,
    Overflow = 3,
}

/// What is to happen when the crash is over.
pub(crate) fn reset_policy() -> ResetPolicy {
    OPTIONS.get().map_or(ResetPolicy::Return, |options| options.reset)
}

/// Does what comes before the crash, on the boot CPU. Benches without a crash end here.
pub(crate) fn prepare(options: &Options, armed: Armed) {
    OPTIONS.call_once(|| options.clone());
    if options.fill_mib > 0 {
        // SAFETY: take_many gives frames that are ours.
        let frames = memory::take_many(options.fill_mib << 8, |frame| unsafe { witness::fill_page(frame) });
        if frames < options.fill_mib << 8 {
            give_up(format_args!(
                "fill={}: there are only {} MiB of free RAM",
                options.fill_mib,
                frames >> 8
            ));
        }
        log!("testkernel: filled {} MiB", options.fill_mib);
    }
    let result = match options.scenario {
        Scenario::Panic
        | Scenario::Fault
        | Scenario::Overflow
        | Scenario::DoublePanic
        | Scenario::NestedBeforeWrite
        | Scenario::NestedAfterWrite
        | Scenario::HaltOnly => Ok(()),
        Scenario::CorruptCode => harm::code(),
        Scenario::CorruptState => harm::state(&armed, options.state_offset),
        Scenario::DeviceGone => unplug::wait(&armed),
        Scenario::SharedLive => live::start(&armed, options),
        Scenario::Footprint => {
            footprint::enable();
            Ok(())
        }
        Scenario::BenchPlain => bench::plain(armed, options).map(|()| power::exit(0)),
        Scenario::BenchDump => {
            bench::enable(options.fill_mib << 20);
            Ok(())
        }
        Scenario::BenchChecksum => bench::checksums(options.bench_bytes).map(|()| power::exit(0)),
    };
    if let Err(why) = result {
        give_up(format_args!("scenario {}: {why}", options.scenario.name()));
    }
}

/// Where each CPU waits, in `witness_inner`, until it is told to crash. The boot CPU tells, when all are there.
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
            _ => core::hint::spin_loop(),
        }
    }
}

fn give_orders() {
    let Some(options) = OPTIONS.get() else { return };
    while witness::standing() < cpu::count() {
        core::hint::spin_loop();
    }
    // The others need a few more instructions from counting themselves to their loop.
    clock::pause(1_000_000);
    if options.scenario == Scenario::HaltOnly {
        serial::write("testkernel: halted\n");
        cpu::halt();
    }
    log!("testkernel: crashing scenario={} cpu={}", options.scenario.name(), options.cpu);
    match options.scenario {
        Scenario::NestedBeforeWrite => harm::before_write(),
        Scenario::NestedAfterWrite => harm::after_write(options.nested_page),
        Scenario::SharedLive => {
            if let Err(why) = live::fly(options) {
                give_up(format_args!("scenario shared-live: {why}"));
            }
        }
        _ => {}
    }
    let order = match options.scenario {
        Scenario::Fault => Order::Fault,
        Scenario::Overflow => Order::Overflow,
        _ => Order::Panic,
    };
    if options.scenario == Scenario::DoublePanic {
        ORDERS[(options.cpu + 1) % cpu::count()].store(order as u8, Ordering::Release);
    }
    ORDERS[options.cpu].store(order as u8, Ordering::Release);
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
    unsafe { core::arch::asm!("mov [{}], {}", in(reg) address, in(reg) u64::from(cpu)) };
    panic!("a write through a null pointer did not fault");
}

/// Calls itself until the stack is used up: the fault that follows finds no stack either, so this is a double fault.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(unconditional_recursion, reason = "it is meant to end in a fault")]
extern "C" fn crash_by_overflow(depth: u64) -> u64 {
    core::hint::black_box(crash_by_overflow(core::hint::black_box(depth + 1))) + depth
}

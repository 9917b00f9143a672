//! Starting the other CPUs, through the firmware; and interrupts between CPUs.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::cpu::MAX_CPUS;
use super::{cache, clock, cpu, gic, interrupts, paging, psci, stack};
use crate::memory::linker_symbol;

/// How long a CPU may take to come up.
const PATIENCE: u64 = 2_000_000_000;

/// Number of the CPU that came up last.
static UP: AtomicUsize = AtomicUsize::new(0);

/// The values that boot.s reads on a new CPU: its stacks, its number, and its entry point.
#[repr(C, align(64))]
struct Words(UnsafeCell<[u64; 4]>);
// SAFETY: only the boot CPU writes it, before the CPU that reads it runs.
unsafe impl Sync for Words {}
static WORDS: [Words; MAX_CPUS] = [const { Words(UnsafeCell::new([0; 4])) }; MAX_CPUS];

/// The function that each CPU runs once it is up.
struct Entry(UnsafeCell<fn(usize) -> !>);
// SAFETY: only the boot CPU writes it, before any other CPU runs.
unsafe impl Sync for Entry {}
static ENTRY: Entry = Entry(UnsafeCell::new(|_| cpu::halt()));

/// Starts the CPUs 1 to `count - 1`, one after another; each calls `entry` with its number.
///
/// # Safety
/// Once, on the boot CPU.
pub(super) unsafe fn start_others(count: usize, entry: fn(usize) -> !) {
    // SAFETY: no other CPU runs yet.
    unsafe { *ENTRY.0.get() = entry };
    let start = paging::physical(linker_symbol!(start_other) as *const u8);
    // A CPU starts with its caches off and reads these from memory.
    cache::clean(linker_symbol!(boot_l0) as *const u8, 3 * 4096);
    let mut running = 1;
    for (number, words) in WORDS.iter().enumerate().take(count).skip(1) {
        let values = [
            stack::top(number),
            stack::exception_top(number),
            number as u64,
            first_steps as *const () as u64,
        ];
        // SAFETY: the CPU that reads them is not started yet.
        unsafe { words.0.get().write_volatile(values) };
        cache::clean(words.0.get().cast(), size_of::<Words>());
        let deadline = clock::now() + PATIENCE;
        let started = psci::start(cpu::affinity(number), start, words.0.get() as u64);
        while started && UP.load(Ordering::Acquire) != number && clock::now() < deadline {
            core::hint::spin_loop();
        }
        if UP.load(Ordering::Acquire) != number {
            crate::log::log!("testkernel: CPU {number} does not start");
            break;
        }
        running += 1;
    }
    cpu::set_count(running);
}

/// Makes a CPU check at once whether it is to stop, whatever it is doing.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn ask_to_stop(cpu: usize) {
    gic::send(cpu::affinity(cpu), gic::STOP);
}

/// Ends a CPU's rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wake(cpu: usize) {
    gic::send(cpu::affinity(cpu), gic::WAKE);
}

/// Entry of a CPU from boot.s, on the boot tables.
extern "C" fn first_steps(number: usize) -> ! {
    // SAFETY: once on this CPU; the final tables map its code and its stacks.
    unsafe {
        paging::adopt();
        interrupts::load(number);
    }
    if gic::enable().is_err() {
        // It could neither be stopped nor woken; the boot CPU continues without it.
        cpu::halt();
    }
    // SAFETY: ENTRY was written before this CPU was started.
    let entry = unsafe { *ENTRY.0.get() };
    UP.store(number, Ordering::Release);
    entry(number)
}

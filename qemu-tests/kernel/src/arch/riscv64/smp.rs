//! Starting the other CPUs, through the firmware (SBI 1.0, chapter 9: hart state management).

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::cpu::MAX_CPUS;
use super::{clock, cpu, interrupts, paging, sbi};
use crate::memory::linker_symbol;

/// How long a CPU may take to come up, in nanoseconds.
const PATIENCE: u64 = 2_000_000_000;

/// Number of the CPU that came up last.
static UP: AtomicUsize = AtomicUsize::new(0);

/// The function that each CPU runs once it is up.
struct Entry(UnsafeCell<fn(usize) -> !>);
// SAFETY: only the boot CPU writes it, before any other CPU runs.
unsafe impl Sync for Entry {}
static ENTRY: Entry = Entry(UnsafeCell::new(|_| cpu::halt()));

unsafe extern "C" {
    /// In boot.s.
    #[link_name = "other_satp"]
    static OTHER_SATP: AtomicU64;
    /// In boot.s.
    #[link_name = "other_number"]
    static OTHER_NUMBER: AtomicU64;
}

/// Starts the CPUs 1 to `count - 1`, one after another; each calls `entry` with its number. Returns how many
/// CPUs run now, including this one.
///
/// # Safety
/// Once, on the boot CPU, with the final page tables.
pub(super) unsafe fn start_others(count: usize, entry: fn(usize) -> !) -> usize {
    // SAFETY: no other CPU runs yet.
    unsafe { *ENTRY.0.get() = entry };
    // SAFETY: an aligned word in boot.s.
    unsafe { OTHER_SATP.store(paging::satp(), Ordering::Release) };
    let start = paging::physical(linker_symbol!(other_start) as *const u8);
    let mut running = 1;
    for number in 1..count.min(MAX_CPUS) {
        // SAFETY: as above. The previous CPU has read it.
        unsafe { OTHER_NUMBER.store(number as u64, Ordering::Release) };
        if let Err(error) = sbi::start_hart(cpu::hart(number), start) {
            crate::log::log!("testkernel: CPU {number} does not start: SBI error {}", error as i64);
            break;
        }
        let deadline = clock::now() + PATIENCE;
        while UP.load(Ordering::Acquire) != number && clock::now() < deadline {
            core::hint::spin_loop();
        }
        if UP.load(Ordering::Acquire) != number {
            crate::log::log!("testkernel: CPU {number} does not start");
            break;
        }
        running += 1;
    }
    cpu::set_count(running);
    running
}

/// Makes a CPU check at once whether it is to stop, if it has interrupts enabled.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn ask_to_stop(cpu: usize) {
    sbi::send_ipi(cpu::hart(cpu));
}

/// Ends a CPU's rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wake(cpu: usize) {
    sbi::send_ipi(cpu::hart(cpu));
}

/// Entry of a CPU from boot.s, with its own stack and sscratch.
#[unsafe(no_mangle)]
extern "C" fn other_first_steps(number: usize) -> ! {
    // SAFETY: on this CPU, whose sscratch boot.s has set.
    unsafe { interrupts::load(number) };
    // SAFETY: ENTRY was written before this CPU was started.
    let entry = unsafe { *ENTRY.0.get() };
    UP.store(number, Ordering::Release);
    cpu::enable_interrupts();
    entry(number)
}

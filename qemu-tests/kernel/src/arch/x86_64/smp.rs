//! Starting the other CPUs: INIT, startup IPI, startup IPI (Intel SDM vol. 3, 9.4).

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::apic::{self, Ipi};
use super::cpu::MAX_CPUS;
use super::{clock, cpu, interrupts, paging, stack, tables};
use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("trampoline.s"), options(att_syntax));

/// Physical address of the trampoline, as in trampoline.s.
const TRAMPOLINE: u64 = 0x8000;
/// How long a CPU may take to come up.
const PATIENCE: u64 = 2_000_000_000;

/// Number of the CPU that came up last.
static UP: AtomicUsize = AtomicUsize::new(0);

/// The function that each CPU runs once it is up.
struct Entry(UnsafeCell<fn(usize) -> !>);
// SAFETY: only the boot CPU writes it, before any other CPU runs.
unsafe impl Sync for Entry {}
static ENTRY: Entry = Entry(UnsafeCell::new(|_| cpu::halt()));

/// Starts the CPUs 1 to `count - 1`, one after another; each calls `entry` with its number. Returns how many
/// CPUs run now, including this one.
///
/// # Safety
/// Once, on the boot CPU, with the first MiB mapped at address 0.
pub(crate) unsafe fn start_others(count: usize, entry: fn(usize) -> !) -> usize {
    let start = linker_symbol!(trampoline_start);
    let length = (linker_symbol!(trampoline_end) - start) as usize;
    let words = (linker_symbol!(trampoline_words) - start) as usize;
    let page = paging::direct(TRAMPOLINE);
    // SAFETY: no other CPU runs yet. The page is RAM below 1 MiB, which the kernel reserves for this.
    unsafe {
        *ENTRY.0.get() = entry;
        page.copy_from_nonoverlapping(start as *const u8, length);
    }
    let mut running = 1;
    for number in 1..count.min(MAX_CPUS) {
        let values = [paging::root(), stack::top(number), number as u64, first_steps as *const () as u64];
        // SAFETY: these are the trampoline's four words; the previous CPU has left it.
        unsafe { page.add(words).cast::<[u64; 4]>().write_volatile(values) };
        let id = cpu::apic_id(number);
        apic::send(id, Ipi::Init);
        clock::pause(10_000_000);
        let deadline = clock::now() + PATIENCE;
        for _ in 0..2 {
            apic::send(id, Ipi::Startup((TRAMPOLINE >> 12) as u8));
            clock::pause(200_000);
        }
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

/// Makes a CPU check at once whether it is to stop, whatever it is doing.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn ask_to_stop(cpu: usize) {
    apic::send(cpu::apic_id(cpu), Ipi::Nmi);
}

/// Ends a CPU's rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wake(cpu: usize) {
    apic::send(cpu::apic_id(cpu), Ipi::Wake);
}

/// Entry of a CPU from the trampoline.
extern "C" fn first_steps(number: usize) -> ! {
    // SAFETY: once on this CPU, with its own number.
    unsafe { tables::load(number) };
    interrupts::enable_machine_checks();
    apic::enable();
    // SAFETY: ENTRY was written before this CPU was started.
    let entry = unsafe { *ENTRY.0.get() };
    UP.store(number, Ordering::Release);
    entry(number)
}

//! Stops the other CPUs for a dump, and resumes them afterwards.
//!
//! Each request to stop has a number. A CPU that obeys it records its registers, switches to a stack in the
//! dump's arena, reports that it has stopped, and from there on only changes memory in the arena, because its
//! own stack is dumped too. There it helps with the dump. After the dump of a live kernel it continues where
//! it was; otherwise it stays stopped.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use dumpcore::Registers;

use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::{idle, smp, stack};
use crate::dump::{self, DUMP};

/// Size of a stopped CPU's stack in the arena, in bytes. When it helps, dumpcore switches to a larger one.
pub(crate) const STACK: usize = 2048;

/// In [`Slot::obeyed`]: this CPU never continues.
const FOR_GOOD: u32 = 1 << 31;

/// One CPU.
struct Slot {
    /// Number of the request that it is to obey.
    asked: AtomicU32,
    /// Number of the last request that it obeyed, possibly with [`FOR_GOOD`]. 0 if none.
    obeyed: AtomicU32,
    /// The registers that it recorded then.
    registers: UnsafeCell<Registers>,
    /// End of its stack in the arena; null without an arena.
    stack: AtomicPtr<u8>,
}

// SAFETY: only its own CPU writes `registers`, before the store to `obeyed`. The CPU that stopped it reads
// them after that, until it lets the CPU continue.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        asked: AtomicU32::new(0),
        obeyed: AtomicU32::new(0),
        registers: UnsafeCell::new(Registers::ZERO),
        stack: AtomicPtr::new(core::ptr::null_mut()),
    }
}; MAX_CPUS];

/// Number of the last request to stop.
static FREEZES: AtomicU32 = AtomicU32::new(0);
/// Number of the last request that is over.
static RESUMED: AtomicU32 = AtomicU32::new(0);

/// Sets a CPU's stack for being stopped.
pub(crate) fn lend_stack(cpu: usize, stack: &'static mut [u8]) {
    if let Some(slot) = SLOTS.get(cpu) {
        slot.stack.store(stack.as_mut_ptr_range().end, Ordering::Release);
    }
}

/// Tells all other CPUs to stop. The dump shows those that do not: they have no registers.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn stop_others() {
    let number = FREEZES.load(Ordering::Relaxed).wrapping_add(1);
    FREEZES.store(number, Ordering::Relaxed);
    for cpu in others().filter(|cpu| registers(*cpu).is_none()) {
        if let Some(slot) = SLOTS.get(cpu) {
            slot.asked.store(number, Ordering::Release);
            smp::ask_to_stop(cpu);
        }
    }
}

/// Whether all of them have stopped.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn all_stopped() -> bool {
    others().all(|cpu| registers(cpu).is_some())
}

/// All other CPUs.
#[unsafe(link_section = ".dump_path.text")]
fn others() -> impl Iterator<Item = usize> {
    let own = cpu::number();
    (0..cpu::count()).filter(move |cpu| *cpu != own)
}

/// Resumes all CPUs that did not stop for good.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn resume() {
    let number = FREEZES.load(Ordering::Relaxed);
    RESUMED.store(number, Ordering::Release);
    for (cpu, slot) in SLOTS.iter().enumerate() {
        if slot.obeyed.load(Ordering::Relaxed) == number {
            smp::wake(cpu);
        }
    }
}

/// The registers that a CPU recorded when it was stopped; `None` if it is not stopped.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn registers(cpu: usize) -> Option<Registers> {
    let slot = SLOTS.get(cpu)?;
    let obeyed = slot.obeyed.load(Ordering::Acquire);
    let stopped = obeyed != 0 && (obeyed & FOR_GOOD != 0 || obeyed == FREEZES.load(Ordering::Relaxed));
    // SAFETY: recorded before the store to `obeyed`, and not changed before the next request.
    stopped.then(|| unsafe { *slot.registers.get() })
}

/// Whether a CPU has a request to obey.
#[unsafe(link_section = ".dump_path.text")]
#[unsafe(export_name = "kernel_is_asked_to_stop")]
pub(crate) fn is_asked(cpu: usize) -> bool {
    let Some(slot) = SLOTS.get(cpu) else { return false };
    let obeyed = slot.obeyed.load(Ordering::Relaxed);
    obeyed & FOR_GOOD == 0 && slot.asked.load(Ordering::Acquire) != obeyed
}

/// The data that a stopped CPU takes to its stack in the arena.
struct Stand {
    slot: &'static Slot,
    number: u32,
    resumes: bool,
}

/// Stops this CPU, in the handler of the interrupt that requested it. Returns after the dump of a live
/// kernel.
#[unsafe(link_section = ".dump_path.text")]
#[unsafe(export_name = "kernel_stop")]
pub(crate) fn stop(registers: &Registers) {
    let Some(slot) = SLOTS.get(cpu::number()) else { cpu::halt() };
    let number = slot.asked.load(Ordering::Acquire);
    // SAFETY: `obeyed` is not `number` yet, so no one reads them; only this CPU writes them.
    unsafe { *slot.registers.get() = *registers };
    // Read now, while the dump is certainly waiting for us, not later, when it may be over.
    let mut stand = Stand { slot, number, resumes: DUMP.resumes() };
    let top = slot.stack.load(Ordering::Acquire);
    if top.is_null() {
        // Nothing was armed, so no request is possible.
        cpu::halt();
    }
    // SAFETY: the stack was lent to this CPU for this purpose, and it is not stopped twice at once.
    unsafe { stack::call_on(top, stand_by, (&raw mut stand).cast()) }
}

/// Runs on the stack in the arena. From the first store on, the dumped memory stays unchanged.
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn stand_by(stand: *mut u8) {
    // SAFETY: stop() passes its own `stand` and waits.
    let stand = unsafe { &*stand.cast::<Stand>() };
    let word = if stand.resumes { stand.number } else { stand.number | FOR_GOOD };
    stand.slot.obeyed.store(word, Ordering::Release);
    DUMP.help(dump::platform());
    if !stand.resumes {
        cpu::halt();
    }
    // Bounded by the dump: its budget ends it, and then it resumes or resets us.
    while RESUMED.load(Ordering::Acquire) < stand.number {
        // Not at full speed: a spinning virtual CPU takes host time from the one that dumps.
        idle::rest();
    }
}

//! A CPU stopped by an NMI, which works even with interrupts off. It records its registers and switches to a
//! stack in the arena, where it helps with the dump, if it may, and stays.
//!
//! It stays online, as on the way to kdump, because debuggers assign registers to online CPUs.

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use dump_linux::apic::Nmi;

use crate::cpus::{self, Slot};
use crate::side::{self, Side};
use crate::{guard, kernel, stop};

/// For C: the kernel panics and stops its CPUs.
#[unsafe(no_mangle)]
extern "C" fn dd_freeze() {
    let Some(side) = side::begin() else { return stop::over() };
    if let Some(lent) = side.linux.lent() {
        stop::stop_and_wait(lent, &side.linux);
    }
}

/// For C: the kernel has stopped the other CPUs itself.
#[unsafe(no_mangle)]
extern "C" fn dd_crash_stopped() {
    stop::BY_KERNEL.store(true, Ordering::Release);
}

/// The data that a stopped CPU takes to its stack in the arena.
struct Stand {
    side: &'static Side,
    slot: &'static Slot,
    helps: bool,
    /// The stack for standing guard, if this CPU can.
    guard: Option<*mut u8>,
}

/// For C: handles an NMI with the registers that it interrupted. Returns false if it is not ours.
#[unsafe(no_mangle)]
extern "C" fn dd_nmi(regs: *const c_void) -> bool {
    match Nmi::on(kernel::cpu(), stop::dumping(), stop::is_freezing()) {
        Nmi::Others => return false,
        Nmi::Ignored => return true,
        Nmi::Stop => {}
    }
    let Some((side, lent)) = side::pinned().and_then(|side| Some((side, side.linux.lent()?))) else {
        return false;
    };
    let place = cpus::place(lent.cpus, kernel::cpu());
    // One of too many CPUs, or one that has just come online: it has no slot.
    let Some(slot) = lent.cpus.get(place) else {
        stop::STOPPED_WITHOUT_SLOT.fetch_add(1, Ordering::AcqRel);
        kernel::halt()
    };
    if slot.stopped.load(Ordering::Acquire) {
        kernel::halt();
    }
    lent.look_for_broken_memory();
    // SAFETY: C passes the registers that the NMI interrupted; `stopped` is not set, so no one reads yet.
    unsafe { *slot.registers.get() = cpus::complete(regs) };
    let guard = (place < guard::GUARDS).then_some(lent.guard_stack);
    let mut stand = Stand { side, slot, helps: place <= lent.helpers, guard };
    let top = slot.stack.load(Ordering::Acquire);
    // SAFETY: the stack belongs to this CPU, which is not stopped twice.
    unsafe { kernel::call_on(top, stand_by, (&raw mut stand).cast()) };
    true
}

/// Runs on the stack in the arena: from the first store on, the dumped memory stays unchanged.
extern "C" fn stand_by(stand: *mut c_void) {
    // SAFETY: dd_nmi() passes its own `stand` and waits.
    let stand = unsafe { &*stand.cast::<Stand>() };
    stand.slot.stopped.store(true, Ordering::Release);
    // This wait has no deadline: a stopped CPU has nothing else to do until the dump is over.
    while (stand.helps || stand.guard.is_some()) && stop::is_freezing() {
        if stand.helps {
            stand.side.dump.help(&stand.side.linux);
        }
        stop::rest(&stand.side.linux, 20_000);
    }
    if let Some(stack) = stand.guard {
        guard::stand(&stand.side.linux, stack);
    }
    kernel::halt();
}

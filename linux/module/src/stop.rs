//! The other CPUs: stopped by an NMI, so that not even one with interrupts off goes on. Each records its registers and
//! leaves for a stack in the arena; there it helps with the dump, if it may, and stays.
//!
//! They stay online, as on the way to kdump: debuggers give registers to the CPUs that are.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use dump_linux::apic::{self, Cpu, Nmi};
use dump_linux::mce::Broken;
use dump_linux::notes::{self, NOTE_BYTES, PT_REGS, WHOLE_NOTE};
use dumpcore::arena::OutOfArena;
use dumpcore::platform::{Nanoseconds, Registers};
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{Arena, Platform};

use crate::apic::{OwnApic, OwnBanks, model_register};
use crate::kernel;
use crate::lent::Lent;
use crate::linux::Linux;
use crate::side::{self, Side};

/// CPUs that are dumped with their registers, at most.
pub(crate) const MAX_CPUS: usize = 256;

/// Bytes of a stopped CPU's stack. Below it, help gives it a larger one.
const STACK: usize = 2048;

/// How long the other CPUs may take to stop, all together.
const PATIENCE: Nanoseconds = SECOND;

/// How long whoever else hears of the panic after a dump may take, all together. A management controller is slow: some records of
/// IPMI's take a second each.
const HEARING: Nanoseconds = 30 * SECOND;

/// How long a guard may take to come forward.
const GUARD_COMES: Nanoseconds = SECOND / 10;

/// How often a guard looks at the clock, and how often at most: longer than [`HEARING`] only if the clock stands still.
const GUARD_LOOKS: Nanoseconds = SECOND / 100;
const MOST_LOOKS: u32 = 10_000;

/// CPUs that can stand guard: the first ones, of which one may be the CPU that dumps, and one may not stop.
const GUARDS: usize = 3;

/// Bytes of the guard's stack: resetting the machine is the kernel's, by way of firmware.
const GUARD_STACK: usize = 16 << 10;

/// One CPU.
pub(crate) struct Slot {
    /// Its number.
    pub(crate) number: u32,
    /// Where the kernel puts its registers on the way to kdump; 0 if nobody said.
    note: u64,
    stopped: AtomicBool,
    registers: UnsafeCell<Registers>,
    stack: AtomicPtr<u8>,
}

// SAFETY: `registers` is written by its own CPU alone, in front of the store to `stopped`, and read behind it.
unsafe impl Sync for Slot {}

/// The CPUs that are online when this is armed.
pub(crate) struct Cpus {
    /// Those that are dumped with their registers.
    pub(crate) slots: &'static [Slot],
    /// How many more there are.
    pub(crate) more: usize,
    /// All of them, if there are others that were never started.
    pub(crate) started: Option<&'static [Cpu]>,
    /// The end of the stack for the one that stands guard after the dump.
    pub(crate) guard_stack: *mut u8,
}

impl Slot {
    /// Whether it is known where the kernel puts its registers.
    pub(crate) fn has_note(&self) -> bool {
        self.note != 0
    }

    /// What this CPU recorded when it was stopped; `None` if it did not.
    fn recorded(&self) -> Option<Registers> {
        // SAFETY: recorded in front of the store to `stopped`, and not changed any more.
        self.stopped.load(Ordering::Acquire).then(|| unsafe { *self.registers.get() })
    }
}

/// How far a panic has come.
mod phase {
    pub(super) const HEALTHY: u32 = 0;
    pub(super) const FREEZING: u32 = 1;
    pub(super) const OVER: u32 = 2;
}

static PHASE: AtomicU32 = AtomicU32::new(phase::HEALTHY);

/// The CPU that stops the others and dumps, until the dump is over; [`NOBODY`] before and after.
static DUMPING: AtomicU32 = AtomicU32::new(NOBODY);

/// What was armed when that began, which stays, whatever is armed in its stead meanwhile.
static PINNED: AtomicPtr<Side> = AtomicPtr::new(core::ptr::null_mut());

/// How many CPUs stopped for which there is no slot.
static STOPPED_WITHOUT_SLOT: AtomicU32 = AtomicU32::new(0);

/// Pages whose memory failed.
pub(crate) static BROKEN: Broken = Broken::new();

/// No CPU has this number.
const NOBODY: u32 = u32::MAX;

/// When the guard resets the machine; [`NEVER`] if nobody is to stand guard.
static RESET_AT: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: Nanoseconds = u64::MAX;

/// A CPU stands guard.
static IS_GUARDED: AtomicBool = AtomicBool::new(false);

/// The kernel stopped the other CPUs itself, on the way to kdump.
static BY_KERNEL: AtomicBool = AtomicBool::new(false);

/// A slot with a stack for each CPU that is online. May sleep.
pub(crate) fn slots(arena: &mut Arena<'static>) -> Result<Cpus, OutOfArena> {
    let numbers = arena.place([0_u32; MAX_CPUS])?;
    let online = kernel::online_cpus(numbers);
    let count = online.min(MAX_CPUS);
    let bytes = count.saturating_mul(size_of::<Slot>());
    let place = arena.bytes(bytes, align_of::<Slot>())?.as_mut_ptr().cast::<Slot>();
    for (at, number) in numbers.iter().take(count).enumerate() {
        let stack = arena.bytes(STACK, 16)?.as_mut_ptr_range().end;
        let slot = Slot {
            number: *number,
            note: kernel::crash_note(*number).unwrap_or(0),
            stopped: AtomicBool::new(false),
            registers: UnsafeCell::new(Registers::ZERO),
            stack: AtomicPtr::new(stack),
        };
        // SAFETY: the bytes are ours, aligned, and enough for `count` slots.
        unsafe { place.add(at).write(slot) };
    }
    // SAFETY: written just now, `count` of them, in memory that lives as long as the dump is armed.
    let slots = unsafe { core::slice::from_raw_parts(place, count) };
    let guard_stack = arena.bytes(GUARD_STACK, 16)?.as_mut_ptr_range().end;
    let started = if kernel::all_cpus_online() { None } else { Some(started(arena, online)?) };
    Ok(Cpus { slots, more: online.saturating_sub(count), started, guard_stack })
}

/// The CPUs that are online, `count` of them, with the numbers of their APICs. May sleep.
fn started(arena: &mut Arena<'static>, count: usize) -> Result<&'static [Cpu], OutOfArena> {
    let place = arena.bytes(count.saturating_mul(size_of::<u32>()), align_of::<u32>())?;
    let bytes = count.saturating_mul(size_of::<Cpu>());
    let cpus = arena.bytes(bytes, align_of::<Cpu>())?.as_mut_ptr().cast::<Cpu>();
    // SAFETY: the bytes are ours, aligned, zero or anything else, and enough for that number of integers.
    let numbers = unsafe { core::slice::from_raw_parts_mut(place.as_mut_ptr().cast::<u32>(), count) };
    let count = kernel::online_cpus(numbers).min(count);
    for (at, number) in numbers.iter().take(count).enumerate() {
        // SAFETY: as above, for that number of CPUs.
        unsafe { cpus.add(at).write(Cpu { number: *number, apic: kernel::apic_of(*number) }) };
    }
    // SAFETY: written just now, `count` of them, in memory that lives as long as the dump is armed.
    Ok(unsafe { core::slice::from_raw_parts(cpus, count) })
}

/// The place of a CPU among those that were online; behind them if it was not.
pub(crate) fn place(lent: &Lent, number: u32) -> usize {
    lent.cpus.iter().position(|slot| slot.number == number).unwrap_or(lent.cpus.len())
}

/// This CPU dumps what is given, if anything is armed. NMIs are no longer for it: one that it took for the request to stop would end the
/// dump for ever.
pub(crate) fn begin() -> Option<&'static Side> {
    let claimed = DUMPING.compare_exchange(NOBODY, kernel::cpu(), Ordering::SeqCst, Ordering::Relaxed);
    if claimed.is_ok() {
        apic::mask_nmis(&OwnApic);
        // Who is about to take it apart looks at DUMPING first.
        let current = side::current().map_or(core::ptr::null(), core::ptr::from_ref);
        PINNED.store(current.cast_mut(), Ordering::Release);
    }
    pinned()
}

/// What the CPU that dumps has found armed.
fn pinned() -> Option<&'static Side> {
    // SAFETY: one of the two, or nowhere.
    unsafe { PINNED.load(Ordering::Acquire).as_ref() }
}

/// Whether a CPU dumps, or is about to: what is armed must stay.
pub(crate) fn has_begun() -> bool {
    DUMPING.load(Ordering::SeqCst) != NOBODY
}

/// Stops all other CPUs, if nobody has yet. One that stays silent has no registers in the dump.
pub(crate) fn freeze(wait: &Wait<'_>) {
    let Some(lent) = begin().and_then(|side| side.linux.lent()) else { return };
    if BY_KERNEL.load(Ordering::Acquire)
        || PHASE
            .compare_exchange(phase::HEALTHY, phase::FREEZING, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        return;
    }
    let own = kernel::cpu();
    apic::send_nmi_to_others(&OwnApic, own, lent.started);
    let stopped = || {
        let mut others = lent.cpus.iter().filter(|slot| slot.number != own);
        let all = others.all(|slot| slot.stopped.load(Ordering::Acquire));
        // Of those without a slot only the number is known, and this one may be among them.
        let more = lent.more_cpus.saturating_sub(usize::from(place(lent, own) >= lent.cpus.len()));
        (all && STOPPED_WITHOUT_SLOT.load(Ordering::Acquire) as usize >= more).then_some(())
    };
    let _ = wait.until("stopping the other CPUs", PATIENCE, stopped);
}

/// The dump is over, or there is none: nobody has to help any more.
pub(crate) fn over() {
    PHASE.store(phase::OVER, Ordering::Release);
    DUMPING.store(NOBODY, Ordering::Release);
}

/// The dump is over, and others are to hear of the panic: looks for a stopped CPU that resets the machine when that takes too long. False
/// if there is none.
pub(crate) fn take_guard(wait: &Wait<'_>) -> bool {
    RESET_AT.store(wait.now().saturating_add(HEARING), Ordering::Release);
    over();
    let comes = || IS_GUARDED.load(Ordering::Acquire).then_some(());
    wait.until("a CPU that stands guard", GUARD_COMES, comes).is_ok()
}

/// Stands guard, if this CPU is the first that can, and somebody has to.
fn stand_guard(linux: &Linux, stack: *mut u8) {
    extern "C" fn reset(_: *mut c_void) {
        kernel::restart();
    }
    let end = RESET_AT.load(Ordering::Acquire);
    if end == NEVER || IS_GUARDED.swap(true, Ordering::AcqRel) {
        return;
    }
    for _ in 0..MOST_LOOKS {
        if linux.now() >= end {
            break;
        }
        rest(linux, GUARD_LOOKS);
    }
    // SAFETY: the stack in the arena is for the one that stands guard, which is this CPU alone.
    unsafe { kernel::call_on(stack, reset, core::ptr::null_mut()) };
}

/// The registers of the CPU at this place, `None` if they are not known.
pub(crate) fn registers(lent: &Lent, place: usize) -> Option<Registers> {
    let slot = lent.cpus.get(place)?;
    if let Some(recorded) = slot.recorded() {
        return Some(recorded);
    }
    if !BY_KERNEL.load(Ordering::Acquire) || slot.note == 0 {
        return None;
    }
    let mut note = [0; NOTE_BYTES];
    let general = kernel::copy(lent.direct_map.checked_add(slot.note)?, &mut note)
        .then(|| notes::of_crash_note(&note))??;
    Some(Registers { general, ..Registers::ZERO })
}

/// Writes registers where the kernel would on its way to kdump, for debuggers that look there (drgn). It is the one place outside
/// of the arena that a dump changes. `crashed` are those of this CPU.
///
/// # Safety
/// All other CPUs are stopped.
pub(crate) unsafe fn fill_notes(lent: &Lent, crashed: &Registers) {
    let own = kernel::cpu();
    for slot in lent.cpus.iter().filter(|slot| slot.note != 0) {
        // Of those that the kernel stopped, it has written them itself.
        let known = if slot.number == own { Some(*crashed) } else { slot.recorded() };
        let Some((known, address)) = known.zip(lent.direct_map.checked_add(slot.note)) else { continue };
        let mut note = [0; WHOLE_NOTE];
        // Only where there is memory.
        if !kernel::copy(address, &mut note) {
            continue;
        }
        notes::to_crash_note(&known.general, &mut note);
        let words = address as *mut [u8; WHOLE_NOTE];
        // SAFETY: the one who armed named it as this CPU's note, which is as large; it was in RAM then, and is readable now.
        unsafe { words.write_volatile(note) };
    }
}

/// Remembers which memory failed, by what this CPU knows. A machine check is another CPU's own at times, or all of them tell of it.
pub(crate) fn look_for_broken_memory(lent: &Lent) {
    if lent.has_banks {
        BROKEN.look(&OwnBanks);
    }
}

/// All registers of this CPU, the general ones being those at `regs` (`struct pt_regs`).
///
/// # Safety
/// `regs` is one.
pub(crate) unsafe fn complete(regs: *const c_void) -> Registers {
    let mut registers = Registers::ZERO;
    // SAFETY: so many words, as the caller promises.
    let words = unsafe { regs.cast::<[u64; PT_REGS]>().read_unaligned() };
    // Behind them: the bases of fs and gs, and the selectors of ds, es, fs and gs.
    let rest = [model_register(0xc000_0100), model_register(0xc000_0101), 0, 0, 0, 0];
    for (slot, word) in registers.general.iter_mut().zip(words.into_iter().chain(rest)) {
        *slot = word;
    }
    let [mut cr0, mut cr2, mut cr3, mut cr4] = [0_u64; 4];
    // SAFETY: reads registers that the kernel may read.
    unsafe {
        core::arch::asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
    }
    let control = [cr0, cr2, cr3, cr4, model_register(0xc000_0080)];
    for (slot, word) in registers.control.iter_mut().zip(control) {
        *slot = word;
    }
    registers
}

/// For C: the kernel panics and stops its CPUs.
#[unsafe(no_mangle)]
extern "C" fn dd_freeze() {
    match begin() {
        Some(side) => freeze(&Wait::aside(&side.linux, u64::MAX)),
        None => over(),
    }
}

/// For C: the kernel has stopped them itself.
#[unsafe(no_mangle)]
extern "C" fn dd_crash_stopped() {
    BY_KERNEL.store(true, Ordering::Release);
}

/// What a stopped CPU takes along to its stack in the arena.
struct Stand {
    side: &'static Side,
    slot: &'static Slot,
    helps: bool,
    /// The stack to stand guard on, if it can.
    guard: Option<*mut u8>,
}

/// For C: an NMI, with what it interrupted. False if it is not ours.
#[unsafe(no_mangle)]
extern "C" fn dd_nmi(regs: *const c_void) -> bool {
    let dumping = Some(DUMPING.load(Ordering::Acquire)).filter(|cpu| *cpu != NOBODY);
    match Nmi::on(kernel::cpu(), dumping, PHASE.load(Ordering::Acquire) == phase::FREEZING) {
        Nmi::Others => return false,
        Nmi::Ignored => return true,
        Nmi::Stop => {}
    }
    let Some((side, lent)) = pinned().and_then(|side| Some((side, side.linux.lent()?))) else { return false };
    let place = place(lent, kernel::cpu());
    // One of too many, or one that came online just now: nothing was prepared for it.
    let Some(slot) = lent.cpus.get(place) else {
        STOPPED_WITHOUT_SLOT.fetch_add(1, Ordering::AcqRel);
        kernel::halt()
    };
    if slot.stopped.load(Ordering::Acquire) {
        kernel::halt();
    }
    look_for_broken_memory(lent);
    // SAFETY: C passes the registers that the NMI interrupted; `stopped` is not set, so nobody reads.
    unsafe { *slot.registers.get() = complete(regs) };
    let guard = (place < GUARDS).then_some(lent.guard_stack);
    let mut stand = Stand { side, slot, helps: place <= lent.helpers, guard };
    let top = slot.stack.load(Ordering::Acquire);
    // SAFETY: the stack is this CPU's alone, and it is not stopped twice.
    unsafe { kernel::call_on(top, stand_by, (&raw mut stand).cast()) };
    true
}

/// On the stack in the arena: from the first store on, the memory that is dumped stays as it is.
extern "C" fn stand_by(stand: *mut c_void) {
    // SAFETY: dd_nmi() passes its own `stand`, and waits.
    let stand = unsafe { &*stand.cast::<Stand>() };
    stand.slot.stopped.store(true, Ordering::Release);
    // A stopped CPU waits for nothing: it is there for the dump, until that is over.
    while (stand.helps || stand.guard.is_some()) && PHASE.load(Ordering::Acquire) == phase::FREEZING {
        if stand.helps {
            stand.side.dump.help(&stand.side.linux);
        }
        rest(&stand.side.linux, 20_000);
    }
    if let Some(stack) = stand.guard {
        stand_guard(&stand.side.linux, stack);
    }
    kernel::halt();
}

/// Lets about so many nanoseconds pass. A CPU in an NMI cannot sleep: nothing would wake it.
pub(crate) fn rest(linux: &Linux, nanoseconds: Nanoseconds) {
    let end = linux.now().saturating_add(nanoseconds);
    // Bounded, should the clock stand still.
    for _ in 0..1_000_000 {
        if linux.now() >= end {
            break;
        }
        core::hint::spin_loop();
    }
}

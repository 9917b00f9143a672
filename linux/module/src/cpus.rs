//! The CPUs that are online when the dump is armed: each has a slot in the arena, for its stack and for what
//! it records when it is stopped.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use dump_linux::apic::Cpu;
use dump_linux::notes::PT_REGS;
use dumpcore::Arena;
use dumpcore::arena::OutOfArena;
use dumpcore::platform::Registers;

use crate::apic::model_register;
use crate::kernel;

/// Maximum number of CPUs dumped with their registers.
pub(crate) const MAX_CPUS: usize = 256;

/// Size of a stopped CPU's stack in bytes. When it helps, dumpcore switches to a larger one.
const STACK: usize = 2048;

/// Size of the guard's stack in bytes: the kernel's reset goes through firmware.
const GUARD_STACK: usize = 16 << 10;

/// One CPU.
pub(crate) struct Slot {
    /// Its number.
    pub(crate) number: u32,
    /// Address at which the kernel stores its registers on the way to kdump; 0 if unknown.
    pub(crate) note: u64,
    pub(crate) stopped: AtomicBool,
    pub(crate) registers: UnsafeCell<Registers>,
    pub(crate) stack: AtomicPtr<u8>,
}

// SAFETY: `registers` is written only by its own CPU, before the store to `stopped`, and read after it.
unsafe impl Sync for Slot {}

/// The CPUs that are online when the dump is armed.
pub(crate) struct Cpus {
    /// Those that are dumped with their registers.
    pub(crate) slots: &'static [Slot],
    /// Number of CPUs without a slot.
    pub(crate) more: usize,
    /// All online CPUs, if there are others that were never started.
    pub(crate) started: Option<&'static [Cpu]>,
    /// Top of the stack for the CPU that stands guard after the dump.
    pub(crate) guard_stack: *mut u8,
}

impl Slot {
    /// Whether the address of its crash note is known.
    pub(crate) fn has_note(&self) -> bool {
        self.note != 0
    }

    /// The registers that this CPU recorded when it was stopped; `None` if it did not.
    pub(crate) fn recorded(&self) -> Option<Registers> {
        // SAFETY: recorded before the store to `stopped`, and not changed since.
        self.stopped.load(Ordering::Acquire).then(|| unsafe { *self.registers.get() })
    }
}

/// A slot with a stack for each online CPU. May sleep.
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
    // SAFETY: just written, `count` of them, in memory that lives as long as the dump is armed.
    let slots = unsafe { core::slice::from_raw_parts(place, count) };
    let guard_stack = arena.bytes(GUARD_STACK, 16)?.as_mut_ptr_range().end;
    let started = if kernel::all_cpus_online() { None } else { Some(started(arena, online)?) };
    Ok(Cpus { slots, more: online.saturating_sub(count), started, guard_stack })
}

/// The `count` online CPUs with their APIC ids. May sleep.
fn started(arena: &mut Arena<'static>, count: usize) -> Result<&'static [Cpu], OutOfArena> {
    let place = arena.bytes(count.saturating_mul(size_of::<u32>()), align_of::<u32>())?;
    let bytes = count.saturating_mul(size_of::<Cpu>());
    let cpus = arena.bytes(bytes, align_of::<Cpu>())?.as_mut_ptr().cast::<Cpu>();
    // SAFETY: the bytes are ours, aligned, initialised, and enough for that number of integers.
    let numbers = unsafe { core::slice::from_raw_parts_mut(place.as_mut_ptr().cast::<u32>(), count) };
    let count = kernel::online_cpus(numbers).min(count);
    for (at, number) in numbers.iter().take(count).enumerate() {
        // SAFETY: as above, for that number of CPUs.
        unsafe { cpus.add(at).write(Cpu { number: *number, apic: kernel::apic_of(*number) }) };
    }
    // SAFETY: just written, `count` of them, in memory that lives as long as the dump is armed.
    Ok(unsafe { core::slice::from_raw_parts(cpus, count) })
}

/// The index of a CPU among the online ones; the number of slots if it has none.
pub(crate) fn place(slots: &[Slot], number: u32) -> usize {
    slots.iter().position(|slot| slot.number == number).unwrap_or(slots.len())
}

/// All registers of this CPU. The general registers are those at `regs` (`struct pt_regs`).
///
/// # Safety
/// `regs` points to a `struct pt_regs`.
pub(crate) unsafe fn complete(regs: *const c_void) -> Registers {
    let mut registers = Registers::ZERO;
    // SAFETY: this many words, as the caller promises.
    let words = unsafe { regs.cast::<[u64; PT_REGS]>().read_unaligned() };
    // They are followed by the bases of fs and gs, and the selectors of ds, es, fs and gs.
    let rest = [model_register(0xc000_0100), model_register(0xc000_0101), 0, 0, 0, 0];
    for (slot, word) in registers.general.iter_mut().zip(words.into_iter().chain(rest)) {
        *slot = word;
    }
    let [mut cr0, mut cr2, mut cr3, mut cr4] = [0_u64; 4];
    // SAFETY: only reads registers that the kernel may read.
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

//! The kernel's crash notes: one for each CPU, where debuggers look for its registers.

use dump_linux::notes::{self, NOTE_BYTES, WHOLE_NOTE};
use dumpcore::platform::Registers;

use crate::cpus::Slot;
use crate::kernel;
use crate::lent::Lent;

/// The general registers in the note of a CPU that the kernel stopped; `None` if there is no such note.
pub(crate) fn read(lent: &Lent, slot: &Slot) -> Option<Registers> {
    if slot.note == 0 {
        return None;
    }
    let mut note = [0; NOTE_BYTES];
    let general = kernel::copy(lent.direct_map.checked_add(slot.note)?, &mut note)
        .then(|| notes::of_crash_note(&note))??;
    Some(Registers { general, ..Registers::ZERO })
}

/// Writes registers to the place where the kernel would on its way to kdump, for debuggers that look there
/// (drgn). This is the only memory outside the arena that a dump changes. `crashed` are the registers of this
/// CPU.
///
/// # Safety
/// All other CPUs are stopped.
pub(crate) unsafe fn fill(lent: &Lent, crashed: &Registers) {
    let own = kernel::cpu();
    for slot in lent.cpus.iter().filter(|slot| slot.note != 0) {
        // The kernel itself has written the notes of CPUs that it stopped.
        let known = if slot.number == own { Some(*crashed) } else { slot.recorded() };
        let Some((known, address)) = known.zip(lent.direct_map.checked_add(slot.note)) else { continue };
        let mut note = [0; WHOLE_NOTE];
        // Only where there is memory.
        if !kernel::copy(address, &mut note) {
            continue;
        }
        notes::to_crash_note(&known.general, &mut note);
        let words = address as *mut [u8; WHOLE_NOTE];
        // SAFETY: arming checked that this is the kernel's note of that CPU, which has this size; it was in
        // RAM then, and is readable now.
        unsafe { words.write_volatile(note) };
    }
}

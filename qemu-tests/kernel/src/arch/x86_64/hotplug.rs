//! The hotplug controller of QEMU's machine `pc` (QEMU, docs/specs/acpi_pci_hotplug: ports from 0xae00).

use x86_64::instructions::port::Port;

/// One bit for each slot of the selected bus that is to be emptied.
const DOWN: u16 = 0xae04;
/// A slot's bit written here empties it.
const EJECT: u16 = 0xae08;

/// Allows the removal of what is in this slot, a bit, if it was asked for. For the dump, in the scenario that wants it.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn eject_if_asked(slot: u32) -> bool {
    // SAFETY: ports of the hotplug controller; only its bit for our slot is used.
    unsafe {
        let asked = Port::<u32>::new(DOWN).read() & slot != 0;
        if asked {
            Port::<u32>::new(EJECT).write(slot);
        }
        asked
    }
}

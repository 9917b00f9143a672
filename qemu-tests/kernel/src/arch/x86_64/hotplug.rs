//! The hotplug controller of QEMU's `pc` machine (QEMU, docs/specs/acpi_pci_hotplug: ports from 0xae00).

use x86_64::instructions::port::Port;

/// One bit for each slot of the selected bus with a removal request.
const DOWN: u16 = 0xae04;
/// Writing a slot's bit here ejects its device.
const EJECT: u16 = 0xae08;

/// Ejects the device in this slot, a bit, if its removal was requested. For the dump, in the scenario that
/// tests it.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn eject_if_asked(slot: u32) -> bool {
    // SAFETY: ports of the hotplug controller; only our slot's bit is used.
    unsafe {
        let asked = Port::<u32>::new(DOWN).read() & slot != 0;
        if asked {
            Port::<u32>::new(EJECT).write(slot);
        }
        asked
    }
}

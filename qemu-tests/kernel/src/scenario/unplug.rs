//! The disk is unplugged, while the kernel runs or while it dumps: the hotplug controller of QEMU's machine `pc` (QEMU, docs/specs/
//! acpi_pci_hotplug: ports from 0xae00).

use dump_drivers::bus::pci::Function;
use x86_64::instructions::port::Port;

use crate::arch::clock;
use crate::arm::{self, Armed};
use crate::log::log;

/// One bit for each slot of the selected bus that is to be emptied.
const DOWN: u16 = 0xae04;
/// A slot's bit written here empties it.
const EJECT: u16 = 0xae08;
/// How long somebody has to ask for the removal, in nanoseconds.
const PATIENCE: u64 = 60_000_000_000;

/// The disk's slot, as a bit.
pub(crate) fn slot(armed: &Armed) -> Result<u32, &'static str> {
    Ok(1 << armed.function.ok_or("there is no disk to unplug")?.address.device())
}

/// Allows the removal of what is in this slot, if it was asked for. For the dump, in the scenario that wants it.
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

/// Waits until the disk's removal is asked for, allows it, and returns when the disk is gone.
pub(crate) fn wait(armed: &Armed) -> Result<(), &'static str> {
    let function = armed.function.ok_or("there is no disk to unplug")?;
    let slot = slot(armed)?;
    let deadline = clock::now() + PATIENCE;
    log!("testkernel: waiting for unplug");
    while !eject_if_asked(slot) {
        if clock::now() > deadline {
            return Err("nobody unplugged the disk (is this machine `pc`?)");
        }
        core::hint::spin_loop();
    }
    while Function::at(&arm::pci(), function.address).is_some() {
        if clock::now() > deadline {
            return Err("the disk does not go away");
        }
        core::hint::spin_loop();
    }
    log!("testkernel: the disk is gone");
    Ok(())
}

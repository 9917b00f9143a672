//! The disk is unplugged while the kernel runs or while it dumps.

use dump_drivers::bus::pci::Function;

use crate::arch::hotplug::eject_if_asked;
use crate::arch::{clock, pci};
use crate::arm::Armed;
use crate::log::log;

/// How long to wait for the removal request, in nanoseconds.
const PATIENCE: u64 = 60_000_000_000;

/// The disk's slot, as a bit.
pub(crate) fn slot(armed: &Armed) -> Result<u32, &'static str> {
    Ok(1 << armed.function.ok_or("there is no disk to unplug")?.address.device())
}

/// Waits until the disk's removal is requested, allows it, and returns when the disk is gone.
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
    while Function::at(&pci::config(), function.address).is_some() {
        if clock::now() > deadline {
            return Err("the disk does not go away");
        }
        core::hint::spin_loop();
    }
    log!("testkernel: the disk is gone");
    Ok(())
}

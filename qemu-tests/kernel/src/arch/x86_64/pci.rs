//! Configuration space. Disk drivers do not need access by single bytes, but the watchdog does.

use dump_drivers::bus::pci::{Address, PortIo};
use x86_64::instructions::port::Port;

/// Access to configuration space: through ports.
pub(crate) type Config = PortIo;

/// Access to configuration space.
pub(crate) fn config() -> Config {
    // SAFETY: the kernel runs in ring 0 on a PC. Only the boot CPU uses the ports while the kernel is
    // healthy, and only the dumping CPU afterwards.
    unsafe { PortIo::new() }
}

/// Selects a register and returns the data port for the byte.
fn select(address: Address, offset: u8) -> u16 {
    let select = 1 << 31 | u32::from(address.bits()) << 8 | u32::from(offset & !3);
    // SAFETY: the address port of configuration space, not used by others meanwhile.
    unsafe { Port::<u32>::new(0xcf8).write(select) };
    0xcfc | u16::from(offset & 3)
}

/// Writes 8 bits (PCI Local Bus 3.0, 3.2.2.3.2: mechanism #1). On the boot CPU, while no dump runs.
pub(crate) fn write8(address: Address, offset: u8, value: u8) {
    // SAFETY: a data port of configuration space, just selected.
    unsafe { Port::<u8>::new(select(address, offset)).write(value) };
}

/// Reads 8 bits. On the boot CPU, while no dump runs.
pub(crate) fn read8(address: Address, offset: u8) -> u8 {
    // SAFETY: a data port of configuration space, just selected.
    unsafe { Port::<u8>::new(select(address, offset)).read() }
}

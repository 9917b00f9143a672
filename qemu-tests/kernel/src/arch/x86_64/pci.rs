//! Configuration space. One byte at a time disk drivers do not need it; the watchdog does.

use dump_drivers::bus::pci::{Address, PortIo};
use x86_64::instructions::port::Port;

/// The way to configuration space: ports.
pub(crate) type Config = PortIo;

/// The way to configuration space.
pub(crate) fn config() -> Config {
    // SAFETY: the kernel runs in ring 0 on a PC. Only the boot CPU uses the ports while the kernel is healthy, and
    // afterwards only the CPU that dumps.
    unsafe { PortIo::new() }
}

/// Names the register, and gives the port through which its bytes go.
fn select(address: Address, offset: u8) -> u16 {
    let select = 1 << 31 | u32::from(address.bits()) << 8 | u32::from(offset & !3);
    // SAFETY: the address port of configuration space, which nobody else uses meanwhile.
    unsafe { Port::<u32>::new(0xcf8).write(select) };
    0xcfc | u16::from(offset & 3)
}

/// Writes 8 bits (PCI Local Bus 3.0, 3.2.2.3.2: mechanism #1). On the boot CPU, while nobody dumps.
pub(crate) fn write8(address: Address, offset: u8, value: u8) {
    // SAFETY: a data port of configuration space, just selected.
    unsafe { Port::<u8>::new(select(address, offset)).write(value) };
}

/// Reads 8 bits. On the boot CPU, while nobody dumps.
pub(crate) fn read8(address: Address, offset: u8) -> u8 {
    // SAFETY: a data port of configuration space, just selected.
    unsafe { Port::<u8>::new(select(address, offset)).read() }
}

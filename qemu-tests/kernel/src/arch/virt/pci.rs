//! PCI Express as described in the device tree (`pci-host-ecam-generic`): memory-mapped configuration space
//! and, because no firmware does it, the assignment of all base address registers on the first bus. Bridges
//! are not configured; devices behind them are not found.
//!
//! Specification: PCI Bus Binding to Open Firmware 2.1, 2.2.1.1 (addresses) and 2.4 (interrupts); Linux,
//! Documentation/devicetree/bindings/pci/host-generic-pci.yaml.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use dtoolkit::{Node as _, Property, ToCellInt};
use dump_drivers::Mmio;
use dump_drivers::bus::pci::{Address, Command, ConfigSpace, Ecam, Function, functions};

use super::device_tree::{self, Node};
use crate::arch::paging::{self, Access};

/// Access to configuration space.
pub(crate) type Config = Ecam<Mmio>;

/// Size of one bus's configuration space.
const BUS_SIZE: u64 = 1 << 20;
/// First base address register.
const BAR: u16 = 0x10;
/// The function's interrupt pin, 1 (A) to 4 (D), 8 bits.
const PIN: u16 = 0x3d;
/// The first port assigned: a register of 0 would count as unassigned.
const FIRST_PORT: u64 = 0x1000;

/// Virtual address of the first bus's configuration space; 0 if there is none.
static START: AtomicUsize = AtomicUsize::new(0);

/// A range of addresses for registers.
#[derive(Clone, Copy)]
struct Window {
    next: u64,
    end: u64,
}

impl Window {
    const NONE: Window = Window { next: 0, end: 0 };

    /// Takes the next `size` addresses, aligned to their size.
    fn take(&mut self, size: u64) -> Option<u64> {
        let start = self.next.max(1).checked_next_multiple_of(size)?;
        let end = start.checked_add(size)?;
        (end <= self.end).then(|| self.next = end).map(|()| start)
    }
}

/// The address ranges that the host bridge forwards to the bus.
struct Windows {
    ports: Window,
    low: Window,
    high: Window,
}

fn host() -> Option<Node> {
    device_tree::find("pci-host-ecam-generic")
}

/// Access to configuration space; empty on a machine without PCI.
pub(crate) fn config() -> Config {
    let start = NonNull::new(START.load(Ordering::Relaxed) as *mut u8);
    let length = if start.is_some() { BUS_SIZE as usize } else { 0 };
    // SAFETY: init() has mapped the window for good; an empty one is never accessed.
    Ecam::new(unsafe { Mmio::new(start.unwrap_or(NonNull::dangling()), length) }, 0)
}

/// Maps configuration space and configures all functions.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(crate) unsafe fn init() -> Result<(), &'static str> {
    let Some(host) = host() else { return Ok(()) };
    let (start, size) = device_tree::registers(host, 0).ok_or("the PCI host has no configuration space")?;
    if size < BUS_SIZE || device_tree::cells(host, "bus-range").next().unwrap_or(0) != 0 {
        return Err("the PCI host has no bus 0");
    }
    // SAFETY: these are device registers; the caller is booting.
    let seen = unsafe { paging::map_physical(start, BUS_SIZE, Access::Device)? };
    START.store(seen as usize, Ordering::Relaxed);

    let mut windows = windows(host)?;
    let config = config();
    for function in functions(&config) {
        // A bridge has other registers after the second.
        if config.read8(function.address, 0x0e) & 0x7f == 0 {
            assign(&config, function, &mut windows)?;
        }
    }
    Ok(())
}

/// The bus addresses that lead to devices. Memory only counts where bus and CPU addresses are equal, because
/// drivers assume that.
fn windows(host: Node) -> Result<Windows, &'static str> {
    const NO_RANGES: &str = "the PCI host has no ranges";
    let mut windows = Windows { ports: Window::NONE, low: Window::NONE, high: Window::NONE };
    let ranges = host.property("ranges").ok_or(NO_RANGES)?;
    // Three cells for the bus address, the first with its kind; two for the CPU address; two for the size.
    for [kind, bus, cpu, size] in ranges.as_prop_encoded_array([1, 2, 2, 2]).map_err(|_| NO_RANGES)? {
        let number = |cells: dtoolkit::Cells<'_>| cells.to_int::<u64>().map_err(|_| NO_RANGES);
        let (kind, bus, cpu, size) = (number(kind)?, number(bus)?, number(cpu)?, number(size)?);
        let window = Window { next: bus, end: bus.saturating_add(size) };
        match kind >> 24 & 3 {
            1 => windows.ports = Window { next: window.next.max(FIRST_PORT), ..window },
            2 if bus == cpu => windows.low = window,
            3 if bus == cpu => windows.high = window,
            _ => {}
        }
    }
    Ok(windows)
}

/// Assigns addresses to all base address registers of a function, and enables decoding.
fn assign(config: &Config, function: Function, windows: &mut Windows) -> Result<(), &'static str> {
    const STUBBORN: &str = "a PCI function does not take its addresses";
    let mut index = 0;
    while index < 6 {
        let offset = BAR + 4 * u16::from(index);
        let kind = config.read32(function.address, offset);
        let (ports, wide) = (kind & 1 == 1, kind & 7 == 4);
        if let Some(size) = function.size_bar(config, index).map_err(|_| STUBBORN)? {
            let address = if ports {
                windows.ports.take(size)
            } else if wide {
                windows.high.take(size).or_else(|| windows.low.take(size))
            } else {
                windows.low.take(size)
            };
            let address = address.ok_or("there is no room for the registers of all PCI functions")?;
            config.write32(function.address, offset, address as u32);
            if wide {
                config.write32(function.address, offset + 4, (address >> 32) as u32);
            }
        }
        index += if wide { 2 } else { 1 };
    }
    function.change_command(config, Command::MEMORY | Command::IO, Command::empty()).or_else(|_| {
        // A function without ports may refuse to enable them.
        function.change_command(config, Command::MEMORY, Command::empty()).map_err(|_| STUBBORN)
    })
}

/// The interrupt line of the function's pin, according to the host's `interrupt-map`; `None` if it has no
/// pin. `read` decodes the map's description of a line.
pub(crate) fn line(function: &Function, read: fn([u32; 3]) -> Option<u32>) -> Option<u32> {
    let host = host()?;
    let pin = config().read8(function.address, PIN);
    if pin == 0 {
        return None;
    }
    let mut mask = device_tree::cells(host, "interrupt-map-mask");
    let mask: [u32; 4] = core::array::from_fn(|_| mask.next().unwrap_or(0));
    let own = [u32::from(function.address.bits()) << 8, 0, 0, u32::from(pin)];
    let mut map = device_tree::cells(host, "interrupt-map");
    // Each turn takes an entry; the loop ends when there is none left.
    loop {
        let mut entry = [0; 4];
        for cell in &mut entry {
            *cell = map.next()?;
        }
        let controller = device_tree::by_handle(map.next()?)?;
        let count = |property| device_tree::number(controller, property).unwrap_or(0) as usize;
        map.by_ref().take(count("#address-cells")).for_each(drop);
        let mut interrupt = [0; 3];
        for number in 0..count("#interrupt-cells") {
            let cell = map.next()?;
            if let Some(slot) = interrupt.get_mut(number) {
                *slot = cell;
            }
        }
        let matches = |(own, (entry, mask)): (&u32, (&u32, &u32))| own & mask == entry & mask;
        if own.iter().zip(entry.iter().zip(&mask)).all(matches) {
            return read(interrupt);
        }
    }
}

/// Virtual address of a function's byte in configuration space; `None` if it is not on bus 0.
fn byte(address: Address, offset: u8) -> Option<NonNull<u8>> {
    let start = NonNull::new(START.load(Ordering::Relaxed) as *mut u8).filter(|_| address.bus() == 0)?;
    // SAFETY: init() has mapped the configuration space of bus 0, and the 20-bit offset is in it.
    Some(unsafe { start.add(usize::from(address.bits()) << 12 | usize::from(offset)) })
}

/// Reads exactly 8 bits: some devices care. On the boot CPU, while no dump runs.
pub(crate) fn read8(address: Address, offset: u8) -> u8 {
    // SAFETY: a mapped register of configuration space.
    byte(address, offset).map_or(u8::MAX, |byte| unsafe { byte.read_volatile() })
}

/// Writes exactly 8 bits. On the boot CPU, while no dump runs.
pub(crate) fn write8(address: Address, offset: u8, value: u8) {
    if let Some(byte) = byte(address, offset) {
        // SAFETY: as above.
        unsafe { byte.write_volatile(value) };
    }
}

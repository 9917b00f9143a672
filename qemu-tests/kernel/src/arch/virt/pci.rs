//! PCI Express as the device tree describes it (`pci-host-ecam-generic`): configuration space in memory, and, since no firmware
//! has done it, the addresses of all base address registers on the first bus. Bridges are not set up; what sits behind one is
//! not found.
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

/// Configuration space of one bus.
const BUS_SIZE: u64 = 1 << 20;
/// First base address register.
const BAR: u16 = 0x10;
/// Which pin of a function interrupts, 1 (A) to 4 (D), 8 bits.
const PIN: u16 = 0x3d;
/// Ports below this are nobody's: a register of 0 counts as not assigned.
const FIRST_PORT: u64 = 0x1000;

/// Where the first bus's configuration space is seen; 0 if there is none.
static START: AtomicUsize = AtomicUsize::new(0);

/// Addresses that can be given to registers.
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

/// What the host bridge passes on to the bus.
struct Windows {
    ports: Window,
    low: Window,
    high: Window,
}

fn host() -> Option<Node> {
    device_tree::find("pci-host-ecam-generic")
}

/// Access to configuration space; nothing is found in it on a machine without PCI.
pub(crate) fn config() -> Config {
    let start = NonNull::new(START.load(Ordering::Relaxed) as *mut u8);
    let length = if start.is_some() { BUS_SIZE as usize } else { 0 };
    // SAFETY: init() has mapped the window for ever; one without bytes is never touched.
    Ecam::new(unsafe { Mmio::new(start.unwrap_or(NonNull::dangling()), length) }, 0)
}

/// Makes configuration space visible and sets all functions up.
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
        // A bridge has other registers behind the second.
        if config.read8(function.address, 0x0e) & 0x7f == 0 {
            assign(&config, function, &mut windows)?;
        }
    }
    Ok(())
}

/// What of the bus's addresses leads to devices. Memory is taken only where the bus and the CPU agree on the address, as
/// that is what drivers take a register to mean.
fn windows(host: Node) -> Result<Windows, &'static str> {
    const NO_RANGES: &str = "the PCI host has no ranges";
    let mut windows = Windows { ports: Window::NONE, low: Window::NONE, high: Window::NONE };
    let ranges = host.property("ranges").ok_or(NO_RANGES)?;
    // The bus's address in three cells, of which the first says of what kind it is, the CPU's in two, and the size in two.
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

/// Gives all base address registers of a function their addresses, and has it decode them.
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
        // One that has no ports need not let them be switched on.
        function.change_command(config, Command::MEMORY, Command::empty()).map_err(|_| STUBBORN)
    })
}

/// Which interrupt line the function's pin leads to, by the host's `interrupt-map`; `None` if it has no pin. `read` reads what
/// the map says of a line.
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
    // Each turn takes an entry; without one it ends.
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

/// Where a function's byte in configuration space is seen; `None` if it is not on bus 0.
fn byte(address: Address, offset: u8) -> Option<NonNull<u8>> {
    let start = NonNull::new(START.load(Ordering::Relaxed) as *mut u8).filter(|_| address.bus() == 0)?;
    // SAFETY: init() has mapped the configuration space of bus 0, and the offset, of 20 bits, is in it.
    Some(unsafe { start.add(usize::from(address.bits()) << 12 | usize::from(offset)) })
}

/// Reads 8 bits, and no more: to some devices that makes a difference. On the boot CPU, while nobody dumps.
pub(crate) fn read8(address: Address, offset: u8) -> u8 {
    // SAFETY: a register of configuration space, mapped.
    byte(address, offset).map_or(u8::MAX, |byte| unsafe { byte.read_volatile() })
}

/// Writes 8 bits, and no more. On the boot CPU, while nobody dumps.
pub(crate) fn write8(address: Address, offset: u8, value: u8) {
    if let Some(byte) = byte(address, offset) {
        // SAFETY: as above.
        unsafe { byte.write_volatile(value) };
    }
}

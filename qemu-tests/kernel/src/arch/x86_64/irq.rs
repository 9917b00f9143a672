//! Device interrupts, as messages: MSI and MSI-X (PCI Local Bus 3.0, 6.8; Intel SDM vol. 3, 11.11).

use core::sync::atomic::{AtomicUsize, Ordering};

use dump_drivers::Registers;
use dump_drivers::bus::pci::{Address, CAPABILITY_MSI, CAPABILITY_MSI_X, Capability, ConfigSpace, Function};
use dump_drivers::bus::pci::{Bar, Command};
use dumpcore::crashdump_mode;
use spin::Once;

use super::{apic, cpu, pci};
use crate::arch::Delivery;
use crate::device;

/// The first vector for device interrupts.
pub(crate) const FIRST: u64 = 33;
/// Number of vectors, as in vectors.s.
pub(crate) const VECTORS: usize = 8;

/// Message address of a CPU, without the CPU's APIC id.
const MESSAGE: u32 = 0xfee0_0000;

/// Offsets in both capabilities: message control, 16 bits.
const CONTROL: u16 = 2;
/// MSI: message control, 64-bit address.
const MSI_WIDE: u16 = 1 << 7;
/// MSI: message control, log2 of the number of messages in use.
const MSI_COUNT: u16 = 0x7 << 4;
/// MSI: message control, enable.
const MSI_ENABLE: u16 = 1 << 0;
/// MSI-X: message control, number of entries minus one.
const MSI_X_LAST: u16 = 0x7ff;
/// MSI-X: message control, all entries masked.
const MSI_X_MASKED: u16 = 1 << 14;
/// MSI-X: message control, enable.
const MSI_X_ENABLE: u16 = 1 << 15;
/// MSI-X: location of the table, with its base address register in the lowest three bits.
const MSI_X_TABLE: u16 = 4;
/// Size of a table entry in bytes.
const MSI_X_ENTRY: u64 = 16;

/// The handler for a vector.
struct Handler {
    call: fn(usize),
    data: usize,
}

static HANDLERS: [Once<Handler>; VECTORS] = [const { Once::new() }; VECTORS];
/// Number of vectors in use.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// Calls `call` with `data` on this CPU, with interrupts off, whenever the function sends its message number
/// `entry`; MSI only has number 0. While a dump runs, interrupts are dropped, and a driver that continues
/// afterwards has to poll for events that it missed. Some devices only read their messages when they are
/// enabled, so call this before that.
///
/// # Errors
/// If the function has no messages, or all vectors are in use.
pub(crate) fn register(
    function: &Function,
    entry: u16,
    call: fn(usize),
    data: usize,
) -> Result<Delivery, &'static str> {
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let slot = HANDLERS.get(number).ok_or("no interrupt vector is left")?;
    slot.call_once(|| Handler { call, data });
    let to = MESSAGE | u32::from(cpu::apic_id(cpu::number())) << 12;
    let vector = FIRST as u32 + number as u32;

    let config = pci::config();
    function
        .change_command(&config, Command::MEMORY | Command::BUS_MASTER, Command::empty())
        .map_err(|_| "the device's PCI command cannot be changed")?;
    let found = |id| function.capabilities(&config).flatten().find(|capability| capability.id == id);
    if let Some(capability) = found(CAPABILITY_MSI_X) {
        send_msi_x(function, capability, entry, to, vector)?;
    } else if let Some(capability) = found(CAPABILITY_MSI) {
        if entry != 0 {
            return Err("the device sends one message only");
        }
        send_msi(function.address, capability, to, vector);
    } else {
        return Err("the device sends no messages");
    }
    Ok(Delivery::Message)
}

/// Programs this message into MSI.
fn send_msi(address: Address, capability: Capability, to: u32, vector: u32) {
    let config = pci::config();
    let at = u16::from(capability.at);
    let control = config.read16(address, at + CONTROL);
    config.write32(address, at + 4, to);
    let data = if control & MSI_WIDE != 0 {
        config.write32(address, at + 8, 0);
        at + 12
    } else {
        at + 8
    };
    config.write16(address, data, vector as u16);
    config.write16(address, at + CONTROL, control & !MSI_COUNT | MSI_ENABLE);
}

/// Programs this message into an MSI-X entry. The other entries stay unchanged: masked, unless they are in
/// use.
fn send_msi_x(
    function: &Function,
    capability: Capability,
    entry: u16,
    to: u32,
    vector: u32,
) -> Result<(), &'static str> {
    let config = pci::config();
    let at = u16::from(capability.at);
    let control = config.read16(function.address, at + CONTROL);
    if entry > control & MSI_X_LAST {
        return Err("the device has fewer interrupt messages");
    }
    let table = config.read32(function.address, at + MSI_X_TABLE);
    let Some(Bar::Memory { address, .. }) = function.bar(&config, (table & 7) as u8) else {
        return Err("the device's table of messages is nowhere");
    };
    let address = address + u64::from(table & !7) + u64::from(entry) * MSI_X_ENTRY;
    let registers = device::map_device(address, MSI_X_ENTRY as usize)
        .ok_or("the device's table of messages cannot be mapped")?;
    for (offset, value) in [(0, to), (4, 0), (8, vector), (12, 0)] {
        registers.write32(offset, value);
    }
    config.write16(function.address, at + CONTROL, control & !MSI_X_MASKED | MSI_X_ENABLE);
    Ok(())
}

/// Enables interrupts on this CPU.
pub(crate) fn enable() {
    x86_64::instructions::interrupts::enable();
}

/// Handles a device interrupt.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn take(vector: u64) {
    let slot = HANDLERS.get((vector - FIRST) as usize);
    // While a dump runs, drivers of the healthy kernel must not run.
    if let Some(handler) = slot.and_then(Once::get).filter(|_| !crashdump_mode()) {
        (handler.call)(handler.data);
    }
    apic::end_interrupt();
}

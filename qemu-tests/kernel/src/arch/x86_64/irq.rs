//! Interrupts of devices, as messages: MSI and MSI-X (PCI Local Bus 3.0, 6.8; Intel SDM vol. 3, 11.11).

use core::sync::atomic::{AtomicUsize, Ordering};

use dump_drivers::Registers;
use dump_drivers::bus::pci::{Address, CAPABILITY_MSI, CAPABILITY_MSI_X, Capability, ConfigSpace, Function};
use dump_drivers::bus::pci::{Bar, Command};
use dumpcore::crashdump_mode;
use spin::Once;

use super::{apic, cpu, pci};
use crate::arch::Delivery;
use crate::device;

/// The first vector for a device's interrupt.
pub(crate) const FIRST: u64 = 33;
/// How many there are, as in vectors.s.
pub(crate) const VECTORS: usize = 8;

/// Where a message for a CPU is written to, without the CPU's APIC id.
const MESSAGE: u32 = 0xfee0_0000;

/// Offsets in both capabilities: message control, 16 bits.
const CONTROL: u16 = 2;
/// MSI: message control, the upper half of the address is there.
const MSI_WIDE: u16 = 1 << 7;
/// MSI: message control, how many messages are in use, as a power of two.
const MSI_COUNT: u16 = 0x7 << 4;
/// MSI: message control, on.
const MSI_ENABLE: u16 = 1 << 0;
/// MSI-X: message control, the number of entries less one.
const MSI_X_LAST: u16 = 0x7ff;
/// MSI-X: message control, all entries are masked.
const MSI_X_MASKED: u16 = 1 << 14;
/// MSI-X: message control, on.
const MSI_X_ENABLE: u16 = 1 << 15;
/// MSI-X: where the table is, with its base address register in the lowest three bits.
const MSI_X_TABLE: u16 = 4;
/// Bytes of an entry of that table.
const MSI_X_ENTRY: u64 = 16;

/// Who is called for a vector.
struct Handler {
    call: fn(usize),
    data: usize,
}

static HANDLERS: [Once<Handler>; VECTORS] = [const { Once::new() }; VECTORS];
/// Vectors given away.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// Has `call` called with `data` on this CPU, with interrupts off, whenever the function sends its message number `entry`; with
/// MSI there is only number 0. Not while a dump runs: then nobody is called, and a driver that lives on has to look for
/// itself what it has missed. Some devices look for their messages only when they are switched on, so this comes before that.
///
/// # Errors
/// If the function sends no messages, or all vectors are in use.
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

/// Has MSI send this message.
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

/// Has MSI-X send this message for an entry. The others stay as they are: masked, if nobody has used them.
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
        return Err("the device has not so many messages");
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

/// Lets interrupts through to this CPU.
pub(crate) fn enable() {
    x86_64::instructions::interrupts::enable();
}

/// A device's interrupt has come.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn take(vector: u64) {
    let slot = HANDLERS.get((vector - FIRST) as usize);
    // While a dump runs, no driver of the healthy kernel may.
    if let Some(handler) = slot.and_then(Once::get).filter(|_| !crashdump_mode()) {
        (handler.call)(handler.data);
    }
    apic::end_interrupt();
}

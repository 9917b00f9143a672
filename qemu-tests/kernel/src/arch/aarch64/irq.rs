//! Device interrupts, by the lines given in the device tree.

use core::sync::atomic::{AtomicUsize, Ordering};

use dump_drivers::bus::pci::{Command, Function};
use spin::Once;

use super::{cpu, gic, pci};
use crate::arch::Delivery;

/// Maximum number of handlers.
const HANDLERS: usize = 8;
/// First cell of an interrupt in the device tree: a line shared by all CPUs (Linux,
/// bindings/interrupt-controller/arm,gic-v3.yaml).
const SHARED: u32 = 0;

/// The handler for a line.
struct Handler {
    line: u32,
    call: fn(usize),
    data: usize,
}

static HANDLER: [Once<Handler>; HANDLERS] = [const { Once::new() }; HANDLERS];
/// Number of handlers in use.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// The line described by these cells of the device tree.
fn line([kind, number, _]: [u32; 3]) -> Option<u32> {
    (kind == SHARED).then(|| number.checked_add(gic::FIRST_LINE))?
}

/// Calls `call` with `data` on this CPU, with interrupts off, whenever the function asserts its line; there
/// is only `entry` 0. While a dump runs, the interrupt stays pending.
///
/// # Errors
/// If the function has no line, or all handlers are in use.
pub(crate) fn register(
    function: &Function,
    entry: u16,
    call: fn(usize),
    data: usize,
) -> Result<Delivery, &'static str> {
    if entry != 0 {
        return Err("the device has one line only");
    }
    let line = pci::line(function, line).ok_or("the device has no interrupt line")?;
    function
        .change_command(&pci::config(), Command::BUS_MASTER, Command::INTERRUPT_DISABLE)
        .map_err(|_| "the device's PCI command cannot be changed")?;
    register_line(line, call, data)
}

/// Calls `call` with `data` on this CPU, with interrupts off, whenever a device asserts this line.
///
/// # Errors
/// If there is no such line, or all handlers are in use.
fn register_line(line: u32, call: fn(usize), data: usize) -> Result<Delivery, &'static str> {
    let slot = HANDLER.get(GIVEN.fetch_add(1, Ordering::Relaxed)).ok_or("no interrupt handler is left")?;
    slot.call_once(|| Handler { line, call, data });
    gic::connect(line)?;
    Ok(Delivery::Line)
}

/// Enables interrupts on this CPU.
pub(crate) fn enable() {
    cpu::enable_interrupts();
}

/// Handles a device interrupt.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn take(line: u32) {
    // Several handlers may share a line.
    for handler in HANDLER.iter().filter_map(Once::get).filter(|handler| handler.line == line) {
        (handler.call)(handler.data);
    }
}

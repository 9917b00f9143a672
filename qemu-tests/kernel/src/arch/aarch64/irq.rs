//! Interrupts of devices, by the lines that the device tree names.

use core::sync::atomic::{AtomicUsize, Ordering};

use dump_drivers::bus::pci::{Command, Function};
use spin::Once;

use super::{cpu, gic, pci};
use crate::arch::Delivery;

/// Who may be called, at most.
const HANDLERS: usize = 8;
/// The first cell of an interrupt in the device tree: a line that all CPUs share (Linux, bindings/interrupt-controller/arm,gic-v3.yaml).
const SHARED: u32 = 0;

/// Who is called for a line.
struct Handler {
    line: u32,
    call: fn(usize),
    data: usize,
}

static HANDLER: [Once<Handler>; HANDLERS] = [const { Once::new() }; HANDLERS];
/// Handlers given away.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// The line that a device names in these words of the device tree.
fn line([kind, number, _]: [u32; 3]) -> Option<u32> {
    (kind == SHARED).then(|| number.checked_add(gic::FIRST_LINE))?
}

/// Has `call` called with `data` on this CPU, with interrupts off, while the function holds its line; there is only `entry` 0. Not
/// while a dump runs: then the interrupt waits for its end.
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

/// Has `call` called with `data` on this CPU, with interrupts off, while a device holds this line.
///
/// # Errors
/// If there is no such line, or all handlers are in use.
fn register_line(line: u32, call: fn(usize), data: usize) -> Result<Delivery, &'static str> {
    let slot = HANDLER.get(GIVEN.fetch_add(1, Ordering::Relaxed)).ok_or("no interrupt handler is left")?;
    slot.call_once(|| Handler { line, call, data });
    gic::connect(line)?;
    Ok(Delivery::Line)
}

/// Lets interrupts through to this CPU.
pub(crate) fn enable() {
    cpu::enable_interrupts();
}

/// A device's interrupt has come.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn take(line: u32) {
    // Several may share a line.
    for handler in HANDLER.iter().filter_map(Once::get).filter(|handler| handler.line == line) {
        (handler.call)(handler.data);
    }
}

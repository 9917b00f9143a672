//! Device interrupts, through lines to the platform-level interrupt controller.
//!
//! Specification: RISC-V Platform-Level Interrupt Controller 1.0.0, chapter 3 (registers).

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use dump_drivers::bus::pci::{Command, Function};
use spin::Once;

use super::{cpu, pci};
use crate::arch::Delivery;
use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Registers: priority of each line, 4 bytes; lines enabled for a context, one bit each; a context's
/// threshold; claim and complete.
const PRIORITY: usize = 0;
const ENABLE: usize = 0x2000;
const ENABLE_STEP: usize = 0x80;
const THRESHOLD: usize = 0x20_0000;
const CONTEXT_STEP: usize = 0x1000;
const CLAIM: usize = 4;
/// Maximum number of lines.
const LINES: u32 = 1024;

/// The CPU interrupt that the controller raises for supervisor mode.
const SUPERVISOR: u32 = 9;

/// Maximum number of handlers.
const HANDLERS: usize = 8;

/// The handler for a line.
struct Handler {
    line: u32,
    call: fn(usize),
    data: usize,
}

static HANDLER: [Once<Handler>; HANDLERS] = [const { Once::new() }; HANDLERS];
/// Number of handlers in use.
static GIVEN: AtomicUsize = AtomicUsize::new(0);
/// Virtual address of the controller; 0 if there is none.
static START: AtomicUsize = AtomicUsize::new(0);
/// The boot CPU's context in the controller.
static CONTEXT: AtomicU32 = AtomicU32::new(0);

/// Finds the controller, and the boot CPU's context in it.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(super) unsafe fn init() -> Result<(), &'static str> {
    let Some(controller) = device_tree::find("riscv,plic0") else { return Ok(()) };
    let (address, size) = device_tree::registers(controller, 0).ok_or("the PLIC has no registers")?;
    // The interrupt controller in the boot CPU's node: a context is one of its interrupts.
    let mut own = None;
    device_tree::each_cpu(|node, hart| {
        if hart == cpu::hart(0) {
            own = device_tree::child_handle(node, "interrupt-controller");
        }
    });
    let mut context = 0;
    let mut cells = device_tree::cells(controller, "interrupts-extended");
    // Each turn takes one of the controller's contexts.
    while let (Some(handle), Some(interrupt)) = (cells.next(), cells.next()) {
        if Some(handle) == own && interrupt == SUPERVISOR {
            let end = (THRESHOLD + CONTEXT_STEP * (context + 1)) as u64;
            if end > size {
                return Err("the PLIC has too few registers");
            }
            // SAFETY: these are its registers; the caller is booting.
            let seen = unsafe { paging::map_physical(address, end, Access::Device)? };
            CONTEXT.store(context as u32, Ordering::Relaxed);
            START.store(seen as usize, Ordering::Relaxed);
            write(threshold(), 0);
            return Ok(());
        }
        context += 1;
    }
    Ok(())
}

/// The line described by these cells of the device tree.
fn line([line, ..]: [u32; 3]) -> Option<u32> {
    (line != 0).then_some(line)
}

fn threshold() -> usize {
    THRESHOLD + CONTEXT_STEP * CONTEXT.load(Ordering::Relaxed) as usize
}

fn register_at(offset: usize) -> *mut u32 {
    (START.load(Ordering::Relaxed) as *mut u8).wrapping_add(offset).cast()
}

fn read(offset: usize) -> u32 {
    // SAFETY: a register of the controller, mapped by init(); callers check that it exists.
    unsafe { register_at(offset).read_volatile() }
}

fn write(offset: usize, value: u32) {
    // SAFETY: as above.
    unsafe { register_at(offset).write_volatile(value) };
}

/// Calls `call` with `data` on the boot CPU, with interrupts off, whenever the function asserts its line;
/// there is only `entry` 0. While a dump runs, the interrupt stays pending.
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

/// Calls `call` with `data` on the boot CPU, with interrupts off, whenever a device asserts this line.
///
/// # Errors
/// If there is no such line, or all handlers are in use.
fn register_line(line: u32, call: fn(usize), data: usize) -> Result<Delivery, &'static str> {
    if START.load(Ordering::Relaxed) == 0 || !(1..LINES).contains(&line) {
        return Err("there is no such interrupt line");
    }
    let slot = HANDLER.get(GIVEN.fetch_add(1, Ordering::Relaxed)).ok_or("no interrupt handler is left")?;
    slot.call_once(|| Handler { line, call, data });
    write(PRIORITY + 4 * line as usize, 1);
    let word = ENABLE + ENABLE_STEP * CONTEXT.load(Ordering::Relaxed) as usize + 4 * (line / 32) as usize;
    write(word, read(word) | 1 << (line % 32));
    Ok(Delivery::Line)
}

/// Enables interrupts on this CPU.
pub(crate) fn enable() {
    cpu::enable_device_interrupts();
}

/// Handles a device interrupt.
#[inline(never)]
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn take() {
    if START.load(Ordering::Relaxed) == 0 {
        return;
    }
    let claim = threshold() + CLAIM;
    let line = read(claim);
    // Several handlers may share a line.
    for handler in HANDLER.iter().filter_map(Once::get).filter(|handler| handler.line == line) {
        (handler.call)(handler.data);
    }
    if line != 0 {
        write(claim, line);
    }
}

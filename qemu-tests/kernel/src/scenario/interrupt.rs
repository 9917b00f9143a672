//! Tests that device interrupts reach their handler, with QEMU's educational device, which raises one on
//! request (QEMU, docs/specs/edu).

use core::sync::atomic::{AtomicU32, Ordering};

use dump_drivers::bus::pci::{Bar, Command, functions};
use dump_drivers::{Mmio, Registers};
use spin::Once;

use crate::arch::{clock, cpu, irq, pci};
use crate::device;
use crate::log::log;

/// Vendor and device id.
const ID: (u16, u16) = (0x1234, 0x11e8);
/// Writing reasons here raises an interrupt.
const RAISE: usize = 0x60;
/// The pending reasons.
const REASONS: usize = 0x24;
/// Writing reasons here acknowledges them.
const QUIET: usize = 0x64;
/// Size of the registers in use.
const LENGTH: usize = 0x100;

/// Number of interrupts to raise.
const ROUNDS: u32 = 100;
/// How long an interrupt may take to arrive, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;
/// The argument for the handler.
const WORD: usize = 0x5157;

/// The device's registers.
struct Edu(Mmio);
// SAFETY: independent reads and writes of its registers.
unsafe impl Sync for Edu {}

static EDU: Once<Edu> = Once::new();
/// The sum of all reasons seen by the handler.
static SEEN: AtomicU32 = AtomicU32::new(0);

fn handle(word: usize) {
    if let Some(Edu(registers)) = EDU.get()
        && word == WORD
    {
        let reasons = registers.read32(REASONS);
        registers.write32(QUIET, reasons);
        SEEN.fetch_add(reasons, Ordering::Relaxed);
    }
}

/// Raises interrupts, one after another, each with its own reason.
pub(crate) fn run() -> Result<(), &'static str> {
    let function = functions(&pci::config())
        .find(|function| (function.vendor, function.device) == ID)
        .ok_or("there is no such device (QEMU: -device edu)")?;
    let Some(Bar::Memory { address, .. }) = function.bar(&pci::config(), 0) else {
        return Err("the device has no registers");
    };
    function
        .change_command(&pci::config(), Command::MEMORY, Command::empty())
        .map_err(|_| "its PCI command cannot be changed")?;
    let registers = device::map_device(address, LENGTH).ok_or("its registers cannot be mapped")?;
    let registers = &EDU.call_once(|| Edu(registers)).0;
    let delivery = irq::register(&function, 0, handle, WORD)?;
    irq::enable();
    let mut expected = 0;
    for reason in 1..=ROUNDS {
        registers.write32(RAISE, reason);
        expected += reason;
        let deadline = clock::now() + PATIENCE;
        while SEEN.load(Ordering::Relaxed) != expected {
            if clock::now() > deadline {
                return Err("an interrupt did not arrive");
            }
            core::hint::spin_loop();
        }
    }
    cpu::disable_interrupts();
    log!("testkernel: {ROUNDS} interrupts arrived, each as a {delivery:?}");
    Ok(())
}

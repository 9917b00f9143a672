//! A hardware watchdog: the Intel 6300ESB's, which QEMU provides as `-device i6300esb`.
//!
//! The healthy kernel pats it, and so does a dump, through `Platform::pat_watchdog`. Without pats it fires:
//! with QEMU's `-action watchdog=inject-nmi`, by an NMI.
//!
//! Specification: Intel 6300ESB I/O Controller Hub datasheet (300641), chapter 16.

use core::sync::atomic::{AtomicU64, Ordering};

use dump_drivers::bus::pci::{Bar, Function, functions};
use dump_drivers::{ConfigSpace, Mmio, Registers};
use spin::Once;

use crate::arch::{clock, console, pci};
use crate::device;

/// Vendor and device id.
const ID: (u16, u16) = (0x8086, 0x25ab);
/// In configuration space: mode of the timer, 16 bits.
const CONFIG: u16 = 0x60;
/// In that: no interrupt at the end of the first stage. The other bits are zero: a tick of [`TICK`], and a
/// reset at the end of the second stage.
const CONFIG_ONLY_BITE: u16 = 0x3;
/// 2^15 PCI clocks of 30 ns, in nanoseconds.
const TICK: u64 = 983_040;
/// In configuration space: timer enable, 8 bits.
const LOCK: u8 = 0x68;
/// In that: the timer runs.
const LOCK_ENABLE: u8 = 1 << 1;
/// Registers: the length of each stage in ticks, 20 bits.
const STAGE_1: usize = 0x00;
const STAGE_2: usize = 0x04;
/// The register that restarts the first stage, 16 bits.
const RELOAD: usize = 0x0c;
/// In that: restart.
const RELOAD_NOW: u16 = 1 << 8;
/// The unlock sequence: each write must be preceded by writes of these to [`RELOAD`].
const ANNOUNCE: [u16; 2] = [0x80, 0x86];
/// Size of the registers in bytes.
const LENGTH: usize = 0x10;

/// A running watchdog.
struct Watchdog {
    function: Function,
    registers: Mmio,
    /// Its timeout in nanoseconds, for both stages together.
    patience: u64,
}

// SAFETY: a pat is a few writes to its registers. If two CPUs pat at once, at worst a pat is lost.
unsafe impl Sync for Watchdog {}

static WATCHDOG: Once<Watchdog> = Once::new();
/// Time of the healthy kernel's last pat, in nanoseconds.
static PATTED: AtomicU64 = AtomicU64::new(0);

/// Finds the watchdog and starts it: it fires without a pat for `milliseconds`.
pub(crate) fn start(milliseconds: u32) -> Result<(), &'static str> {
    let function = functions(&pci::config())
        .find(|function| (function.vendor, function.device) == ID)
        .ok_or("there is no watchdog (QEMU: -device i6300esb)")?;
    let Some(Bar::Memory { address, .. }) = function.bar(&pci::config(), 0) else {
        return Err("the watchdog has no registers");
    };
    let registers = device::map_device(address, LENGTH).ok_or("the watchdog's registers cannot be mapped")?;
    let patience = u64::from(milliseconds) * 1_000_000;
    WATCHDOG.call_once(|| Watchdog { function, registers, patience });
    restart();
    Ok(())
}

impl Watchdog {
    /// A write with the unlock sequence before it.
    fn announced(&self, write: impl FnOnce(&Mmio)) {
        ANNOUNCE.iter().for_each(|word| self.registers.write16(RELOAD, *word));
        write(&self.registers);
    }
}

/// Restarts a watchdog that was started before: once it has fired, it stops and forgets its stages.
pub(crate) fn restart() {
    if let Some(watchdog) = WATCHDOG.get() {
        let ticks = (watchdog.patience / 2 / TICK).clamp(1, 0xf_ffff) as u32;
        for stage in [STAGE_1, STAGE_2] {
            watchdog.announced(|registers| registers.write32(stage, ticks));
        }
        pci::config().write16(watchdog.function.address, CONFIG, CONFIG_ONLY_BITE);
        pci::write8(watchdog.function.address, LOCK, LOCK_ENABLE);
        pat();
    }
}

/// Pats the watchdog for the healthy kernel.
pub(crate) fn pat() {
    PATTED.store(clock::now(), Ordering::Relaxed);
    reload();
}

/// Restarts the watchdog's timeout, if there is one. For the dump: changes no memory.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn reload() {
    if let Some(watchdog) = WATCHDOG.get() {
        watchdog.announced(|registers| registers.write16(RELOAD, RELOAD_NOW));
    }
}

/// Whether the kernel has failed to pat the watchdog in time, so that an NMI comes from it. The two clocks
/// are not synchronised, so three quarters of the timeout are enough.
#[allow(dead_code, reason = "it takes an NMI to ask, and not every architecture has one")]
pub(crate) fn is_starved() -> bool {
    let since = clock::now().saturating_sub(PATTED.load(Ordering::Relaxed));
    WATCHDOG.get().is_some_and(|watchdog| since >= watchdog.patience / 4 * 3)
}

/// Reports after a dump whether the watchdog stayed quiet, if there is one: it stops once it has fired.
pub(crate) fn report() {
    if let Some(watchdog) = WATCHDOG.get() {
        let runs = pci::read8(watchdog.function.address, LOCK) & LOCK_ENABLE != 0;
        let state =
            if runs { "testkernel: the watchdog kept quiet\n" } else { "testkernel: the watchdog bit\n" };
        console::write_raw(state);
    }
}

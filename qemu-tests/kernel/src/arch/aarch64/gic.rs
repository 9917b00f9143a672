//! The interrupt controller, GICv3: interrupts between CPUs, per-CPU timers, and device lines.
//!
//! A request to stop is in group 0, which is delivered as FIQ: no code of this kernel masks FIQs for long, so
//! it reaches CPUs that have interrupts off. Everything else is in group 1 and delivered as IRQ.
//!
//! Specification: Arm Generic Interrupt Controller, version 3 and 4 (IHI 0069), chapter 12.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::crashdump_mode;

use super::cpu;
use crate::arch::paging::{self, Access};
use crate::arch::virt::device_tree;

/// Tells a CPU to stop.
pub(super) const STOP: u32 = 0;
/// Wakes a resting CPU.
pub(super) const WAKE: u32 = 1;
/// The virtual timer of each CPU.
pub(super) const TIMER: u32 = 27;
/// The first device line.
pub(super) const FIRST_LINE: u32 = 32;
/// First number after the device lines.
const LAST_LINE: u32 = 1020;

/// Priorities; lower numbers come first.
const URGENT: u8 = 0x00;
const USUAL: u8 = 0x40;
const DEVICES: u8 = 0xa0;
/// Values of the priority mask: all interrupts, or all except devices.
const ALL: u64 = 0xff;
const ALL_BUT_DEVICES: u64 = 0x80;

/// Registers of the distributor. GICD_CTLR: both groups, affinity routing.
const GICD_CTLR: usize = 0x0;
const GICD_CTLR_ON: u32 = 1 << 4 | 1 << 1 | 1 << 0;
/// Groups, one bit per line; enables, one bit; priorities, one byte; edge or level, two bits; routing, 8
/// bytes.
const GICD_IGROUPR: usize = 0x80;
const GICD_ISENABLER: usize = 0x100;
const GICD_IPRIORITYR: usize = 0x400;
const GICD_ICFGR: usize = 0xc00;
const GICD_IROUTER: usize = 0x6000;

/// Registers of a redistributor: identity; sleep. Its second half has groups, enables and priorities like the
/// distributor.
const GICR_TYPER: usize = 0x8;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: usize = 0x14;
const GICR_WAKER_SLEEP: u32 = 1 << 1;
const GICR_WAKER_ASLEEP: u32 = 1 << 2;
const GICR_SGI: usize = 0x1_0000;
/// Size of a redistributor without virtual interrupts (GICv3), in bytes.
const GICR_SIZE: u64 = 0x2_0000;
/// Maximum number of polls for a redistributor to wake up.
const PATIENCE: u32 = 1_000_000;

/// Virtual address of the distributor; address and total size of the redistributors.
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);
static REDISTRIBUTORS_SIZE: AtomicU64 = AtomicU64::new(0);

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register of this CPU's interface to the controller; callers know its side effects.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: writes a register of this CPU's interface to the controller; callers know its effects.
        unsafe { asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// A memory-mapped register of the controller.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn distributor(offset: usize) -> Place {
        Place(DISTRIBUTOR.load(Ordering::Relaxed) + offset as u64)
    }

    fn at(self, offset: usize) -> Place {
        Place(self.0 + offset as u64)
    }

    fn read(self) -> u32 {
        // SAFETY: init() has mapped the registers; those read here have no side effects.
        unsafe { (self.0 as *const u32).read_volatile() }
    }

    fn write(self, value: u32) {
        // SAFETY: as above; the values are those in the manual.
        unsafe { (self.0 as *mut u32).write_volatile(value) }
    }

    fn read64(self) -> u64 {
        // SAFETY: as above.
        unsafe { (self.0 as *const u64).read_volatile() }
    }

    fn write64(self, value: u64) {
        // SAFETY: as above.
        unsafe { (self.0 as *mut u64).write_volatile(value) }
    }

    fn write8(self, value: u8) {
        // SAFETY: as above.
        unsafe { (self.0 as *mut u8).write_volatile(value) }
    }
}

/// Finds, maps and enables the controller.
///
/// # Safety
/// Once, on the boot CPU while booting, with the final page tables.
pub(super) unsafe fn init() -> Result<(), &'static str> {
    let node =
        device_tree::find("arm,gic-v3").ok_or("there is no GICv3 (QEMU: -machine virt,gic-version=3)")?;
    for (index, place, size) in [(0, &DISTRIBUTOR, None), (1, &REDISTRIBUTORS, Some(&REDISTRIBUTORS_SIZE))] {
        let (address, length) =
            device_tree::registers(node, index).ok_or("the interrupt controller has too few registers")?;
        // QEMU reserves space for more redistributors than there are CPUs.
        let length = length.min(cpu::MAX_CPUS as u64 * GICR_SIZE);
        // SAFETY: these are its registers; the caller is booting.
        let seen = unsafe { paging::map_physical(address, length, Access::Device)? };
        place.store(seen as u64, Ordering::Relaxed);
        if let Some(size) = size {
            size.store(length, Ordering::Relaxed);
        }
    }
    Place::distributor(GICD_CTLR).write(GICD_CTLR_ON);
    Ok(())
}

/// This CPU's redistributor.
fn redistributor() -> Option<Place> {
    let own = cpu::own_affinity();
    // In that register, affinity 3 is in another place.
    let own = own >> 32 << 24 | own & 0xff_ffff;
    let size = REDISTRIBUTORS_SIZE.load(Ordering::Relaxed);
    for offset in (0..size).step_by(GICR_SIZE as usize) {
        let place = Place(REDISTRIBUTORS.load(Ordering::Relaxed) + offset);
        let identity = place.at(GICR_TYPER).read64();
        if identity >> 32 == own {
            return Some(place);
        }
        if identity & GICR_TYPER_LAST != 0 {
            break;
        }
    }
    None
}

/// Enables interrupts from other CPUs and the timer interrupt on this CPU.
pub(super) fn enable() -> Result<(), &'static str> {
    let own = redistributor().ok_or("a CPU has no redistributor of interrupts")?;
    own.at(GICR_WAKER).write(own.at(GICR_WAKER).read() & !GICR_WAKER_SLEEP);
    if !(0..PATIENCE).any(|_| own.at(GICR_WAKER).read() & GICR_WAKER_ASLEEP == 0) {
        return Err("a redistributor of interrupts does not wake up");
    }
    let own = own.at(GICR_SGI);
    own.at(GICD_IGROUPR).write(!(1 << STOP));
    for (interrupt, priority) in [(STOP, URGENT), (WAKE, USUAL), (TIMER, USUAL)] {
        own.at(GICD_IPRIORITYR + interrupt as usize).write8(priority);
        own.at(GICD_ISENABLER).write(1 << interrupt);
    }
    // System registers instead of memory; lowest mask; both groups on.
    write!("icc_sre_el1", read!("icc_sre_el1") | 1);
    write!("icc_pmr_el1", ALL);
    write!("icc_bpr0_el1", 0);
    write!("icc_bpr1_el1", 0);
    write!("icc_ctlr_el1", 0);
    write!("icc_igrpen0_el1", 1);
    write!("icc_igrpen1_el1", 1);
    Ok(())
}

/// The destination in a message: affinities 3, 2 and 1, and a bit for affinity 0.
fn target(affinity: u64) -> u64 {
    let [zero, one, two] = [affinity & 0xff, affinity >> 8 & 0xff, affinity >> 16 & 0xff];
    (affinity >> 32 & 0xff) << 48 | (zero >> 4) << 44 | two << 32 | one << 16 | 1 << (zero & 15)
}

/// Sends an interrupt to the CPU with this affinity.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn send(affinity: u64, interrupt: u32) {
    let word = target(affinity) | u64::from(interrupt) << 24;
    // Make earlier writes visible to the receiving CPU.
    // SAFETY: a barrier only affects order.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    if interrupt == STOP {
        write!("icc_sgi0r_el1", word);
    } else {
        write!("icc_sgi1r_el1", word);
    }
}

/// Takes the pending FIQ and ends it at once, because a stopped CPU never returns here. Returns its number;
/// 1020 and above mean none.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn take_fiq() -> u32 {
    let interrupt = read!("icc_iar0_el1");
    if interrupt < LAST_LINE.into() {
        write!("icc_eoir0_el1", interrupt);
    }
    interrupt as u32
}

/// Takes the pending interrupt. Returns its number; 1020 and above mean none.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn take() -> Option<u32> {
    let interrupt = read!("icc_iar1_el1") as u32;
    (interrupt < LAST_LINE).then_some(interrupt)
}

/// Ends an interrupt that was taken.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn end(interrupt: u32) {
    write!("icc_eoir1_el1", interrupt.into());
}

/// While a dump runs, keeps device interrupts pending on this CPU. Returns the previous mask.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn keep_devices_away() -> u64 {
    let before = read!("icc_pmr_el1");
    if crashdump_mode() {
        write!("icc_pmr_el1", ALL_BUT_DEVICES);
    }
    before
}

/// Restores the mask from [`keep_devices_away`].
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn let_through(before: u64) {
    write!("icc_pmr_el1", before);
}

/// Enables a level-triggered device line on this CPU.
pub(super) fn connect(line: u32) -> Result<(), &'static str> {
    if !(FIRST_LINE..LAST_LINE).contains(&line) {
        return Err("there is no such interrupt line");
    }
    let number = line as usize;
    let change = |offset, set: u32, clear: u32| {
        let place = Place::distributor(offset);
        place.write(place.read() & !clear | set);
    };
    change(GICD_IGROUPR + number / 32 * 4, 1 << (number % 32), 0);
    change(GICD_ICFGR + number / 16 * 4, 0, 0b11 << (number % 16 * 2));
    Place::distributor(GICD_IPRIORITYR + number).write8(DEVICES);
    Place::distributor(GICD_IROUTER + number * 8).write64(cpu::own_affinity());
    Place::distributor(GICD_ISENABLER + number / 32 * 4).write(1 << (number % 32));
    Ok(())
}

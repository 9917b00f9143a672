//! Page tables (Sv39): the kernel in the upper half, all RAM in the direct map, devices beside it.
//!
//! | virtual | contents |
//! | --- | --- |
//! | `DIRECT_MAP` + physical | RAM, and device registers that a driver requested |
//! | `KERNEL_BASE` + physical | the kernel: text read-only, data not executable |
//!
//! Every entry has its accessed and dirty bits preset. Otherwise the CPU sets them, or faults, and a dump
//! would change the page tables that it is about to read. How device registers are cached depends on their
//! address: the machine decides that (physical memory attributes), not the page tables.
//!
//! Specification: RISC-V Privileged Architecture 1.12, 4.4 (Sv39) and 4.2.1 (SFENCE.VMA).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use dumpcore::PageClass;

use super::stack;
use crate::memory;
pub(crate) use crate::memory::Access;

/// Virtual address of physical address 0.
pub(crate) const DIRECT_MAP: u64 = 0xffff_ffc0_0000_0000;
/// Virtual minus physical address of the kernel's own image, as in layout.ld.
pub(crate) const KERNEL_BASE: u64 = 0xffff_ffff_0000_0000;
/// End of the physical addresses in the direct map, where the kernel's image begins.
const DIRECT_END: u64 = KERNEL_BASE + (2 << 30) - DIRECT_MAP;

/// In satp: Sv39.
const SV39: u64 = 8 << 60;
/// Number of entries in a table.
const ENTRIES: u64 = 512;
/// Size of a page, and of a large page.
const PAGE: u64 = 4096;
const LARGE: u64 = ENTRIES * PAGE;

bitflags! {
    /// Bits of an entry.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Bits: u64 {
        const VALID = 1 << 0;
        const READ = 1 << 1;
        const WRITE = 1 << 2;
        const EXECUTE = 1 << 3;
        const ACCESSED = 1 << 6;
        const DIRTY = 1 << 7;
        /// Bits of every page.
        const PAGE = Self::VALID.bits() | Self::READ.bits() | Self::ACCESSED.bits() | Self::DIRTY.bits();
        /// Bits that only pages have: an entry without any of them points to a table.
        const LEAF = Self::READ.bits() | Self::WRITE.bits() | Self::EXECUTE.bits();
    }
}

static ROOT: AtomicU64 = AtomicU64::new(0);

impl Access {
    fn bits(self) -> Bits {
        match self {
            Access::Execute => Bits::PAGE | Bits::EXECUTE,
            Access::Read => Bits::PAGE,
            Access::Write | Access::Device => Bits::PAGE | Bits::WRITE,
        }
    }
}

/// The virtual address of a physical address in the direct map.
pub(crate) const fn direct(physical: u64) -> *mut u8 {
    DIRECT_MAP.wrapping_add(physical) as *mut u8
}

/// The physical address of an object in the kernel's image or the direct map.
pub(crate) fn physical(address: *const u8) -> u64 {
    let address = address as u64;
    if address >= DIRECT_MAP + DIRECT_END { address - KERNEL_BASE } else { address - DIRECT_MAP }
}

/// An entry of a table.
#[derive(Clone, Copy)]
struct Entry(*mut u64);

impl Entry {
    /// The entry for a virtual address in a table; at level 2 an entry covers a GiB, at level 0 a page.
    fn of(table: u64, address: u64, level: u32) -> Entry {
        let index = address >> (12 + 9 * level) & (ENTRIES - 1);
        Entry(direct(table + 8 * index).cast())
    }

    fn read(self) -> (u64, Bits) {
        // SAFETY: tables are in the direct map; only the boot CPU changes them, and only through here.
        let value = unsafe { self.0.read_volatile() };
        ((value >> 10) << 12, Bits::from_bits_truncate(value))
    }

    fn write(self, physical: u64, bits: Bits) {
        // SAFETY: as above.
        unsafe { self.0.write_volatile(physical >> 12 << 10 | bits.bits()) };
    }
}

fn new_table() -> Result<u64, &'static str> {
    let frame = memory::take(1, 1, PageClass::PageTable).ok_or("no memory for page tables")?;
    // SAFETY: the frame is ours, and in the direct maps of the boot tables and of the final ones.
    unsafe { direct(frame).write_bytes(0, PAGE as usize) };
    Ok(frame)
}

/// The entry that maps an address: that of a page, or an invalid one at `level`, creating tables on the way.
fn find(address: u64, level: u32) -> Result<(Entry, u32), &'static str> {
    let mut table = root();
    for above in (level + 1..=2).rev() {
        let entry = Entry::of(table, address, above);
        let (next, bits) = entry.read();
        if bits.intersects(Bits::LEAF) {
            return Ok((entry, above));
        }
        table = next;
        if !bits.contains(Bits::VALID) {
            table = new_table()?;
            entry.write(table, Bits::VALID);
        }
    }
    Ok((Entry::of(table, address, level), level))
}

/// Maps a range; both addresses and the length are multiples of 4096. Existing mappings stay unchanged.
fn map(to: u64, from: u64, length: u64, access: Access) -> Result<(), &'static str> {
    let mut done = 0;
    while done < length {
        let (to, from, left) = (to + done, from + done, length - done);
        let large = to.is_multiple_of(LARGE) && from.is_multiple_of(LARGE) && left >= LARGE;
        let (level, size) = if large { (1, LARGE) } else { (0, PAGE) };
        let (entry, _) = find(to, level)?;
        if !entry.read().1.contains(Bits::VALID) {
            entry.write(from, access.bits());
        }
        done += size;
    }
    refresh();
    Ok(())
}

/// Splits a large page of 2 MiB into small ones. All of it stays mapped meanwhile: the new table may be in
/// it.
fn divide(large: Entry) -> Result<(), &'static str> {
    let (first, bits) = large.read();
    let table = new_table()?;
    for place in 0..ENTRIES {
        Entry(direct(table + 8 * place).cast()).write(first + place * PAGE, bits);
    }
    large.write(table, Bits::VALID);
    refresh();
    Ok(())
}

/// Unmaps the page at this address; returns its level.
fn unmap(address: u64) -> Result<u32, &'static str> {
    let (entry, level) = find(address, 0)?;
    if !entry.read().1.intersects(Bits::LEAF) {
        return Err("what is to be taken away is not mapped");
    }
    entry.write(0, Bits::empty());
    Ok(level)
}

/// Removes `count` frames from the direct map, so that reading them faults. A large page around them is split
/// first. Other CPUs must call [`refresh`] before they see it.
///
/// # Safety
/// On the boot CPU while booting. The frames belong to the caller and are only read by a dump.
pub(crate) unsafe fn hide(first: u64, count: u64) -> Result<(), &'static str> {
    for physical in (first..).step_by(PAGE as usize).take(count as usize) {
        let (entry, level) = find(DIRECT_MAP + physical, 0)?;
        if level == 1 {
            divide(entry)?;
        }
        unmap(DIRECT_MAP + physical)?;
    }
    refresh();
    Ok(())
}

/// Creates the final tables, lets `map_console` map the console's registers in them, and switches to them.
///
/// # Safety
/// Once, on the boot CPU, on the boot tables, before other CPUs run.
pub(super) unsafe fn init(map_console: unsafe fn() -> Result<(), &'static str>) -> Result<(), &'static str> {
    ROOT.store(new_table()?, Ordering::Relaxed);
    for part in memory::kernel_image() {
        map(part.start, part.start - KERNEL_BASE, part.end - part.start, part.access)?;
    }
    for guard in stack::guards() {
        if unmap(guard)? != 0 {
            return Err("a stack has no page of its own to guard it");
        }
    }
    for range in memory::ram().iter() {
        if range.end > DIRECT_END {
            return Err("there is more RAM than the direct map can show");
        }
        map(DIRECT_MAP + range.start, range.start, range.end - range.start, Access::Write)?;
    }
    // SAFETY: once, before the tables are in use.
    unsafe { map_console()? };
    // SAFETY: the new tables map the code, the stack, and all memory that we have pointers to.
    unsafe { asm!("csrw satp, {}", in(reg) satp(), options(nostack)) };
    refresh();
    Ok(())
}

/// Flushes this CPU's cached translations.
pub(crate) fn refresh() {
    // SAFETY: they are read from the tables again.
    unsafe { asm!("sfence.vma", options(nostack)) };
}

/// Physical address of the root table.
fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// The value of satp for the final tables.
pub(super) fn satp() -> u64 {
    SV39 | root() >> 12
}

/// Maps `length` bytes at a physical address, such as device registers; returns the virtual address.
///
/// # Safety
/// On the boot CPU while booting. The address is that of a device, or of otherwise unused memory.
pub(crate) unsafe fn map_physical(from: u64, length: u64, access: Access) -> Result<*mut u8, &'static str> {
    let first = from & !(PAGE - 1);
    let end = from
        .checked_add(length)
        .filter(|end| *end <= DIRECT_END)
        .ok_or("a device lies beyond the direct map")?;
    map(DIRECT_MAP + first, first, end.next_multiple_of(PAGE) - first, access)?;
    Ok(direct(from))
}

//! Page tables (48-bit addresses, pages of 4 KiB): the kernel in the upper half, all RAM in the direct map,
//! devices beside it.
//!
//! | virtual | contents |
//! | --- | --- |
//! | `DIRECT_MAP` + physical | RAM, and device registers that a driver requested |
//! | `KERNEL_BASE` + physical | the kernel: text read-only, data not executable |
//!
//! The lower half is switched off. Every entry has its access flag preset, and hardware updates of the flags
//! are off: otherwise a dump would change the page tables that it is about to read.
//!
//! Specification: Arm Architecture Reference Manual (DDI 0487), D8.3 (descriptors) and D8.14 (changing them).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::PageClass;

use super::stack;
use crate::memory;
pub(crate) use crate::memory::Access;

/// Virtual address of physical address 0.
pub(crate) const DIRECT_MAP: u64 = 0xffff_0000_0000_0000;
/// Virtual minus physical address of the kernel's own image, as in layout.ld.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// End of the physical addresses in the direct map: the kernel's addresses follow.
const DIRECT_END: u64 = 1 << 46;

/// Size of a page, and of a block mapped by a level 2 entry.
const PAGE: u64 = 4096;
const BLOCK: u64 = 512 * PAGE;
/// The level of pages, and of blocks.
const PAGES: u32 = 3;
const BLOCKS: u32 = 2;

/// In an entry: valid; points to a table, or to a page on the last level.
const VALID: u64 = 1 << 0;
const TABLE: u64 = 1 << 1;
/// The attribute index, as boot.s has set it up: cached memory, or else device memory (nGnRE).
const CACHED: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
/// Not executable by the kernel; not executable by user code.
const KERNEL_NO_EXECUTE: u64 = 1 << 53;
const USER_NO_EXECUTE: u64 = 1 << 54;
/// The physical address in an entry.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

static ROOT: AtomicU64 = AtomicU64::new(0);

impl Access {
    fn bits(self) -> u64 {
        const MEMORY: u64 = VALID | ACCESSED | USER_NO_EXECUTE | CACHED | INNER_SHAREABLE;
        match self {
            Access::Execute => MEMORY | READ_ONLY,
            Access::Read => MEMORY | READ_ONLY | KERNEL_NO_EXECUTE,
            Access::Write => MEMORY | KERNEL_NO_EXECUTE,
            Access::Device => VALID | ACCESSED | USER_NO_EXECUTE | KERNEL_NO_EXECUTE,
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
    if address >= KERNEL_BASE { address - KERNEL_BASE } else { address - DIRECT_MAP }
}

/// An entry of a table.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    /// The entry for a virtual address in a table of this level, 0 to 3.
    fn of(table: u64, address: u64, level: u32) -> Entry {
        Entry(table + 8 * (address >> (39 - 9 * level) & 511))
    }

    fn read(self) -> u64 {
        // SAFETY: tables are in the direct map; only the boot CPU changes them, and only through here.
        unsafe { direct(self.0).cast::<u64>().read_volatile() }
    }

    fn write(self, value: u64) {
        // SAFETY: as above. The next walk of any CPU sees the new value.
        unsafe {
            direct(self.0).cast::<u64>().write_volatile(value);
            asm!("dsb ishst", "isb", options(nostack, preserves_flags));
        }
    }
}

fn new_table() -> Result<u64, &'static str> {
    let frame = memory::take(1, 1, PageClass::PageTable).ok_or("no memory for page tables")?;
    // SAFETY: the frame is ours. It is mapped by the boot tables' direct map, from whose part of RAM frames
    // are taken first, and by the final one.
    unsafe { direct(frame).write_bytes(0, PAGE as usize) };
    Ok(frame)
}

/// The entry of a level for an address, creating tables on the way; or the entry of a higher level, if that
/// maps a block.
fn find(address: u64, level: u32) -> Result<(Entry, u32), &'static str> {
    let mut table = ROOT.load(Ordering::Relaxed);
    for above in 0..level {
        let entry = Entry::of(table, address, above);
        let value = entry.read();
        if value & (VALID | TABLE) == VALID {
            return Ok((entry, above));
        }
        table = value & ADDRESS;
        if value & VALID == 0 {
            table = new_table()?;
            entry.write(table | TABLE | VALID);
        }
    }
    Ok((Entry::of(table, address, level), level))
}

/// Maps a range; both addresses and the length are multiples of 4096. Existing mappings stay unchanged.
fn map(to: u64, from: u64, length: u64, access: Access) -> Result<(), &'static str> {
    let mut done = 0;
    while done < length {
        let (to, from, left) = (to + done, from + done, length - done);
        let large = to.is_multiple_of(BLOCK) && from.is_multiple_of(BLOCK) && left >= BLOCK;
        let (level, size, kind) = if large { (BLOCKS, BLOCK, 0) } else { (PAGES, PAGE, TABLE) };
        let (entry, _) = find(to, level)?;
        if entry.read() & VALID == 0 {
            entry.write(from | access.bits() | kind);
        }
        done += size;
    }
    Ok(())
}

/// Splits the direct map's block around a physical address into pages. The block must not be used meanwhile:
/// an entry has to be invalidated before it is replaced by another kind.
fn divide(entry: Entry, physical: u64) -> Result<(), &'static str> {
    let first = physical & !(BLOCK - 1);
    let inside = |place: u64| place & !(BLOCK - 1) == first;
    if inside(entry.0) {
        return Err("the frames lie among page tables");
    }
    // The block is unmapped for a moment, but the table must not be. A block has a limited number of frames.
    let mut table = new_table()?;
    for _ in 0..BLOCK / PAGE {
        if inside(table) {
            table = new_table()?;
        }
    }
    for (index, page) in (first..first + BLOCK).step_by(PAGE as usize).enumerate() {
        Entry(table + 8 * index as u64).write(page | Access::Write.bits() | TABLE);
    }
    entry.write(0);
    forget_everywhere();
    entry.write(table | TABLE | VALID);
    Ok(())
}

/// Removes `count` frames from the direct map, so that reading them faults. A block around them is split
/// first.
///
/// # Safety
/// On the boot CPU while booting. The frames belong to the caller and are only read by a dump. No memory less
/// than 2 MiB away is used meanwhile.
pub(crate) unsafe fn hide(first: u64, count: u64) -> Result<(), &'static str> {
    for physical in (first..).step_by(PAGE as usize).take(count as usize) {
        let (entry, level) = find(DIRECT_MAP + physical, PAGES)?;
        if level != PAGES {
            divide(entry, physical)?;
        }
        let (entry, _) = find(DIRECT_MAP + physical, PAGES)?;
        if entry.read() & VALID == 0 {
            return Err("a frame is not in the direct map");
        }
        entry.write(0);
    }
    forget_everywhere();
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
        let (entry, level) = find(guard, PAGES)?;
        if level != PAGES {
            return Err("a stack has no page of its own to guard it");
        }
        entry.write(0);
    }
    for range in memory::ram().iter() {
        if range.end > DIRECT_END {
            return Err("there is more RAM than the direct map can show");
        }
        map(DIRECT_MAP + range.start, range.start, range.end - range.start, Access::Write)?;
    }
    // SAFETY: on the boot CPU, before the tables are in use; they map the code, the stacks, and all memory
    // that we have pointers to.
    unsafe {
        map_console()?;
        adopt();
    }
    Ok(())
}

/// Switches this CPU to the final tables and disables the lower half.
///
/// # Safety
/// On the boot tables; the lower half is not used any more.
pub(super) unsafe fn adopt() {
    unsafe extern "C" {
        /// In boot.s.
        fn adopt_tables(root: u64);
    }
    // SAFETY: the caller's promise. The tables map everything that the kernel uses at the same addresses as
    // the boot tables.
    unsafe { adopt_tables(ROOT.load(Ordering::Relaxed)) }
}

/// Flushes this CPU's cached translations.
pub(crate) fn refresh() {
    // SAFETY: they are read from the tables again.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Flushes all CPUs' cached translations.
fn forget_everywhere() {
    // SAFETY: they are read from the tables again.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Maps `length` bytes at a physical address, such as device registers; returns the virtual address.
///
/// # Safety
/// On the boot CPU while booting. The address is that of a device, or of otherwise unused memory.
pub(crate) unsafe fn map_physical(from: u64, length: u64, access: Access) -> Result<*mut u8, &'static str> {
    let first = from & !(PAGE - 1);
    let end = from.checked_add(length).filter(|end| *end <= DIRECT_END);
    let end = end.ok_or("a device lies beyond the direct map")?.next_multiple_of(PAGE);
    map(DIRECT_MAP + first, first, end - first, access)?;
    Ok(direct(from))
}

//! Page tables: the kernel in the upper half, all RAM in the direct map, devices beside it.
//!
//! | virtual | contents |
//! | --- | --- |
//! | `DIRECT_MAP` + physical | RAM, and device registers that a driver requested |
//! | `KERNEL_BASE` + physical | the kernel: text read-only, data not executable |
//!
//! Every entry has its accessed and dirty bits preset. Otherwise the CPU sets them, and a dump would change
//! the page tables that it is about to read.

use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::PageClass;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size2MiB,
    Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::stack;
use crate::memory;
pub(crate) use crate::memory::Access;

/// Virtual address of physical address 0.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual minus physical address of the kernel's own image, as in layout.ld.
pub(crate) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// Bits of every table entry.
const TABLE: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::ACCESSED);
/// Bits of every page.
const PAGE: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::ACCESSED).union(PageTableFlags::DIRTY);

static ROOT: AtomicU64 = AtomicU64::new(0);

impl Access {
    fn flags(self) -> PageTableFlags {
        match self {
            Access::Execute => PAGE,
            Access::Read => PAGE | PageTableFlags::NO_EXECUTE,
            Access::Write => PAGE | PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
            Access::Device => {
                PAGE | PageTableFlags::NO_EXECUTE
                    | PageTableFlags::WRITABLE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
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

struct TableFrames;

// SAFETY: memory::take hands out each frame once.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = memory::take(1, 1, PageClass::PageTable)?;
        // SAFETY: the frame is ours, and in the direct map: the boot tables map the first GiB, from which
        // frames are taken first, and the final ones map all RAM.
        unsafe { direct(frame).write_bytes(0, 4096) };
        Some(PhysFrame::containing_address(PhysAddr::new(frame)))
    }
}

/// Maps a range; both addresses and the length are multiples of 4096. Existing mappings stay unchanged.
fn map(
    tables: &mut OffsetPageTable<'_>,
    to: u64,
    from: u64,
    length: u64,
    access: Access,
) -> Result<(), &'static str> {
    let mut done = 0;
    while done < length {
        let (to, from, left) = (to + done, from + done, length - done);
        let large = to.is_multiple_of(Size2MiB::SIZE)
            && from.is_multiple_of(Size2MiB::SIZE)
            && left >= Size2MiB::SIZE;
        done += if large {
            map_page::<Size2MiB>(tables, to, from, access.flags())?;
            Size2MiB::SIZE
        } else {
            map_page::<Size4KiB>(tables, to, from, access.flags())?;
            Size4KiB::SIZE
        };
    }
    Ok(())
}

fn map_page<'t, S: PageSize>(
    tables: &mut OffsetPageTable<'t>,
    to: u64,
    from: u64,
    flags: PageTableFlags,
) -> Result<(), &'static str>
where
    OffsetPageTable<'t>: Mapper<S>,
{
    let page = Page::<S>::containing_address(VirtAddr::new(to));
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(from));
    // SAFETY: the direct map and the kernel's image are at addresses used for nothing else; the owners of
    // memory decide which parts of it may be written.
    match unsafe { tables.map_to_with_table_flags(page, frame, flags, TABLE, &mut TableFrames) } {
        Ok(flush) => {
            flush.flush();
            Ok(())
        }
        Err(MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage) => Ok(()),
        Err(MapToError::FrameAllocationFailed) => Err("no memory for page tables"),
    }
}

/// Removes `count` frames from the direct map, so that reading them faults. A large page around them is split
/// first. Other CPUs must call [`refresh`] before they see it.
///
/// # Safety
/// On the boot CPU while booting. The frames belong to the caller and are only read by a dump.
pub(crate) unsafe fn hide(first: u64, count: u64) -> Result<(), &'static str> {
    // SAFETY: no one else changes tables.
    let mut tables = unsafe { tables() };
    for physical in (first..).step_by(4096).take(count as usize) {
        let address = VirtAddr::new(DIRECT_MAP + physical);
        let large = Page::<Size2MiB>::containing_address(address);
        if let Ok((_, flush)) = tables.unmap(large) {
            flush.flush();
            let (to, from) = (large.start_address().as_u64(), physical & !(Size2MiB::SIZE - 1));
            for done in (0..Size2MiB::SIZE).step_by(4096) {
                map_page::<Size4KiB>(&mut tables, to + done, from + done, Access::Write.flags())?;
            }
        }
        let page = Page::<Size4KiB>::containing_address(address);
        tables.unmap(page).map_err(|_| "a frame is not in the direct map")?.1.flush();
    }
    Ok(())
}

/// The tables in use.
///
/// # Safety
/// Only one caller at a time: on the boot CPU, while the others wait.
unsafe fn tables() -> OffsetPageTable<'static> {
    // SAFETY: ROOT is our own table, in the direct map; the caller excludes other users.
    let root = unsafe { &mut *(direct(ROOT.load(Ordering::Relaxed)) as *mut PageTable) };
    // SAFETY: the direct map contains every table.
    unsafe { OffsetPageTable::new(root, VirtAddr::new(DIRECT_MAP)) }
}

/// Creates the final tables and switches to them. The first MiB stays mapped at 0 too, for the startup of
/// other CPUs, until [`forget_identity`].
///
/// # Safety
/// Once, on the boot CPU, on the boot tables, before other CPUs run.
pub(crate) unsafe fn init() -> Result<(), &'static str> {
    let root = TableFrames.allocate_frame().ok_or("no memory for page tables")?;
    ROOT.store(root.start_address().as_u64(), Ordering::Relaxed);
    // SAFETY: no one else changes tables.
    let mut tables = unsafe { tables() };
    for part in memory::kernel_image() {
        map(&mut tables, part.start, physical(part.start as *const u8), part.end - part.start, part.access)?;
    }
    for guard in stack::guards() {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(guard));
        // Not flushed: these tables are not in use yet.
        tables.unmap(page).map_err(|_| "a stack has no page of its own to guard it")?.1.ignore();
    }
    for range in memory::ram().iter() {
        map(&mut tables, DIRECT_MAP + range.start, range.start, range.end - range.start, Access::Write)?;
    }
    map(&mut tables, 0, 0, 0x9_f000, Access::Execute)?;
    // SAFETY: the new tables map the code, the stack, and all memory that we have pointers to.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
    Ok(())
}

/// Unmaps the first MiB at address 0, so that a null pointer faults.
///
/// # Safety
/// On the boot CPU, when no other CPU runs at addresses below 1 MiB any more. The others must call
/// [`refresh`] before they rely on it.
pub(crate) unsafe fn forget_identity() {
    // SAFETY: no one else changes tables.
    let mut tables = unsafe { tables() };
    tables.level_4_table_mut()[0].set_unused();
    refresh();
}

/// Flushes this CPU's cached translations.
pub(crate) fn refresh() {
    x86_64::instructions::tlb::flush_all();
}

/// Physical address of the root table.
pub(crate) fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Maps `length` bytes at a physical address, such as ACPI tables or device registers; returns the virtual
/// address.
///
/// # Safety
/// On the boot CPU while booting. The address is that of a device, or of otherwise unused memory.
pub(crate) unsafe fn map_physical(from: u64, length: u64, access: Access) -> Result<*mut u8, &'static str> {
    let first = from & !0xfff;
    let end = (from + length).next_multiple_of(4096);
    // SAFETY: no one else changes tables.
    let mut tables = unsafe { tables() };
    map(&mut tables, DIRECT_MAP + first, first, end - first, access)?;
    Ok(direct(from))
}

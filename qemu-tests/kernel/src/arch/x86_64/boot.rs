//! Boot information: command line, memory map, ACPI's root pointer.
//!
//! Specification: Xen, "x86/HVM direct boot ABI" (docs/misc/pvh.pandoc) and public/arch-x86/hvm/start_info.h.

use dumpcore::platform::RamRange;

use super::paging::direct;
use crate::arch::BootInfo;
use crate::memory::RamMap;

core::arch::global_asm!(include_str!("boot.s"), stack = const super::stack::SIZE, options(att_syntax));

/// The kernel uses no memory below this: the first MiB is for firmware tables and the startup of CPUs.
const FIRST_FREE: u64 = 1 << 20;
/// Maximum length of the command line in bytes.
const COMMAND_LINE_LIMIT: usize = 2048;

/// hvm_start_info, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// hvm_memmap_table_entry.
#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// XEN_HVM_MEMMAP_TYPE_RAM, the same number as in an E820 map.
const KIND_RAM: u32 = 1;

static COMMAND_LINE: spin::Once<([u8; COMMAND_LINE_LIMIT], usize)> = spin::Once::new();

/// Reads the start info. The boot page tables map the first GiB, which contains all of it.
///
/// # Safety
/// `start_info` is the entry's value of ebx, and no RAM outside the kernel has been written since.
pub(crate) unsafe fn read(start_info: u64, _: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: by the boot protocol, ebx points to this structure, which stays until the kernel reuses that
    // RAM.
    let info = unsafe { &*(direct(start_info) as *const StartInfo) };
    if info.magic != MAGIC {
        return Err("not booted by PVH (bad magic in the start info)");
    }
    if info.version < 1 || info.memory_map == 0 {
        return Err("the start info has no memory map");
    }
    let mut ram = RamMap::new();
    for index in 0..u64::from(info.memory_map_entries) {
        let at = info.memory_map + index * size_of::<MemoryMapEntry>() as u64;
        // SAFETY: according to the start info, this many entries are there.
        let entry = unsafe { &*(direct(at) as *const MemoryMapEntry) };
        if entry.kind == KIND_RAM {
            ram.add(RamRange { start: entry.address, end: entry.address + entry.size })?;
        }
    }
    let command_line = COMMAND_LINE.call_once(|| {
        let mut bytes = [0; COMMAND_LINE_LIMIT];
        let mut length = 0;
        if info.command_line != 0 {
            for (offset, slot) in bytes.iter_mut().enumerate() {
                // SAFETY: according to the start info, a string is there; we stop at its zero.
                *slot = unsafe { *((direct(info.command_line) as *const u8).add(offset)) };
                if *slot == 0 {
                    break;
                }
                length += 1;
            }
        }
        (bytes, length)
    });
    let command_line = core::str::from_utf8(&command_line.0[..command_line.1])
        .map_err(|_| "the command line is not UTF-8")?;
    let mut taken = RamMap::new();
    taken.add(RamRange { start: 0, end: FIRST_FREE })?;
    Ok(BootInfo { command_line, ram, taken, tables: info.rsdp })
}

// SPDX-License-Identifier: MIT OR GPL-2.0

//! Memory, clocks and the log of a healthy kernel. All of it may sleep.

use core::ffi::{c_char, c_int, c_long, c_void, CStr};

use kernel::prelude::*;

use crate::bindings::{self, pci_dev};
use crate::crashed::{direct_map, has};
use crate::shared::lend;

/// EOPNOTSUPP, which the `kernel` crate does not have.
const NOT_SUPPORTED: c_int = 95;

/// Size of a page.
const PAGE: usize = bindings::DD_CONST_PAGE_SIZE as usize;

/// Page allocation order for a number of bytes: pages come in powers of two.
fn order(bytes: usize) -> u32 {
    let last = bytes.saturating_sub(1) / PAGE;
    usize::BITS.wrapping_sub(last.leading_zeros())
}

/// The `struct page` of memory in the direct map.
fn page_of(physical: u64) -> *mut bindings::page {
    // SAFETY: set during boot, and never again.
    let map = unsafe { bindings::vmemmap_base } as *mut bindings::page;
    map.wrapping_add((physical >> 12) as usize)
}

unsafe extern "C" fn keep_range(resource: *mut bindings::resource, range: *mut c_void) -> c_int {
    // SAFETY: a resource of the kernel's, and the range that dd_next_range passed.
    unsafe {
        let range = &mut *range.cast::<bindings::dd_range>();
        (range.start, range.end) = ((*resource).start, (*resource).end.wrapping_add(1));
    }
    // Stop after the first one.
    1
}

lend! {
    unsafe fn dd_memory(bytes: usize, physical: *mut u64) -> *mut c_void {
        // Below 4 GiB, where every controller can reach it without a bounce buffer.
        for flags in [bindings::DD_CONST_GFP_DMA32, bindings::DD_CONST_GFP] {
            // SAFETY: the kernel is healthy.
            let start = unsafe { bindings::get_free_pages_noprof(flags, order(bytes)) };
            if start != 0 {
                // SAFETY: shim.h: a place for the result.
                unsafe { *physical = start.wrapping_sub(direct_map()) };
                return start as *mut c_void;
            }
        }
        core::ptr::null_mut()
    }

    unsafe fn dd_release_memory(memory: *mut c_void, bytes: usize) {
        // SAFETY: shim.h: allocated by dd_memory.
        unsafe { bindings::free_pages(memory as u64, order(bytes)) };
    }

    unsafe fn dd_map_for_device(pci: *mut pci_dev, memory: *mut c_void, bytes: usize, bus: *mut u64) -> c_int {
        // SAFETY: shim.h: a target's device, memory from dd_memory, and a place for the result.
        unsafe {
            let device = &raw mut (*pci).dev;
            let physical = (memory as u64).wrapping_sub(direct_map());
            let both = bindings::dma_data_direction_DMA_BIDIRECTIONAL;
            let at = bindings::dma_map_page_attrs(device, page_of(physical), 0, bytes, both, 0);
            // The address that means failure.
            if at == bindings::dma_addr_t::MAX {
                return ENOMEM.to_errno();
            }
            *bus = at;
            let domain = bindings::dd_helper_iommu_get_domain_for_dev(device);
            // Either the physical address itself, or translated to it by an IOMMU: not a copy in other
            // memory.
            if at == physical
                || !domain.is_null() && bindings::dd_helper_iommu_iova_to_phys(domain, at) == physical
            {
                return 0;
            }
            dd_unmap_for_device(pci, at, bytes);
        }
        -NOT_SUPPORTED
    }

    unsafe fn dd_unmap_for_device(pci: *mut pci_dev, bus: u64, bytes: usize) {
        let both = bindings::dma_data_direction_DMA_BIDIRECTIONAL;
        // SAFETY: shim.h: the result of dd_map_for_device.
        unsafe { bindings::dma_unmap_page_attrs(&raw mut (*pci).dev, bus, bytes, both, 0) };
    }

    unsafe fn dd_take_stack(bytes: usize) -> *mut c_void {
        // With an unmapped page before and after it.
        // SAFETY: the kernel is healthy.
        unsafe { bindings::vmalloc_noprof(bytes as u64) }
    }

    unsafe fn dd_release_stack(stack: *mut c_void) {
        // SAFETY: shim.h: allocated by dd_take_stack.
        unsafe { bindings::vfree(stack) };
    }

    unsafe fn dd_map_registers(physical: u64, length: usize) -> *mut c_void {
        // SAFETY: the kernel refuses RAM.
        unsafe { bindings::ioremap(physical, length as u64) }
    }

    unsafe fn dd_unmap_registers(start: *mut c_void) {
        // SAFETY: shim.h: the result of dd_map_registers.
        unsafe { bindings::iounmap(start) };
    }

    unsafe fn dd_next_range(crash_kernel: bool, from: u64, range: *mut bindings::dd_range) -> bool {
        let what = if crash_kernel { bindings::DD_CONST_CRASH_KERNEL } else { 0 };
        let flags = bindings::DD_CONST_SYSTEM_RAM;
        // SAFETY: keep_range takes a range.
        unsafe { bindings::walk_iomem_res_desc(what, flags, from, u64::MAX, range.cast(), Some(keep_range)) == 1 }
    }

    unsafe fn dd_random(bytes: *mut c_void, length: usize) {
        // SAFETY: shim.h promises that `bytes` has room for `length` bytes.
        unsafe { bindings::get_random_bytes(bytes, length) };
    }

    unsafe fn dd_pci_read(address: u32, offset: u32) -> u32 {
        let mut value = u32::MAX;
        // SAFETY: the device is looked up, read and released.
        unsafe {
            let domain = (address >> 16) as c_int;
            let pci = bindings::pci_get_domain_bus_and_slot(domain, address >> 8 & 0xff, address & 0xff);
            if !pci.is_null() {
                bindings::pci_read_config_dword(pci, offset as c_int, &raw mut value);
                bindings::pci_dev_put(pci);
            }
        }
        value
    }

    unsafe fn dd_say(text: *const c_char, length: usize, bad: c_int) {
        // SAFETY: shim.h promises that `text` has `length` bytes.
        let text = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), length) };
        let text = core::str::from_utf8(text).unwrap_or("it cannot be said why");
        if bad == 0 {
            pr_info!("{text}\n");
        } else {
            pr_warn!("{text}\n");
        }
    }

    /// The text in the kernel's VMCOREINFO note: after the header and name of the ELF note.
    unsafe fn dd_vmcoreinfo(to: *mut c_void, room: usize) -> usize {
        // SAFETY: the kernel's note is in the direct map, and a page at most; shim.h: this much room.
        unsafe {
            let note = (bindings::paddr_vmcoreinfo_note().wrapping_add(direct_map())) as *const u32;
            let (name, text) = (*note as usize, *note.add(1) as usize);
            if name > 32 || text > PAGE {
                return 0;
            }
            let length = text.min(room);
            let start = note.add(3).cast::<u8>().add(name.wrapping_add(3) & !3);
            core::ptr::copy_nonoverlapping(start, to.cast::<u8>(), length);
            length
        }
    }

    unsafe fn dd_online_cpus(to: *mut u32, room: u32) -> u32 {
        let mut count = 0;
        // SAFETY: the mask has a bit for each possible CPU.
        let mask = unsafe { &*(&raw const bindings::__cpu_online_mask) };
        let all = (mask.bits.len() as u32).wrapping_mul(u64::BITS);
        let online = |cpu: &u32| {
            mask.bits.get((cpu / u64::BITS) as usize).is_some_and(|word| word >> (cpu % u64::BITS) & 1 != 0)
        };
        for cpu in (0..all).filter(online) {
            if count < room {
                // SAFETY: shim.h: this much room.
                unsafe { *to.add(count as usize) = cpu };
            }
            count = count.wrapping_add(1);
        }
        count
    }

    unsafe fn dd_all_cpus_online() -> bool {
        // SAFETY: asks only.
        unsafe { bindings::dd_helper_all_cpus_online() }
    }

    unsafe fn dd_has_machine_check() -> bool {
        [bindings::DD_CONST_X86_FEATURE_MCE, bindings::DD_CONST_X86_FEATURE_MCA].into_iter().all(has)
    }

    unsafe fn dd_apic_of(cpu: u32) -> u32 {
        // SAFETY: shim.h: the number of a CPU.
        unsafe { bindings::dd_helper_cpu_physical_id(cpu) }
    }

    unsafe fn dd_read_file(path: *const c_char, to: *mut c_void, room: usize) -> c_long {
        // SAFETY: shim.h: a text that ends with a zero.
        let file = unsafe { bindings::filp_open(path, bindings::DD_CONST_READ, 0) };
        // The last page of addresses encodes errors.
        if let error @ -4095..=-1 = file as isize as c_long {
            return error;
        }
        let mut at = 0;
        // SAFETY: the file is open; shim.h: this much room. It is closed once.
        unsafe {
            let got = bindings::kernel_read(file, to, room, &raw mut at);
            bindings::filp_close(file, core::ptr::null_mut());
            got as c_long
        }
    }

    unsafe fn dd_cannot_arm() -> *const c_char {
        let why: &CStr = if has(bindings::DD_CONST_X86_FEATURE_XENPV) {
            c"a Xen guest without virtual hardware has no disks to take over"
        // SAFETY: asks only.
        } else if unsafe { bindings::dd_helper_memory_is_encrypted() } {
            c"memory is encrypted (SEV, SME, TDX), which the polled drivers cannot do"
        } else {
            return core::ptr::null();
        };
        why.as_ptr()
    }
}

/// Converts the result of a kernel function, 0 or a negative number.
pub(crate) fn result(number: c_int) -> Result {
    match number {
        0.. => Ok(()),
        error => Err(Error::from_errno(error)),
    }
}

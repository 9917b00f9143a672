// SPDX-License-Identifier: MIT OR GPL-2.0

//! What a kernel that has crashed still lends: nothing here sleeps or takes a lock.

use core::ffi::{c_char, c_int, c_void};

use crate::bindings;
use crate::shared::{lend, zeroed, Shared};

/// Where in the kernel's log we read.
// SAFETY: two numbers.
static LOG: Shared<bindings::kmsg_dump_iter> = Shared::new(unsafe { zeroed() });

/// Whether this machine has that feature (Linux, arch/x86/include/asm/cpufeatures.h).
pub(crate) fn has(feature: u32) -> bool {
    // SAFETY: reads what was set while the kernel began.
    unsafe { bindings::dd_helper_boot_cpu_has(feature) }
}

/// Where all memory is mapped, one to one.
pub(crate) fn direct_map() -> u64 {
    // SAFETY: set while the kernel begins, and never again.
    unsafe { bindings::page_offset_base }
}

lend! {
    unsafe fn dd_cpu() -> u32 {
        // SAFETY: reads a variable of this CPU's.
        unsafe { bindings::dd_helper_raw_smp_processor_id() }
    }

    unsafe fn dd_direct_map() -> u64 {
        direct_map()
    }

    unsafe fn dd_tsc_khz() -> u32 {
        if has(bindings::DD_CONST_X86_FEATURE_TSC) {
            // SAFETY: measured while the kernel begins.
            unsafe { bindings::tsc_khz }
        } else {
            0
        }
    }

    unsafe fn dd_monotonic() -> u64 {
        // SAFETY: for any context, NMI included.
        unsafe { bindings::ktime_get_mono_fast_ns() }
    }

    unsafe fn dd_seconds() -> u64 {
        // SAFETY: reads one word.
        unsafe { bindings::ktime_get_real_seconds() as u64 }
    }

    unsafe fn dd_copy(to: *mut c_void, from: *const c_void, length: usize) -> c_int {
        // SAFETY: shim.h: room for so many bytes; whether they can be read is what it finds out.
        unsafe { bindings::copy_from_kernel_nofault(to, from, length) as c_int }
    }

    unsafe fn dd_pat_watchdog() {
        // SAFETY: for any context.
        unsafe { bindings::dd_helper_touch_nmi_watchdog() };
    }

    unsafe fn dd_local_apic() -> *mut c_void {
        if has(bindings::DD_CONST_X86_FEATURE_APIC) {
            // SAFETY: a constant.
            unsafe { bindings::dd_helper_apic_base() }
        } else {
            core::ptr::null_mut()
        }
    }

    unsafe fn dd_code(index: u32, start: *mut *const c_void, length: *mut usize) {
        let kind = if index == 0 { bindings::mod_mem_type_MOD_TEXT } else { bindings::mod_mem_type_MOD_RODATA };
        let module = crate::THIS_MODULE.as_ptr().cast::<bindings::module>();
        // SAFETY: ourselves, loaded; shim.h: places for the answers.
        unsafe {
            let memory = &(*module).mem[kind as usize];
            *start = memory.base;
            *length = memory.size as usize;
        }
    }

    unsafe fn dd_log_rewind() {
        // SAFETY: one CPU alone reads the log for a dump.
        unsafe { bindings::kmsg_dump_rewind(LOG.get()) };
    }

    unsafe fn dd_log_line(line: *mut c_char, room: usize, length: *mut usize) -> bool {
        // SAFETY: as above; shim.h: so much room.
        unsafe { bindings::kmsg_dump_get_line(LOG.get(), false, line, room, length) }
    }

    unsafe fn dd_kdump_follows() -> bool {
        // SAFETY: reads one word.
        unsafe { bindings::dd_helper_kexec_crash_loaded() }
    }

    unsafe fn dd_restart() {
        // SAFETY: what a panic does at last.
        unsafe { bindings::emergency_restart() };
    }
}

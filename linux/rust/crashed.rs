// SPDX-License-Identifier: MIT OR GPL-2.0

//! Kernel services after a crash: nothing here sleeps or takes a lock.

use core::ffi::{c_char, c_int, c_void};

use crate::bindings;
use crate::shared::{lend, zeroed, Shared};

/// Position in the kernel's log.
// SAFETY: two numbers.
static LOG: Shared<bindings::kmsg_dump_iter> = Shared::new(unsafe { zeroed() });

/// Whether this machine has that feature (Linux, arch/x86/include/asm/cpufeatures.h).
pub(crate) fn has(feature: u32) -> bool {
    // SAFETY: reads data set during boot.
    unsafe { bindings::dd_helper_boot_cpu_has(feature) }
}

/// Address of the direct map of all memory.
pub(crate) fn direct_map() -> u64 {
    // SAFETY: set during boot, and never again.
    unsafe { bindings::page_offset_base }
}

lend! {
    unsafe fn dd_cpu() -> u32 {
        // SAFETY: reads a per-CPU variable.
        unsafe { bindings::dd_helper_raw_smp_processor_id() }
    }

    unsafe fn dd_direct_map() -> u64 {
        direct_map()
    }

    unsafe fn dd_tsc_khz() -> u32 {
        if has(bindings::DD_CONST_X86_FEATURE_TSC) {
            // SAFETY: measured during boot.
            unsafe { bindings::tsc_khz }
        } else {
            0
        }
    }

    unsafe fn dd_monotonic() -> u64 {
        // SAFETY: works in any context, including NMI.
        unsafe { bindings::ktime_get_mono_fast_ns() }
    }

    unsafe fn dd_seconds() -> u64 {
        // SAFETY: reads one word.
        unsafe { bindings::ktime_get_real_seconds() as u64 }
    }

    unsafe fn dd_copy(to: *mut c_void, from: *const c_void, length: usize) -> c_int {
        // SAFETY: shim.h: room for this many bytes; the function itself finds out whether they can be read.
        unsafe { bindings::copy_from_kernel_nofault(to, from, length) as c_int }
    }

    unsafe fn dd_pat_watchdog() {
        // SAFETY: works in any context.
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
        // SAFETY: our own module, loaded; shim.h: places for the results.
        unsafe {
            let memory = &(*module).mem[kind as usize];
            *start = memory.base;
            *length = memory.size as usize;
        }
    }

    unsafe fn dd_log_rewind() {
        // SAFETY: only one CPU reads the log for a dump.
        unsafe { bindings::kmsg_dump_rewind(LOG.get()) };
    }

    unsafe fn dd_log_line(line: *mut c_char, room: usize, length: *mut usize) -> bool {
        // SAFETY: as above; shim.h: this much room.
        unsafe { bindings::kmsg_dump_get_line(LOG.get(), false, line, room, length) }
    }

    unsafe fn dd_kdump_follows() -> bool {
        // SAFETY: reads one word.
        unsafe { bindings::dd_helper_kexec_crash_loaded() }
    }

    unsafe fn dd_restart() {
        // SAFETY: the last thing that a panic does.
        unsafe { bindings::emergency_restart() };
    }
}

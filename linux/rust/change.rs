// SPDX-License-Identifier: MIT OR GPL-2.0

//! CPU and memory hotplug: the dump is armed again for the changed machine.

use core::ffi::{c_int, c_void};

use kernel::prelude::*;

use crate::bindings::{self, notifier_block, work_struct};
use crate::shared::{zeroed, Shared};
use crate::{healthy, sysfs};

// SAFETY: prepare() initialises it before its first use.
static WORK: Shared<work_struct> = Shared::new(unsafe { zeroed() });

unsafe extern "C" fn rearm(_work: *mut work_struct) {
    // A CPU going offline is still there when we are notified; when it is gone, this lock is free.
    // SAFETY: may sleep, and holds no lock.
    unsafe {
        bindings::cpus_read_lock();
        bindings::cpus_read_unlock();
    }
    // SAFETY: one at a time.
    sysfs::change(|| unsafe { bindings::dd_rearm() });
}

/// Call before any change can happen.
pub(crate) fn prepare() {
    // SAFETY: not in use yet.
    unsafe { bindings::dd_helper_init_work(WORK.get(), Some(rearm)) };
}

/// Call when no change can happen any more: waits for pending work.
pub(crate) fn finish() {
    // SAFETY: prepared when the module was loaded.
    unsafe { bindings::cancel_work_sync(WORK.get()) };
}

fn soon() {
    // SAFETY: prepared when the module was loaded.
    unsafe {
        let queue = bindings::system_wq;
        bindings::queue_work_on(bindings::DD_CONST_WORK_CPU_UNBOUND, queue, WORK.get());
    }
}

unsafe extern "C" fn cpu_changed(_cpu: u32) -> c_int {
    soon();
    0
}

unsafe extern "C" fn memory_changed(_block: *mut notifier_block, action: u64, _data: *mut c_void) -> c_int {
    if [bindings::DD_CONST_MEM_ONLINE, bindings::DD_CONST_MEM_OFFLINE].contains(&action) {
        soon();
    }
    bindings::DD_CONST_NOTIFY_OK
}

static MEMORY: Shared<notifier_block> = Shared::new(notifier_block {
    notifier_call: Some(memory_changed),
    next: core::ptr::null_mut(),
    priority: 0,
});

/// Registration for hotplug events, until dropped.
pub(crate) struct Watch {
    state: bindings::cpuhp_state,
}

impl Watch {
    pub(crate) fn begin() -> Result<Watch> {
        let any = bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN;
        let name = c"diskdump:online".as_ptr();
        // SAFETY: the functions live as long as the module.
        let state = unsafe {
            bindings::__cpuhp_setup_state(any, name, false, Some(cpu_changed), Some(cpu_changed), false)
        };
        healthy::result(state)?;
        let watch = Watch { state: state as bindings::cpuhp_state };
        // SAFETY: it lives as long as the module.
        healthy::result(unsafe { bindings::dd_helper_register_memory_notifier(MEMORY.get()) })?;
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: begin() registered these; removing one that was not registered is allowed.
        unsafe {
            bindings::dd_helper_unregister_memory_notifier(MEMORY.get());
            bindings::__cpuhp_remove_state(self.state, false);
        }
    }
}

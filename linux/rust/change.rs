// SPDX-License-Identifier: MIT OR GPL-2.0

//! CPUs and memory that come and go: what was armed is no longer what is there.

use core::ffi::{c_int, c_void};

use kernel::prelude::*;

use crate::bindings::{self, notifier_block, work_struct};
use crate::shared::{zeroed, Shared};
use crate::{healthy, sysfs};

// SAFETY: prepare() makes it what it has to be before anybody uses it.
static WORK: Shared<work_struct> = Shared::new(unsafe { zeroed() });

unsafe extern "C" fn rearm(_work: *mut work_struct) {
    // A CPU that goes is still there when it is told; when it is gone, this lock is free.
    // SAFETY: may sleep, and holds no lock.
    unsafe {
        bindings::cpus_read_lock();
        bindings::cpus_read_unlock();
    }
    // SAFETY: one at a time.
    sysfs::change(|| unsafe { bindings::dd_rearm() });
}

/// Before anything can change.
pub(crate) fn prepare() {
    // SAFETY: nobody has it yet.
    unsafe { bindings::dd_helper_init_work(WORK.get(), Some(rearm)) };
}

/// When nothing can change any more: what is under way is waited for.
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

/// The kernel tells what comes and goes, until dropped.
pub(crate) struct Watch {
    state: bindings::cpuhp_state,
}

impl Watch {
    pub(crate) fn begin() -> Result<Watch> {
        let any = bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN;
        let name = c"diskdump:online".as_ptr();
        // SAFETY: functions that stay as long as the module.
        let state = unsafe {
            bindings::__cpuhp_setup_state(any, name, false, Some(cpu_changed), Some(cpu_changed), false)
        };
        healthy::result(state)?;
        let watch = Watch { state: state as bindings::cpuhp_state };
        // SAFETY: it stays as long as the module.
        healthy::result(unsafe { bindings::dd_helper_register_memory_notifier(MEMORY.get()) })?;
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: what begin() registered; to take back what was not is allowed.
        unsafe {
            bindings::dd_helper_unregister_memory_notifier(MEMORY.get());
            bindings::__cpuhp_remove_state(self.state, false);
        }
    }
}

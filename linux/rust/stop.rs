// SPDX-License-Identifier: MIT OR GPL-2.0

//! Hooks for panics and oopses, and for stopping the other CPUs.

use core::ffi::{c_char, c_int, c_void, CStr};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::bindings::{self, die_args, kmsg_dump_detail, kmsg_dumper, nmiaction, notifier_block, pt_regs, smp_ops};
use crate::shared::{lend, zeroed, Shared};

/// The kernel's original operations.
// SAFETY: function pointers, or null.
static ORIGINAL: Shared<smp_ops> = Shared::new(unsafe { zeroed() });
static HOOKED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn stop_other_cpus(wait: c_int) {
    // An orderly reboot gets here too; a panic sets `oops_in_progress`, even in the middle of a reboot.
    // SAFETY: reads two words.
    let (panics, state) = unsafe { (bindings::oops_in_progress != 0, bindings::system_state) };
    if panics || !(bindings::system_states_SYSTEM_HALT..=bindings::system_states_SYSTEM_RESTART).contains(&state) {
        // SAFETY: works in any context.
        unsafe { bindings::dd_freeze() };
    // SAFETY: dd_stop_hooks saved it.
    } else if let Some(original) = unsafe { (*ORIGINAL.get()).stop_other_cpus } {
        // SAFETY: as the kernel itself would call it.
        unsafe { original(wait) };
    }
}

/// With crash_kexec_post_notifiers: the kernel's own function leaves what kdump needs, in case kdump follows.
unsafe extern "C" fn crash_stop_other_cpus() {
    // SAFETY: dd_stop_hooks saved it; called as the kernel itself would.
    unsafe {
        match (*ORIGINAL.get()).crash_stop_other_cpus {
            Some(original) => {
                original();
                bindings::dd_crash_stopped();
            }
            None => stop_other_cpus(0),
        }
    }
}

/// Debuggers know this name, which is that of kexec's handler: it tells them where the stack of a stopped CPU
/// continues.
#[no_mangle]
#[inline(never)]
unsafe extern "C" fn crash_nmi_callback(_kind: u32, registers: *mut pt_regs) -> c_int {
    // SAFETY: the kernel's own registers of this NMI.
    if unsafe { bindings::dd_nmi(registers) } {
        bindings::NMI_HANDLED as c_int
    } else {
        bindings::NMI_DONE as c_int
    }
}

/// The registers of an oops that may lead to a panic: they would be the relevant ones.
// SAFETY: numbers.
static OOPS: Shared<pt_regs> = Shared::new(unsafe { zeroed() });
static OOPS_TASK: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// The current task, for comparison only.
fn task() -> *mut c_void {
    // SAFETY: reads a per-CPU variable.
    unsafe { bindings::dd_helper_current() }
}

unsafe extern "C" fn die(_block: *mut notifier_block, what: u64, data: *mut c_void) -> c_int {
    // SAFETY: the kernel's data of this oops.
    let registers = unsafe { data.cast::<die_args>().as_ref().and_then(|args| args.regs.as_ref()) };
    // A process's registers tell nothing.
    // SAFETY: only reads them.
    let of_kernel = |registers: &&pt_regs| unsafe { !bindings::dd_helper_user_mode(*registers) };
    if let (bindings::die_val_DIE_OOPS, Some(registers)) = (what as u32, registers.filter(of_kernel)) {
        // SAFETY: the kernel lets one oops at a time through.
        unsafe { core::ptr::copy_nonoverlapping(registers, OOPS.get(), 1) };
        OOPS_TASK.store(task(), Ordering::Release);
    }
    bindings::NOTIFY_DONE as c_int
}

/// Whether `text` contains `part`.
fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

unsafe extern "C" fn panicked(_block: *mut notifier_block, _event: u64, data: *mut c_void) -> c_int {
    let message = if data.is_null() { c"".as_ptr() } else { data.cast::<c_char>().cast_const() };
    let is_own = OOPS_TASK.load(Ordering::Acquire) == task();
    let oops = if is_own { OOPS.get().cast_const() } else { core::ptr::null() };
    // SAFETY: numbers; a place for them; the panic's text, which ends with a zero.
    unsafe {
        let mut here: pt_regs = zeroed();
        bindings::dd_capture(&raw mut here);
        let text = core::slice::from_raw_parts(message.cast::<u8>(), bindings::strlen(message) as usize);
        let trigger = if [&b"LOCKUP"[..], b"lockup", b"hung_task"].iter().any(|part| has(text, part)) {
            bindings::dd_trigger_DD_TRIGGER_WATCHDOG
        } else if bindings::dd_helper_in_nmi() {
            bindings::dd_trigger_DD_TRIGGER_NMI
        } else {
            bindings::dd_trigger_DD_TRIGGER_PANIC
        };
        bindings::dd_panic(message, &raw const here, oops, trigger);
    }
    bindings::NOTIFY_DONE as c_int
}

const fn first(
    call: unsafe extern "C" fn(*mut notifier_block, u64, *mut c_void) -> c_int,
) -> Shared<notifier_block> {
    // First of all: the other notifiers may be what crashes.
    Shared::new(notifier_block {
        notifier_call: Some(call),
        next: core::ptr::null_mut(),
        priority: c_int::MAX,
    })
}

static DIE: Shared<notifier_block> = first(die);
static PANIC: Shared<notifier_block> = first(panicked);

/// The dumpers that save the end of the log (pstore) run after all notifiers, and this one runs last.
unsafe extern "C" fn dumped(_dumper: *mut kmsg_dumper, _detail: *mut kmsg_dump_detail) {
    // SAFETY: works in any context.
    unsafe { bindings::dd_heard() };
}

static LAST: Shared<kmsg_dumper> = Shared::new(kmsg_dumper {
    dump: Some(dumped),
    max_reason: bindings::kmsg_dump_reason_KMSG_DUMP_PANIC,
    // SAFETY: list links, which are set before use, and a flag.
    ..unsafe { zeroed() }
});

const NAME: &CStr = c"diskdump";

static NMI: Shared<nmiaction> = Shared::new(nmiaction {
    handler: Some(crash_nmi_callback),
    flags: bindings::NMI_FLAG_FIRST as u64,
    name: NAME.as_ptr(),
    // SAFETY: numbers and list links, which are set before use.
    ..unsafe { zeroed() }
});

lend! {
    unsafe fn dd_stop_hooks(on: bool) -> c_int {
        if on {
            // Registered again, so that it comes after those registered since the last arming.
            // SAFETY: one arming or disarming at a time (sysfs.rs); it stays registered only while the module
            // is loaded.
            let result = unsafe {
                bindings::kmsg_dump_unregister(LAST.get());
                bindings::kmsg_dump_register(LAST.get())
            };
            if result != 0 {
                return result;
            }
        }
        if HOOKED.swap(on, Ordering::AcqRel) == on {
            return 0;
        }
        // SAFETY: one arming or disarming at a time (sysfs.rs); registered objects live longer than their
        // registration.
        unsafe {
            if on {
                let links = &raw mut (*NMI.get()).list;
                (*links).next = links;
                (*links).prev = links;
                let result = bindings::__register_nmi_handler(bindings::NMI_LOCAL, NMI.get());
                if result != 0 {
                    HOOKED.store(false, Ordering::Release);
                    bindings::kmsg_dump_unregister(LAST.get());
                    return result;
                }
                // Earlier oopses were not recorded.
                OOPS_TASK.store(core::ptr::null_mut(), Ordering::Release);
                bindings::register_die_notifier(DIE.get());
                let operations = &raw mut bindings::smp_ops;
                core::ptr::copy_nonoverlapping(operations, ORIGINAL.get(), 1);
                (*operations).stop_other_cpus = Some(stop_other_cpus);
                (*operations).crash_stop_other_cpus = Some(crash_stop_other_cpus);
                bindings::dd_helper_register_first_on_panic(PANIC.get());
            } else {
                bindings::atomic_notifier_chain_unregister(&raw mut bindings::panic_notifier_list, PANIC.get());
                let operations = &raw mut bindings::smp_ops;
                (*operations).crash_stop_other_cpus = (*ORIGINAL.get()).crash_stop_other_cpus;
                (*operations).stop_other_cpus = (*ORIGINAL.get()).stop_other_cpus;
                bindings::unregister_die_notifier(DIE.get());
                bindings::unregister_nmi_handler(bindings::NMI_LOCAL, NAME.as_ptr());
                bindings::kmsg_dump_unregister(LAST.get());
            }
        }
        0
    }
}

// SPDX-License-Identifier: MIT OR GPL-2.0

//! /sys/kernel/diskdump, and the module's parameter.

use core::ffi::{c_char, c_long, CStr};
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::bindings::{self, attribute, attribute_group, kernel_param, kobj_attribute, kobject};
use crate::shared::{zeroed, Shared};
use crate::healthy;

/// One arming or disarming at a time. Reads have a lock of their own, so that they never wait for arming,
/// which may wait for a disk.
#[pin_data]
struct Orders {
    #[pin]
    mutex: Mutex<()>,
    #[pin]
    shown: Mutex<()>,
}

/// Size of a page in sysfs.
const PAGE: usize = bindings::DD_CONST_PAGE_SIZE as usize;

/// The texts to be read, under `shown`.
static SHOWN: Shared<[Text; bindings::dd_show_DD_SHOWN as usize]> =
    Shared::new([const { Text { length: 0, bytes: [0; PAGE] } }; bindings::dd_show_DD_SHOWN as usize]);

struct Text {
    length: usize,
    bytes: [c_char; PAGE],
}

/// Valid while a [`Lock`] exists.
static ORDERS: AtomicPtr<Orders> = AtomicPtr::new(core::ptr::null_mut());

/// The locks for [`change`]: created before any request can come, dropped when none can come any more.
pub(crate) struct Lock(#[allow(dead_code)] Arc<Orders>);

impl Lock {
    pub(crate) fn new() -> Result<Lock> {
        let orders = Arc::pin_init(pin_init!(Orders {
            mutex <- new_mutex!((), "diskdump"),
            shown <- new_mutex!((), "diskdump shown"),
        }), GFP_KERNEL)?;
        ORDERS.store(core::ptr::from_ref(&*orders).cast_mut(), Ordering::Release);
        change(|| ());
        Ok(Lock(orders))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        ORDERS.store(core::ptr::null_mut(), Ordering::Release);
    }
}

fn orders() -> Option<&'static Orders> {
    // SAFETY: belongs to a Lock, which is dropped last.
    unsafe { ORDERS.load(Ordering::Acquire).as_ref() }
}

/// Runs a command under the lock, then updates the texts.
pub(crate) fn change<R>(run: impl FnOnce() -> R) -> R {
    let orders = orders();
    let _guard = orders.map(|orders| orders.mutex.lock());
    let result = run();
    let _shown = orders.map(|orders| orders.shown.lock());
    // SAFETY: under `shown`.
    for (what, text) in (0..).zip(unsafe { &mut *SHOWN.get() }) {
        // SAFETY: under the command lock; a page.
        text.length = unsafe { bindings::dd_show(what, text.bytes.as_mut_ptr(), PAGE - 1) };
    }
    result
}

/// Defines functions that show one of dd_show's texts.
macro_rules! show {
    ($($name:ident: $what:ident,)*) => {$(
        unsafe extern "C" fn $name(_folder: *mut kobject, _file: *mut kobj_attribute, to: *mut c_char) -> isize {
            let _shown = orders().map(|orders| orders.shown.lock());
            // SAFETY: under `shown`.
            let Some(text) = (unsafe { (*SHOWN.get()).get(bindings::$what as usize) }) else { return 0 };
            let length = text.length.min(PAGE - 1);
            // SAFETY: sysfs provides a page.
            unsafe { core::ptr::copy_nonoverlapping(text.bytes.as_ptr(), to, length) };
            length as isize
        }
    )*};
}

show! {
    state: dd_show_DD_STATE,
    status: dd_show_DD_STATUS,
    reason: dd_show_DD_REASON,
    last: dd_show_DD_LAST,
}

/// Defines functions that execute a command.
macro_rules! obey {
    ($($name:ident($text:ident, $count:ident): $order:expr,)*) => {$(
        unsafe extern "C" fn $name(
            _: *mut kobject,
            _: *mut kobj_attribute,
            $text: *const c_char,
            $count: usize,
        ) -> isize {
            // SAFETY: under the command lock; sysfs provides this many bytes.
            answer(change(|| unsafe { $order }), $count)
        }
    )*};
}

obey! {
    arm(words, count): bindings::dd_arm(words, count),
    disarm(_words, count): bindings::dd_disarm(),
    tell_last(text, count): bindings::dd_tell_last(text, count),
}

/// The result for sysfs: all bytes taken, or a negative error number.
fn answer(number: c_long, count: usize) -> isize {
    match number {
        0 => count as isize,
        error => error as isize,
    }
}

type Show = unsafe extern "C" fn(*mut kobject, *mut kobj_attribute, *mut c_char) -> isize;
type Store = unsafe extern "C" fn(*mut kobject, *mut kobj_attribute, *const c_char, usize) -> isize;

/// A file that everyone may read, or root may write, or both.
const fn file(name: &'static CStr, show: Option<Show>, store: Option<Store>) -> Shared<kobj_attribute> {
    // SAFETY: null pointers and numbers.
    let mut file: kobj_attribute = unsafe { zeroed() };
    file.attr.name = name.as_ptr();
    file.attr.mode = if show.is_some() { 0o444 } else { 0 } | if store.is_some() { 0o200 } else { 0 };
    file.show = show;
    file.store = store;
    Shared::new(file)
}

static STATE: Shared<kobj_attribute> = file(c"state", Some(state), None);
static STATUS: Shared<kobj_attribute> = file(c"status", Some(status), None);
static REASON: Shared<kobj_attribute> = file(c"reason", Some(reason), None);
static LAST: Shared<kobj_attribute> = file(c"last", Some(last), Some(tell_last));
static ARM: Shared<kobj_attribute> = file(c"arm", None, Some(arm));
static DISARM: Shared<kobj_attribute> = file(c"disarm", None, Some(disarm));

/// All files, and the end of the list. An attribute is the first field of its file.
static FILES: Shared<[*mut attribute; 7]> = Shared::new([
    STATE.get().cast(),
    STATUS.get().cast(),
    REASON.get().cast(),
    LAST.get().cast(),
    ARM.get().cast(),
    DISARM.get().cast(),
    core::ptr::null_mut(),
]);

static GROUP: Shared<attribute_group> = {
    // SAFETY: null pointers.
    let mut group: attribute_group = unsafe { zeroed() };
    group.attrs = FILES.get().cast();
    Shared::new(group)
};

/// /sys/kernel/diskdump, until dropped. Dropping waits for accesses in progress.
pub(crate) struct Folder(*mut kobject);

// SAFETY: a pointer to an object that the kernel locks itself.
unsafe impl Send for Folder {}
// SAFETY: as above.
unsafe impl Sync for Folder {}

impl Folder {
    pub(crate) fn create() -> Result<Folder> {
        // SAFETY: a name that ends with a zero; the Folder owns the new object.
        unsafe {
            let folder = bindings::kobject_create_and_add(c"diskdump".as_ptr(), bindings::kernel_kobj);
            if folder.is_null() {
                return Err(ENOMEM);
            }
            let folder = Folder(folder);
            healthy::result(bindings::sysfs_create_group(folder.0, GROUP.get()))?;
            Ok(folder)
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Remove the files now, even if the kernel delays the release of unused objects
        // (CONFIG_DEBUG_KOBJECT_RELEASE).
        // SAFETY: it is our only reference.
        unsafe {
            bindings::kobject_del(self.0);
            bindings::kobject_put(self.0);
        }
    }
}

/// The parameter `arm`: the text, or null.
static WORDS: Shared<*mut c_char> = Shared::new(core::ptr::null_mut());

/// Same as C's module_param() (Linux, include/linux/moduleparam.h).
#[used(compiler)]
#[link_section = "__param"]
static PARAMETER: Shared<kernel_param> = Shared::new(kernel_param {
    name: c"arm".as_ptr(),
    mod_: crate::THIS_MODULE.as_ptr().cast(),
    ops: &raw const bindings::param_ops_charp,
    perm: 0o400,
    level: -1,
    flags: 0,
    __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 { arg: WORDS.get().cast() },
});

/// Defines a line for modinfo.
macro_rules! info {
    ($name:ident, $text:literal) => {
        #[used(compiler)]
        #[link_section = ".modinfo"]
        static $name: [u8; $text.len()] = *$text;
    };
}

info!(PARAMETER_KIND, b"parmtype=arm:charp\0");
info!(
    PARAMETER_ABOUT,
    b"parm=arm:arms while loading: the words that are otherwise written to /sys/kernel/diskdump/arm\0"
);
info!(VERSION, b"version=0.1.0\0");

/// Arms with the module's parameter, if it is set. The reason for a refusal is in the log and in sysfs.
pub(crate) fn arm_by_parameter() {
    // SAFETY: set before the module's first function is called; a text that ends with a zero, or null.
    unsafe {
        let words = *WORDS.get();
        if !words.is_null() {
            change(|| bindings::dd_arm(words, bindings::strlen(words) as usize));
        }
    }
}

// SPDX-License-Identifier: MIT OR GPL-2.0

//! diskdump for kernels with CONFIG_RUST: what `../shim.c` is for the others, as a Rust module of the kernel's own kind. What to
//! do with it is decided in `../module/src`, which is the same for both.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `target` | a block device is opened, claimed, and found on its bus |
//! | `healthy` | memory, clocks and the log of a kernel that is well |
//! | `crashed` | the same for one that is not: nothing here sleeps or takes a lock |
//! | `stop` | panics and oopses are noticed, and the other CPUs stopped |
//! | `change` | CPUs and memory come and go |
//! | `sysfs` | /sys/kernel/diskdump, and the module's parameter |
//! | `bindings` | what bindgen makes of `bindings.h` and `../shim.h` |

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long, c_void};

use kernel::prelude::*;

#[allow(
    clippy::all,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes,
    improper_ctypes
)]
mod bindings;
mod change;
mod crashed;
mod healthy;
mod stop;
mod sysfs;
mod target;

module! {
    type: Diskdump,
    name: "diskdump",
    author: "The diskdump authors",
    description: "Crash dumps by polled drivers, without a reserved kernel",
    license: "Dual MIT/GPL",
}

/// Defines functions that `shim.h` promises to the rest of the module, and makes sure that they are as it says.
macro_rules! lend {
    ($($(#[$about:meta])* unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$about])*
        #[no_mangle]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? $body

        const _: unsafe extern "C" fn($($type),*) $(-> $result)? = crate::bindings::$name;
    )*};
}
use lend;

/// Something of ours that the kernel links into its lists, or keeps a pointer to.
#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: only pointers to it are given away; who follows one says why he may.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    const fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// A structure of C's with all bytes zero, as C's own initialisers leave those that they do not name.
///
/// # Safety
/// That has to be a value of the type.
const unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
}

/// The module while it is loaded. What it holds goes in the order of the fields: first nobody can ask or order any more,
/// then nothing comes and goes, and at last a dump that is armed is taken back.
struct Diskdump {
    _folder: sysfs::Folder,
    _changes: change::Watch,
    _armed: Armed,
    _lock: sysfs::Lock,
}

impl kernel::Module for Diskdump {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        change::prepare();
        let lock = sysfs::Lock::new()?;
        let armed = Armed;
        let changes = change::Watch::begin()?;
        let folder = sysfs::Folder::create()?;
        sysfs::arm_by_parameter();
        Ok(Diskdump { _folder: folder, _changes: changes, _armed: armed, _lock: lock })
    }
}

/// Whatever is armed at the end.
struct Armed;

impl Drop for Armed {
    fn drop(&mut self) {
        change::finish();
        // SAFETY: nobody else calls any more.
        unsafe { bindings::dd_disarm() };
    }
}

// SPDX-License-Identifier: MIT OR GPL-2.0

//! What the others need in order to give functions and structures to C.

use core::cell::UnsafeCell;

/// Defines functions that `shim.h` promises to the rest of the module, and makes sure that they are as it says.
macro_rules! lend {
    ($($(#[$about:meta])* unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$about])*
        #[no_mangle]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? $body

        const _: unsafe extern "C" fn($($type),*) $(-> $result)? = crate::bindings::$name;
    )*};
}
pub(crate) use lend;

/// Something of ours that the kernel links into its lists, or keeps a pointer to.
#[repr(transparent)]
pub(crate) struct Shared<T>(UnsafeCell<T>);

// SAFETY: only pointers to it are given away; who follows one says why he may.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) const fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// A structure of C's with all bytes zero, as C's own initialisers leave those that they do not name.
///
/// # Safety
/// That has to be a value of the type.
pub(crate) const unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
}

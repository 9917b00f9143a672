// SPDX-License-Identifier: MIT OR GPL-2.0

//! Shared helpers for exporting functions and structures to C.

use core::cell::UnsafeCell;

/// Defines functions that `shim.h` promises to the rest of the module, and checks them against its
/// declarations.
macro_rules! lend {
    ($($(#[$about:meta])* unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$about])*
        #[no_mangle]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? $body

        const _: unsafe extern "C" fn($($type),*) $(-> $result)? = crate::bindings::$name;
    )*};
}
pub(crate) use lend;

/// An object of ours that the kernel links into its lists or keeps a pointer to.
#[repr(transparent)]
pub(crate) struct Shared<T>(UnsafeCell<T>);

// SAFETY: only pointers to it are handed out; each access says why it is sound.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) const fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// A C structure with all bytes zero, like the fields that a C initialiser does not name.
///
/// # Safety
/// All zeros must be a valid value of the type.
pub(crate) const unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
}

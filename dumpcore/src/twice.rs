//! A pointer stored twice, once inverted, so that a stray write to it is noticed before it is followed.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// A pointer, or none.
pub(crate) struct Twice<T> {
    pointer: AtomicPtr<T>,
    inverted: AtomicUsize,
}

impl<T> Twice<T> {
    /// No pointer.
    pub(crate) const fn new() -> Twice<T> {
        Twice { pointer: AtomicPtr::new(core::ptr::null_mut()), inverted: AtomicUsize::new(0) }
    }

    /// Stores a pointer; null for none.
    pub(crate) fn set(&self, pointer: *mut T) {
        self.pointer.store(pointer, Ordering::Release);
        self.inverted.store(!pointer.addr(), Ordering::Release);
    }

    /// The stored pointer; `None` if there is none or it was changed.
    pub(crate) fn get(&self) -> Option<NonNull<T>> {
        self.unless_changed(self.raw())
    }

    /// Like [`get`](Twice::get), and removes it.
    pub(crate) fn take(&self) -> Option<NonNull<T>> {
        self.unless_changed(self.pointer.swap(core::ptr::null_mut(), Ordering::AcqRel))
    }

    /// The pointer, changed or not: must not be followed.
    pub(crate) fn raw(&self) -> *mut T {
        self.pointer.load(Ordering::Acquire)
    }

    fn unless_changed(&self, pointer: *mut T) -> Option<NonNull<T>> {
        NonNull::new(pointer).filter(|pointer| pointer.addr().get() == !self.inverted.load(Ordering::Acquire))
    }
}

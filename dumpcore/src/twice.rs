//! A pointer that is stored twice, once inverted: a stray write that hits it is noticed before it is
//! followed.

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

    /// The pointer that was stored; `None` if there is none, or if it was changed.
    pub(crate) fn get(&self) -> Option<NonNull<T>> {
        self.unless_changed(self.raw())
    }

    /// As [`get`](Twice::get), and there is none afterwards.
    pub(crate) fn take(&self) -> Option<NonNull<T>> {
        self.unless_changed(self.pointer.swap(core::ptr::null_mut(), Ordering::AcqRel))
    }

    /// The pointer, changed or not: not to be followed.
    pub(crate) fn raw(&self) -> *mut T {
        self.pointer.load(Ordering::Acquire)
    }

    fn unless_changed(&self, pointer: *mut T) -> Option<NonNull<T>> {
        NonNull::new(pointer).filter(|pointer| pointer.addr().get() == !self.inverted.load(Ordering::Acquire))
    }
}

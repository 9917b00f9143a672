//! What the slots are built on: atomics, and memory that is only ever used by one CPU at a time.
//!
//! With `--cfg loom` these are loom's, which explores interleavings and records who uses the memory when.
//! Otherwise they are core's, in loom's shape, at no cost.

#[cfg(not(loom))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(loom)]
pub(super) use loom::{
    cell::{MutPtr, UnsafeCell},
    sync::atomic::{AtomicBool, Ordering},
};
#[cfg(loom)]
pub(super) use modelled::AtomicU64;
#[cfg(not(loom))]
pub(super) use plain::{MutPtr, UnsafeCell};

#[cfg(not(loom))]
mod plain {
    /// [`core::cell::UnsafeCell`] in loom's shape.
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(core::cell::UnsafeCell::new(value))
        }

        /// Begins exclusive use of the value, which ends when the pointer is dropped.
        pub(crate) fn get_mut(&self) -> MutPtr<T> {
            MutPtr(self.0.get())
        }
    }

    /// Exclusive use of the value.
    pub(crate) struct MutPtr<T>(*mut T);

    impl<T> MutPtr<T> {
        pub(crate) fn with<R>(&self, with: impl FnOnce(*mut T) -> R) -> R {
            with(self.0)
        }
    }
}

#[cfg(loom)]
mod modelled {
    use loom::sync::atomic::Ordering;

    /// loom's AtomicU64, such that loom explores all interleavings.
    ///
    /// To decide what else to explore, loom 0.7.2 compares a store only with the last access. A thread that
    /// loads the word just before changing it hides another thread's earlier load, and the two are never
    /// explored in the other order (tokio-rs/loom issues 166 and 392). Here every operation is a load
    /// followed by an exchange. So each access is preceded by a store to an atomic that is never read: loom
    /// compares stores with stores, and this store orders nothing.
    pub(crate) struct AtomicU64 {
        word: loom::sync::atomic::AtomicU64,
        access: loom::sync::atomic::AtomicBool,
    }

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> AtomicU64 {
            AtomicU64 {
                word: loom::sync::atomic::AtomicU64::new(value),
                access: loom::sync::atomic::AtomicBool::new(false),
            }
        }

        fn access(&self) -> &loom::sync::atomic::AtomicU64 {
            self.access.store(true, Ordering::Relaxed);
            &self.word
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.access().load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.access().store(value, order);
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.access().compare_exchange(current, new, success, failure)
        }
    }
}

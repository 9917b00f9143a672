//! What the slots share between CPUs: atomics, and memory that one CPU at a time may use.
//!
//! Compiled with `--cfg loom` these are loom's, which tries the interleavings and keeps a record of who uses
//! the memory when. Otherwise they are core's, in loom's shape, and cost nothing.

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

        /// The beginning of an exclusive use of the value, which ends when the pointer is dropped.
        pub(crate) fn get_mut(&self) -> MutPtr<T> {
            MutPtr(self.0.get())
        }
    }

    /// An exclusive use of the value.
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

    /// loom's AtomicU64, of which it tries all interleavings.
    ///
    /// To decide what else to try, loom 0.7.2 compares a store with the last access only. A thread that loads
    /// the word just before it changes it hides another's load before that, and the two are never tried the
    /// other way round (tokio-rs/loom issues 166 and 392). All here is load and then exchange. So each access
    /// is preceded by a store to an atomic that nobody reads: stores are compared with stores of others, and
    /// order nothing.
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

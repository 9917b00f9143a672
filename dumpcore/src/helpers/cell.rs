//! One cell: a value that the owner and the helpers pass to each other, and the atomic word that says who has
//! it.
//!
//! ```text
//!          post            take                finish         collect
//!   FREE ───────→ POSTED ────────→ TAKEN by h ────────→ DONE ────────→ FREE
//!          withdraw │                  │ give up
//!   FREE ←──────────┘                  └────────→ LOST, for ever
//! ```
//!
//! Where two parties may leave a state (POSTED and TAKEN), both use a compare-exchange, and exactly one
//! succeeds. Only the owner leaves FREE and DONE, so a store is enough.
//!
//! The value is only reachable through [`Mine`] and [`Job`]. No function creates either for a LOST cell, and
//! no function leaves LOST: the helper that was given up may still write to the value, now or in a minute,
//! and no one else ever uses it again.

use core::ops::{Deref, DerefMut};

use super::sync::{AtomicU64, MutPtr, Ordering, UnsafeCell};

/// The highest possible helper number: 2^20 - 1.
pub const MAX_HELPER: u32 = (1 << HELPER_BITS) - 1;

/// The last post number that fits into a word.
pub(super) const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

const STATE_BITS: u32 = 4;
const HELPER_BITS: u32 = 20;
const COUNT_BITS: u32 = u64::BITS - HELPER_BITS - STATE_BITS;

const FREE: u64 = 0;
const POSTED: u64 = 1;
const TAKEN: u64 = 2;
const DONE: u64 = 3;
const LOST: u64 = 4;

/// From the lowest bit up: the cell's state, the helper's number, the number of the post.
///
/// The number makes each post's words different from those of every other post, so a party that read the word
/// long ago cannot mistake a later post of the same cell for the one it saw.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    fn new(state: u64, helper: u32, count: u64) -> Word {
        Word(state | u64::from(helper) << STATE_BITS | count << (STATE_BITS + HELPER_BITS))
    }

    /// The same post and helper in another state.
    fn with(self, state: u64) -> Word {
        Word::new(state, self.helper(), self.count())
    }

    fn state(self) -> u64 {
        self.0 & ((1 << STATE_BITS) - 1)
    }

    pub(super) fn helper(self) -> u32 {
        (self.0 >> STATE_BITS) as u32 & MAX_HELPER
    }

    pub(super) fn count(self) -> u64 {
        self.0 >> (STATE_BITS + HELPER_BITS)
    }

    pub(super) fn is_free(self) -> bool {
        self.state() == FREE
    }

    pub(super) fn is_posted(self) -> bool {
        self.state() == POSTED
    }

    pub(super) fn is_taken(self) -> bool {
        self.state() == TAKEN
    }

    pub(super) fn is_done(self) -> bool {
        self.state() == DONE
    }
}

/// A value and its current holder. Each cell has cache lines of its own, so that a helper at work on one cell
/// does not slow down the polling of the next.
#[repr(align(64))]
pub(super) struct Cell<T> {
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: one party at a time uses the value: the holder of a Mine or a Job, of which there is at most one
// (see there). One party's use happens before the next one's. So the value is only ever sent, for which T:
// Send is enough.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    pub(super) fn new(value: T) -> Cell<T> {
        Cell { word: AtomicU64::new(Word::new(FREE, 0, 0).0), value: UnsafeCell::new(value) }
    }

    /// The word as it was a moment ago.
    pub(super) fn word(&self) -> Word {
        // Relaxed: no one uses the value on the basis of this word. To use it, a party calls one of the
        // functions below, which read the word again with the ordering they need.
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Sets bits of the word, as a stray write might.
    #[cfg(all(test, not(loom)))]
    pub(super) fn spoil(&self, bits: u64) {
        self.word.fetch_or(bits, Ordering::Relaxed);
    }

    fn exchange(&self, from: Word, to: Word, success: Ordering) -> bool {
        // Relaxed on failure: the cell then belongs to another party, and its value is not used.
        self.word.compare_exchange(from.0, to.0, success, Ordering::Relaxed).is_ok()
    }

    /// The value, if the cell is free.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn free(&self) -> Option<Mine<'_, T>> {
        // Relaxed: the owner itself stored FREE. Earlier writes of a helper were acquired in done().
        let word = Word(self.word.load(Ordering::Relaxed));
        word.is_free().then(|| Mine { cell: self, word, value: self.value.get_mut() })
    }

    /// The value, if the cell is done.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn done(&self) -> Option<Mine<'_, T>> {
        // Acquire: the helper's writes to the value happen before the Release in Job::finish(), hence before
        // the use here.
        let word = Word(self.word.load(Ordering::Acquire));
        word.is_done().then(|| Mine { cell: self, word, value: self.value.get_mut() })
    }

    /// Takes back the value of a post that no helper has taken. `seen` is the word of that post.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn withdraw(&self, seen: Word) -> Option<Mine<'_, T>> {
        // Relaxed: the count proves that it is still the post that was seen, so no helper has had the value
        // since the owner filled it. It must be an exchange, not a store, because a helper may be taking it
        // at this moment.
        let word = seen.with(FREE);
        let withdrawn = seen.is_posted() && self.exchange(seen, word, Ordering::Relaxed);
        withdrawn.then(|| Mine { cell: self, word, value: self.value.get_mut() })
    }

    /// Takes a post for a helper. `seen` is the word of that post.
    pub(super) fn take(&self, seen: Word, helper: u32) -> Option<Job<'_, T>> {
        if !seen.is_posted() || helper > MAX_HELPER {
            return None;
        }
        let word = Word::new(TAKEN, helper, seen.count());
        // Acquire: pairs with the Release in Mine::post(), so that the helper sees what the owner wrote.
        // Release is not needed: the helper has written nothing yet, and TAKEN does not let the owner use the
        // value.
        self.exchange(seen, word, Ordering::Acquire).then(|| Job {
            cell: self,
            word,
            value: self.value.get_mut(),
        })
    }

    /// Leaves a taken cell to its helper for good. `seen` is the word of that post.
    pub(super) fn give_up(&self, seen: Word) -> bool {
        // Relaxed: the value does not change hands. The helper keeps it, and the owner never uses it again.
        seen.is_taken() && self.exchange(seen, seen.with(LOST), Ordering::Relaxed)
    }
}

/// The owner's access to the value of a FREE or DONE cell. Only the owner leaves these states.
///
/// Dropping it leaves the cell unchanged.
pub(super) struct Mine<'a, T> {
    cell: &'a Cell<T>,
    word: Word,
    value: MutPtr<T>,
}

impl<T> Mine<'_, T> {
    pub(super) fn value(&mut self) -> &mut T {
        // SAFETY: the cell belongs to the owner until the owner posts it, which consumes self, and the owner
        // has no other Mine of it. The pointer comes from the cell's value.
        self.value.with(|value| unsafe { &mut *value })
    }

    /// Offers the value to the helpers, as post number `count`.
    pub(super) fn post(self, count: u64) {
        let Mine { cell, value, .. } = self;
        {
            // A helper may have the value from the store on, so the owner's use ends before it.
            let _end = value;
        }
        // Release: the owner's writes to the value happen before the Acquire of the helper that takes it.
        cell.word.store(Word::new(POSTED, 0, count).0, Ordering::Release);
    }

    /// Frees the cell for a later post.
    pub(super) fn keep(self) {
        // Relaxed: no helper uses the value of a free cell. The next post releases everything that happens
        // until then.
        self.cell.word.store(self.word.with(FREE).0, Ordering::Relaxed);
    }
}

/// A job that a helper has taken: its access to the cell's value.
///
/// If it is dropped without [`Job::finish`], the job stays taken until the owner gives it up.
///
/// The value is held as a pointer, not as a reference: a reference would promise exclusive use until `finish`
/// returns, but the owner may collect the value a moment earlier.
#[must_use = "a job that is dropped stays taken until the owner gives it up"]
pub struct Job<'a, T> {
    cell: &'a Cell<T>,
    word: Word,
    value: MutPtr<T>,
}

impl<T> Job<'_, T> {
    /// Hands the value back to the owner.
    ///
    /// Returns `false` if the owner has given it up in the meantime. The value will never be used, and the
    /// owner no longer counts on this helper: it must take no further job.
    #[must_use = "a helper that was given up must leave"]
    pub fn finish(self) -> bool {
        let Job { cell, word, value } = self;
        {
            // The owner may have the value from the exchange on, so the helper's use ends before it.
            let _end = value;
        }
        // Release: the helper's writes to the value happen before the Acquire in Cell::done(). It must be an
        // exchange, not a store, because the owner may be giving the job up at this moment.
        cell.exchange(word, word.with(DONE), Ordering::Release)
    }
}

impl<T> Deref for Job<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only one helper succeeds in Cell::take() for a post. From then on no one else uses the
        // value until this helper has finished, which consumes self; not even if the owner gives it up. The
        // pointer comes from the cell's value.
        self.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for Job<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref(); in addition, self is borrowed mutably as long as the reference lives.
        self.value.with(|value| unsafe { &mut *value })
    }
}

//! One cell: a value that owner and helpers hand to each other, and the atomic word that says whose it is.
//!
//! ```text
//!          post            take                finish         collect
//!   FREE ───────→ POSTED ────────→ TAKEN by h ────────→ DONE ────────→ FREE
//!          withdraw │                  │ give up
//!   FREE ←──────────┘                  └────────→ LOST, for ever
//! ```
//!
//! Where two parties may leave a state (POSTED and TAKEN), both do it with a compare-exchange, and exactly
//! one succeeds. FREE and DONE are left by the owner alone, so a store does.
//!
//! The value is reached only through [`Mine`] and [`Job`]. No function makes either of a cell that is LOST,
//! and LOST is left by no function: the helper that was given up may still write to the value, now or in a
//! minute, and nobody else ever looks at it again.

use core::ops::{Deref, DerefMut};

use super::sync::{AtomicU64, MutPtr, Ordering, UnsafeCell};

/// The highest number that a helper can have: 2^20 - 1.
pub const MAX_HELPER: u32 = (1 << HELPER_BITS) - 1;

/// The last post: a word's room for the count.
pub(super) const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

const STATE_BITS: u32 = 4;
const HELPER_BITS: u32 = 20;
const COUNT_BITS: u32 = u64::BITS - HELPER_BITS - STATE_BITS;

const FREE: u64 = 0;
const POSTED: u64 = 1;
const TAKEN: u64 = 2;
const DONE: u64 = 3;
const LOST: u64 = 4;

/// A cell's state, the helper's number and the count of the post, from the lowest bit up.
///
/// The count makes each post's words different from those of every other post. A party that looked at the
/// word long ago cannot take a later post of the same cell for the one it saw.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    fn new(state: u64, helper: u32, count: u64) -> Word {
        Word(state | u64::from(helper) << STATE_BITS | count << (STATE_BITS + HELPER_BITS))
    }

    /// The same post in another state; the helper is kept.
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

/// A value and whose it is. On cache lines of its own, so that a helper at work on one cell does not slow
/// down those who look at the next.
#[repr(align(64))]
pub(super) struct Cell<T> {
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is used by one party at a time: whoever holds a Mine or a Job, of which there is one at
// most (see there). Its use by one happens before its use by the next. So it is only ever sent, for which T:
// Send is enough.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    pub(super) fn new(value: T) -> Cell<T> {
        Cell { word: AtomicU64::new(Word::new(FREE, 0, 0).0), value: UnsafeCell::new(value) }
    }

    /// The word as it was a moment ago.
    pub(super) fn word(&self) -> Word {
        // Relaxed: nobody uses the value because of what this says. Whoever wants to goes through one of the
        // functions below, which look again with the ordering they need.
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Sets bits of the word, as a stray write may.
    #[cfg(all(test, not(loom)))]
    pub(super) fn spoil(&self, bits: u64) {
        self.word.fetch_or(bits, Ordering::Relaxed);
    }

    fn exchange(&self, from: Word, to: Word, success: Ordering) -> bool {
        // Relaxed when it fails: then the cell is someone else's, and its value is not used.
        self.word.compare_exchange(from.0, to.0, success, Ordering::Relaxed).is_ok()
    }

    /// The value, if the cell is free.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn free(&self) -> Option<Mine<'_, T>> {
        // Relaxed: FREE was stored by the owner itself. What a helper wrote before was acquired in done().
        let word = Word(self.word.load(Ordering::Relaxed));
        word.is_free().then(|| Mine { cell: self, word, value: self.value.get_mut() })
    }

    /// The value, if the cell is done.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn done(&self) -> Option<Mine<'_, T>> {
        // Acquire: what the helper wrote to the value happens before the Release in Job::finish(), hence
        // before its use here.
        let word = Word(self.word.load(Ordering::Acquire));
        word.is_done().then(|| Mine { cell: self, word, value: self.value.get_mut() })
    }

    /// The value of a post that nobody has taken, back from the helpers. `seen` is the word of that post.
    ///
    /// # Safety
    /// The caller is the only owner, and holds no other [`Mine`] of this cell.
    pub(super) unsafe fn withdraw(&self, seen: Word) -> Option<Mine<'_, T>> {
        // Relaxed: the count says that it is still the post that was seen, so no helper has had the value
        // since the owner itself filled it. It must be an exchange, not a store, because a helper may take it
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
        // Acquire: pairs with the Release in Mine::post(), so that the helper sees what the owner filled in.
        // Not Release: the helper has written nothing yet, and the owner uses no value because of TAKEN.
        self.exchange(seen, word, Ordering::Acquire).then(|| Job {
            cell: self,
            word,
            value: self.value.get_mut(),
        })
    }

    /// Leaves a cell that was taken to its helper, for ever. `seen` is the word of that post.
    pub(super) fn give_up(&self, seen: Word) -> bool {
        // Relaxed: the value passes from nobody to nobody. The helper keeps it, the owner turns away.
        seen.is_taken() && self.exchange(seen, seen.with(LOST), Ordering::Relaxed)
    }
}

/// The owner's use of the value of a cell that is FREE or DONE, states that nobody else leaves.
///
/// Dropped, it leaves the cell as it is.
pub(super) struct Mine<'a, T> {
    cell: &'a Cell<T>,
    word: Word,
    value: MutPtr<T>,
}

impl<T> Mine<'_, T> {
    pub(super) fn value(&mut self) -> &mut T {
        // SAFETY: the cell is the owner's until it posts it, which consumes self, and the owner has no other
        // Mine of it. The pointer comes from the cell's value.
        self.value.with(|value| unsafe { &mut *value })
    }

    /// Offers the value to the helpers, as post number `count`.
    pub(super) fn post(self, count: u64) {
        let Mine { cell, value, .. } = self;
        {
            // A helper may have the value from the store on: the owner's use ends before.
            let _end = value;
        }
        // Release: what the owner wrote to the value happens before the Acquire of the helper that takes it.
        cell.word.store(Word::new(POSTED, 0, count).0, Ordering::Release);
    }

    /// Keeps the cell for a later post.
    pub(super) fn keep(self) {
        // Relaxed: no helper looks at the value of a free cell. The next post releases whatever happens until
        // then.
        self.cell.word.store(self.word.with(FREE).0, Ordering::Relaxed);
    }
}

/// A job that a helper has taken: its use of the cell's value.
///
/// Dropped without [`Job::finish`], it stays taken until the owner gives it up.
///
/// The value is held as a pointer, not as a reference: a reference would promise that nobody else uses the
/// value until `finish` returns, but the owner may collect it a moment earlier.
#[must_use = "a job that is dropped stays taken until the owner gives it up"]
pub struct Job<'a, T> {
    cell: &'a Cell<T>,
    word: Word,
    value: MutPtr<T>,
}

impl<T> Job<'_, T> {
    /// Hands the value back to the owner.
    ///
    /// `false`: the owner has given it up meanwhile. Nobody will look at the value, and the owner counts on this helper no
    /// more: it must take no further job.
    #[must_use = "a helper that was given up must leave"]
    pub fn finish(self) -> bool {
        let Job { cell, word, value } = self;
        {
            // The owner may have the value from the exchange on: the helper's use ends before.
            let _end = value;
        }
        // Release: what the helper wrote to the value happens before the Acquire in Cell::done(). It must be
        // an exchange, not a store, because the owner may give the job up at this moment.
        cell.exchange(word, word.with(DONE), Ordering::Release)
    }
}

impl<T> Deref for Job<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: one helper alone succeeds in Cell::take() for a post. From then on nobody uses the value
        // until this helper has finished, which consumes self; not even if the owner gives it up. The pointer
        // comes from the cell's value.
        self.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for Job<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref(), and self is borrowed mutably as long as the reference lives.
        self.value.with(|value| unsafe { &mut *value })
    }
}

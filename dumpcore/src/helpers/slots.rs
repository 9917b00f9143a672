//! The slots, through which the crashing CPU passes jobs to helpers and gets the results.
//!
//! A fixed array of cells, each with a value that the owner and the helpers pass to each other through one
//! atomic word. There is one [`Owner`], the crashing CPU; any number of helpers [take](Slots::take) the jobs
//! that it posts. No function waits: each visits every cell a fixed number of times at most, then returns.
//!
//! A helper may stop at any point, for good: it is a CPU of a machine that has just crashed. The owner then
//! [gives the job up](Owner::give_up). The cell is lost, and the job has to be done again from the owner's
//! copy of the input. The helper keeps the value in case it comes back, so everything that a job writes to
//! must be in the value or reachable only through it.

use super::cell::{Cell, MAX_COUNT, Word};
use super::sync::{AtomicBool, Ordering};
use crate::limits::MAX_HELPERS;

pub use super::cell::{Job, MAX_HELPER};

/// Maximum number of cells: two per helper, so that one is waiting when the other is done.
pub const MAX_SLOTS: usize = 2 * MAX_HELPERS;

/// Cells with a value each, which pass jobs to helpers and back.
pub struct Slots<T> {
    cells: [Option<Cell<T>>; MAX_SLOTS],
    /// Whether there is an [`Owner`].
    owned: AtomicBool,
}

impl<T> Slots<T> {
    /// One cell for each of `values`, at most [`MAX_SLOTS`]; further values are not taken from the iterator.
    pub fn new(values: impl IntoIterator<Item = T>) -> Slots<T> {
        let mut values = values.into_iter().fuse();
        Slots { cells: core::array::from_fn(|_| values.next().map(Cell::new)), owned: AtomicBool::new(false) }
    }

    /// Returns the right to post and collect. It exists once at a time: `None` until the current owner is
    /// dropped.
    ///
    /// A new owner starts with nothing outstanding and never sees results of the previous owner's posts:
    /// posts that are not taken are withdrawn, finished ones are freed, and taken ones are given up. Values
    /// stay unchanged.
    pub fn owner(&self) -> Option<Owner<'_, T>> {
        // Acquire: pairs with the Release in Owner's drop, so the next owner knows all that the previous one
        // knew about the cells.
        self.owned.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let posts = self.words().map(|(_, _, word)| word.count()).max().unwrap_or(0);
        for (_, cell, word) in self.words() {
            // In the order in which a post progresses: if a helper moves it on between two of these, the next
            // one catches it. SAFETY: the exchange above made this the only owner, and its only Mines are
            // those that end here.
            unsafe {
                let _ = cell.withdraw(word);
                cell.give_up(cell.word());
                if let Some(mine) = cell.done() {
                    mine.keep();
                }
            }
        }
        Some(Owner { slots: self, posts })
    }

    /// Takes the oldest job that no helper has taken, for the helper with this number, which is at most
    /// [`MAX_HELPER`] and unique among helpers.
    ///
    /// `None` if there is none now, or if others were faster [`MAX_SLOTS`] times in a row; then try again.
    pub fn take(&self, helper: u32) -> Option<Job<'_, T>> {
        // Bounded by MAX_SLOTS: each further try means that another party has just taken or withdrawn the
        // job.
        for _ in 0..MAX_SLOTS {
            let (cell, word) = self.first(Word::is_posted)?;
            if let Some(job) = cell.take(word, helper) {
                return Some(job);
            }
        }
        None
    }

    /// Each cell with its index and its word, at most MAX_SLOTS.
    fn words(&self) -> impl Iterator<Item = (usize, &Cell<T>, Word)> {
        let cells = self.cells.iter().enumerate();
        cells.filter_map(|(slot, cell)| cell.as_ref().map(|cell| (slot, cell, cell.word())))
    }

    /// The cell with the earliest post among those in a state.
    fn first(&self, state: impl Fn(Word) -> bool) -> Option<(&Cell<T>, Word)> {
        let cells = self.words().filter(|(_, _, word)| state(*word));
        cells.min_by_key(|(_, _, word)| word.count()).map(|(_, cell, word)| (cell, word))
    }
}

/// Identifies one post. Later posts compare greater, whichever cell they are in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket {
    // First, because it decides the order.
    count: u64,
    slot: usize,
}

impl Ticket {
    /// The cell's index, less than [`MAX_SLOTS`]. Unique among outstanding posts.
    pub fn slot(self) -> usize {
        self.slot
    }
}

/// The state of a post.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No helper has taken it.
    Posted,
    /// The helper with this number works on it, or died doing so.
    Taken(u32),
    /// It is finished and waits to be collected.
    Done,
}

/// The one party that posts and collects jobs.
///
/// Dropping it makes way for the next owner; helpers may still take its posts.
pub struct Owner<'a, T> {
    slots: &'a Slots<T>,
    /// The number of the last post.
    posts: u64,
}

impl<T> Owner<'_, T> {
    /// Fills a free cell with `fill` and offers it to the helpers. `fill` gets the value as the last job or
    /// the last [`Owner::withdraw`] left it.
    ///
    /// Returns `None`, without calling `fill`, if no cell is free or after 2^40 - 1 posts.
    pub fn post(&mut self, fill: impl FnOnce(&mut T)) -> Option<Ticket> {
        let count = self.posts.saturating_add(1);
        if count > MAX_COUNT {
            return None;
        }
        let (slot, cell, _) = self.slots.words().find(|(_, _, word)| word.is_free())?;
        // SAFETY: there is one Owner, it is borrowed mutably here, and no Mine outlives its functions.
        let mut mine = unsafe { cell.free() }?;
        fill(mine.value());
        mine.post(count);
        self.posts = count;
        Some(Ticket { count, slot })
    }

    /// Calls `look` with the values of all free cells, at most [`MAX_SLOTS`].
    pub fn look_at_free(&mut self, mut look: impl FnMut(&T)) {
        for (_, cell, word) in self.slots.words() {
            if !word.is_free() {
                continue;
            }
            // SAFETY: there is one Owner, it is borrowed mutably here, and no Mine outlives its functions.
            let mine = unsafe { cell.free() };
            if let Some(mut mine) = mine {
                look(mine.value());
            }
        }
    }

    /// Frees the oldest finished cell, after calling `look` with its value.
    ///
    /// Returns `None`, without calling `look`, if none is finished.
    pub fn collect<R>(&mut self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (cell, _) = self.slots.first(Word::is_done)?;
        // SAFETY: there is one Owner, it is borrowed mutably here, and no Mine outlives its functions.
        let mut mine = unsafe { cell.done() }?;
        let result = look(mine.value());
        mine.keep();
        Some(result)
    }

    /// Takes back the oldest cell that no helper has taken, and frees it after calling `look` with its value.
    /// The owner does the job itself or drops it.
    ///
    /// Returns `None`, without calling `look`, if all are taken.
    pub fn withdraw<R>(&mut self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        // Bounded by MAX_SLOTS, which is never reached: each further try means that a helper has taken one,
        // and no new ones are posted meanwhile.
        for _ in 0..MAX_SLOTS {
            let (cell, word) = self.slots.first(Word::is_posted)?;
            // SAFETY: there is one Owner, it is borrowed mutably here, and no Mine outlives its functions.
            if let Some(mut mine) = unsafe { cell.withdraw(word) } {
                return Some(look(mine.value()));
            }
        }
        None
    }

    /// Gives up a post that a helper has taken, and its cell, for good. The helper may still write to the
    /// value; it learns of this when it finishes.
    ///
    /// Returns `false`, without a change, if the post is not taken: it may have been finished at the last
    /// moment and is then to be collected.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let Some(Some(cell)) = self.slots.cells.get(ticket.slot) else {
            return false;
        };
        let word = cell.word();
        word.count() == ticket.count && cell.give_up(word)
    }

    /// Number of posts that are neither collected, withdrawn nor given up.
    pub fn outstanding(&self) -> usize {
        self.jobs().count()
    }

    /// The outstanding posts with their states, at most [`MAX_SLOTS`], in order of their cells.
    pub fn jobs(&self) -> impl Iterator<Item = (Ticket, State)> {
        self.slots.words().filter_map(|(slot, _, word)| {
            let state = if word.is_posted() {
                State::Posted
            } else if word.is_taken() {
                State::Taken(word.helper())
            } else if word.is_done() {
                State::Done
            } else {
                return None;
            };
            Some((Ticket { count: word.count(), slot }, state))
        })
    }
}

impl<T> Drop for Owner<'_, T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in Slots::owner().
        self.slots.owned.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    use super::*;

    // The right to post cannot be cloned, nor can a job. Values that must stay on their CPU cannot be passed
    // to others.
    assert_not_impl_any!(Owner<'static, u32>: Clone);
    assert_not_impl_any!(Job<'static, u32>: Clone);
    assert_impl_all!(Slots<core::cell::Cell<u32>>: Sync);
    assert_not_impl_any!(Slots<std::rc::Rc<u32>>: Sync);

    #[test]
    fn when_the_counts_are_used_up_nothing_is_posted_and_what_is_out_can_be_collected() {
        let slots = Slots::new([0, 0]);
        let mut owner = slots.owner().unwrap();
        owner.posts = MAX_COUNT - 1;
        let last = owner.post(|value| *value = 7).unwrap();
        assert_eq!(last.count, MAX_COUNT);
        assert_eq!(owner.post(|_| panic!("filled")), None);
        let job = slots.take(MAX_HELPER).unwrap();
        assert!(owner.jobs().eq([(last, State::Taken(MAX_HELPER))]));
        assert!(job.finish());
        assert_eq!(owner.collect(|value| *value), Some(7));
        // A new owner does not reuse old counts either.
        drop(owner);
        assert_eq!(slots.owner().unwrap().post(|_| panic!("filled")), None);
    }

    #[test]
    fn a_word_with_a_state_that_does_not_exist_is_left_alone() {
        let slots = Slots::new([0]);
        let mut owner = slots.owner().unwrap();
        let ticket = owner.post(|_| {}).unwrap();
        // A stray write turned the state into 15.
        let (_, cell, _) = slots.words().next().unwrap();
        cell.spoil(15);
        assert!(slots.take(0).is_none());
        assert_eq!(owner.collect(|_| ()), None);
        assert_eq!(owner.withdraw(|_| ()), None);
        assert_eq!(owner.post(|_| ()), None);
        assert!(!owner.give_up(ticket));
        assert_eq!(owner.outstanding(), 0);
    }
}

//! The slots: where the crashing CPU leaves jobs for those that help it, and finds them done.
//!
//! A fixed array of cells, each with a value of its own, which owner and helpers hand to each other by one
//! atomic word. There is one [`Owner`], the crashing CPU; any number of helpers [take](Slots::take) what it
//! posts. Nobody waits: every function looks at each cell a fixed number of times at most, and returns.
//!
//! A helper may stop at any point and for good: it is a CPU of a machine that has just crashed. The owner
//! then [gives the job up](Owner::give_up). That costs its cell, and the job is to be done once more, from
//! what the owner kept. The value stays with the helper, should it come back: so everything that a job writes
//! to must be in the value, or be reached only through it.

use super::cell::{Cell, MAX_COUNT, Word};
use super::sync::{AtomicBool, Ordering};
use crate::limits::MAX_HELPERS;

pub use super::cell::Job;
#[cfg(any(test, feature = "_internals"))]
pub use super::cell::MAX_HELPER;

/// As many cells as there can be: each helper has two units, so that one is waiting when the other is done.
pub const MAX_SLOTS: usize = 2 * MAX_HELPERS;

/// Cells with a value each, through which jobs go to helpers and back.
pub struct Slots<T> {
    cells: [Option<Cell<T>>; MAX_SLOTS],
    /// Whether there is an [`Owner`].
    owned: AtomicBool,
}

impl<T> Slots<T> {
    /// One cell for each of `values`, at most [`MAX_SLOTS`]; further values are not asked for.
    pub fn new(values: impl IntoIterator<Item = T>) -> Slots<T> {
        let mut values = values.into_iter().fuse();
        Slots { cells: core::array::from_fn(|_| values.next().map(Cell::new)), owned: AtomicBool::new(false) }
    }

    /// The right to post and collect. There is one at a time: `None` until the one there is has been dropped.
    ///
    /// A new owner begins with nothing outstanding, and never sees a result of what the one before has
    /// posted: what nobody has taken is withdrawn, what is done is freed, and what is still taken is given
    /// up. Values stay as they are.
    pub fn owner(&self) -> Option<Owner<'_, T>> {
        // Acquire: pairs with the Release in Owner's drop. The next owner knows all that the one before knew
        // of the cells.
        self.owned.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let posts = self.words().map(|(_, _, word)| word.count()).max().unwrap_or(0);
        for (_, cell, word) in self.words() {
            // In the order in which a post goes on: if a helper is just ahead of one of these, the next finds
            // it. SAFETY: the exchange above made this the only owner, and it has no Mine but the ones that
            // end here.
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

    /// The job that was posted first of those that nobody has taken, for the helper with this number: its
    /// CPU's, at most [`MAX_HELPER`](super::cell::MAX_HELPER); no two helpers have the same.
    ///
    /// `None` if there is none now. Also if others were faster [`MAX_SLOTS`] times in a row: then look again.
    pub fn take(&self, helper: u32) -> Option<Job<'_, T>> {
        // Bounded by MAX_SLOTS: each further look means that another has just taken the job, or withdrawn it.
        for _ in 0..MAX_SLOTS {
            let (cell, word) = self.first(Word::is_posted)?;
            if let Some(job) = cell.take(word, helper) {
                return Some(job);
            }
        }
        None
    }

    /// Each cell with its place and its word, at most MAX_SLOTS.
    fn words(&self) -> impl Iterator<Item = (usize, &Cell<T>, Word)> {
        let cells = self.cells.iter().enumerate();
        cells.filter_map(|(slot, cell)| cell.as_ref().map(|cell| (slot, cell, cell.word())))
    }

    /// Of the cells in a state, the one with the earliest post.
    fn first(&self, state: impl Fn(Word) -> bool) -> Option<(&Cell<T>, Word)> {
        let cells = self.words().filter(|(_, _, word)| state(*word));
        cells.min_by_key(|(_, _, word)| word.count()).map(|(_, cell, word)| (cell, word))
    }
}

/// Names one post. Later posts compare greater, whichever cell they are in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket {
    // First, for the order.
    count: u64,
    slot: usize,
}

impl Ticket {
    /// The cell's place, less than [`MAX_SLOTS`]. Of the posts that are outstanding, no two have the same.
    pub fn slot(self) -> usize {
        self.slot
    }
}

/// What has become of a post.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nobody has taken it.
    Posted,
    /// The helper with this number works on it, or has stopped doing so.
    Taken(u32),
    /// It is to be collected.
    Done,
}

/// The one party that posts jobs and collects them.
///
/// Dropped, it makes way for the next owner; helpers may still take what it has posted.
pub struct Owner<'a, T> {
    slots: &'a Slots<T>,
    /// The count of the last post.
    posts: u64,
}

impl<T> Owner<'_, T> {
    /// Fills a free cell with `fill` and offers it to the helpers. `fill` finds the value as the last job or
    /// the last [`Owner::withdraw`] left it.
    ///
    /// `None`, with `fill` not called, if no cell is free; at the latest after 2^40 - 1 posts.
    pub fn post(&mut self, fill: impl FnOnce(&mut T)) -> Option<Ticket> {
        let count = self.posts.saturating_add(1);
        if count > MAX_COUNT {
            return None;
        }
        let (slot, cell, _) = self.slots.words().find(|(_, _, word)| word.is_free())?;
        // SAFETY: there is one Owner, it is borrowed mutably here, and it has no Mine outside of its
        // functions.
        let mut mine = unsafe { cell.free() }?;
        fill(mine.value());
        mine.post(count);
        self.posts = count;
        Some(Ticket { count, slot })
    }

    /// Shows the values of all free cells, at most [`MAX_SLOTS`].
    pub fn look_at_free(&mut self, mut look: impl FnMut(&T)) {
        for (_, cell, word) in self.slots.words() {
            if !word.is_free() {
                continue;
            }
            // SAFETY: there is one Owner, it is borrowed mutably here, and it has no Mine outside of its
            // functions.
            let mine = unsafe { cell.free() };
            if let Some(mut mine) = mine {
                look(mine.value());
            }
        }
    }

    /// Frees the cell that was posted first of those that are done, after `look` has seen its value.
    ///
    /// `None`, with `look` not called, if none is done.
    pub fn collect<R>(&mut self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (cell, _) = self.slots.first(Word::is_done)?;
        // SAFETY: there is one Owner, it is borrowed mutably here, and it has no Mine outside of its
        // functions.
        let mut mine = unsafe { cell.done() }?;
        let result = look(mine.value());
        mine.keep();
        Some(result)
    }

    /// Takes the cell that was posted first of those that nobody has taken back, and frees it after `look`
    /// has seen its value: the owner does that job itself, or nobody.
    ///
    /// `None`, with `look` not called, if all are taken.
    pub fn withdraw<R>(&mut self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        // Bounded by MAX_SLOTS, which is never reached: each further look means that a helper has taken one,
        // and there are no new ones meanwhile.
        for _ in 0..MAX_SLOTS {
            let (cell, word) = self.slots.first(Word::is_posted)?;
            // SAFETY: there is one Owner, it is borrowed mutably here, and it has no Mine outside of its
            // functions.
            if let Some(mut mine) = unsafe { cell.withdraw(word) } {
                return Some(look(mine.value()));
            }
        }
        None
    }

    /// Gives up a post that a helper has taken, and its cell with it, for ever. The helper may still write to
    /// the value; it is told when it finishes.
    ///
    /// `false`, and nothing is changed, if it is not taken: it was done in the last moment, say, and is to be
    /// collected.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let Some(Some(cell)) = self.slots.cells.get(ticket.slot) else {
            return false;
        };
        let word = cell.word();
        word.count() == ticket.count && cell.give_up(word)
    }

    /// How many posts are posted, taken or done: neither collected, withdrawn nor given up.
    pub fn outstanding(&self) -> usize {
        self.jobs().count()
    }

    /// The outstanding posts and what has become of each, at most [`MAX_SLOTS`], in order of their cells.
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

    // The right to post cannot be doubled, nor a job. Values that must stay on their CPU cannot be handed to
    // others.
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
        // Neither does a new owner begin again with old counts.
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

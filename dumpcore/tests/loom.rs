//! The slots under loom: all interleavings of owner and helpers with at most three preemptions, and all
//! values that the memory model lets each load return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p dumpcore --release --test loom
//! ```
//!
//! The models can fail. Each of these was put in by hand, and was found:
//!
//! - The exchange to DONE in `Job::finish`, or the load of it in `Cell::done`, made Relaxed: whoever collects
//!   while helpers run reads the value without the helper's writes being ordered before, and loom stops with
//!   "Causality violation: Concurrent write accesses to `UnsafeCell`". The models that collect after the join
//!   alone would not notice.
//! - The same for the store of POSTED, the exchange to TAKEN, and both sides of the owner's flag.
//! - An exchange replaced by a look and a store, for each of the four: two have the value at once, or a late
//!   helper is told `true`.
//! - A cell that was given up becomes FREE, POSTED or DONE instead of LOST: it is used again.
//! - `give_up` that compares only the cell, or a count that stands still: the second post is given up for the
//!   first.
//! - A new owner that does not withdraw, free or give up what the one before has posted.
//!
//! Each model also asserts that it reached the cases it is about: [`Seen`].
#![cfg(loom)]

use std::sync::atomic::{AtomicUsize, Ordering};

use dumpcore::helpers::slots::{Job, Owner, Slots, State};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

/// The work. Two results, so that a half-written one can be detected.
#[derive(Default)]
struct Work {
    number: u64,
    halves: [u64; 2],
    /// How often it was processed since it was filled.
    runs: u32,
}

impl Work {
    fn fill(&mut self, number: u64) {
        *self = Work { number, halves: [0; 2], runs: 0 };
    }

    fn first_half(&mut self) {
        self.halves[0] = self.number * 3;
    }

    fn second_half(&mut self) {
        self.halves[1] = self.number * 5;
        self.runs += 1;
    }

    /// The job's number, after checking its result.
    fn whole(&mut self) -> u64 {
        assert_eq!((self.halves, self.runs), ([self.number * 3, self.number * 5], 1));
        self.number
    }

    /// The owner does the job itself.
    fn by_owner(&mut self) -> u64 {
        assert_eq!((self.halves, self.runs), ([0; 2], 0), "a withdrawn job was worked on");
        self.first_half();
        self.second_half();
        self.whole()
    }
}

fn by_helper(mut job: Job<'_, Work>) -> bool {
    job.first_half();
    job.second_half();
    job.finish()
}

/// A helper that looks for work this many times. Returns the number of jobs done.
fn help(slots: &Slots<Work>, helper: u32, looks: usize) -> usize {
    let mut done = 0;
    for _ in 0..looks {
        if let Some(job) = slots.take(helper) {
            assert!(by_helper(job), "nobody was given up");
            done += 1;
        }
    }
    done
}

fn slots(cells: usize) -> Arc<Slots<Work>> {
    Arc::new(Slots::new((0..cells).map(|_| Work::default())))
}

fn spawn<R: 'static>(
    slots: &Arc<Slots<Work>>,
    run: impl FnOnce(&Slots<Work>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let slots = Arc::clone(slots);
    thread::spawn(move || run(&slots))
}

/// The rest when the helpers are gone: collected if done, otherwise done by the owner. Returns the number
/// collected.
fn finish(owner: &mut Owner<'_, Work>, results: &mut Vec<u64>) -> usize {
    let before = results.len();
    while let Some(number) = owner.collect(Work::whole) {
        results.push(number);
    }
    let collected = results.len() - before;
    while let Some(number) = owner.withdraw(Work::by_owner) {
        results.push(number);
    }
    collected
}

/// Counts of outcomes, to notice a model that never reaches them.
struct Seen(AtomicUsize);

impl Seen {
    const fn new() -> Seen {
        Seen(AtomicUsize::new(0))
    }

    fn count(&self, it: bool) {
        self.0.fetch_add(usize::from(it), Ordering::Relaxed);
    }

    fn assert(&self, what: &str) {
        assert_ne!(self.0.load(Ordering::Relaxed), 0, "no interleaving: {what}");
    }
}

fn model(run: impl Fn() + Send + Sync + 'static) {
    let runs = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&runs);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}

#[test]
fn two_helpers_and_the_owner_do_every_job_once_and_its_result_is_seen_whole() {
    static WITH_HELPERS_AT_WORK: Seen = Seen::new();
    static BY_OWNER: Seen = Seen::new();
    static BY_HELPERS: Seen = Seen::new();
    model(|| {
        let slots = slots(2);
        let mut owner = slots.owner().unwrap();
        for number in [1, 2] {
            assert!(owner.post(|work| work.fill(number)).is_some());
        }
        let helpers = [1, 2].map(|helper| spawn(&slots, move |slots| help(slots, helper, 1)));
        let mut results = Vec::new();
        // Before joining the helpers, so that only the slots order their writes before this read.
        results.extend(owner.collect(Work::whole));
        let mut collected = results.len();
        WITH_HELPERS_AT_WORK.count(collected == 1);
        results.extend(owner.withdraw(Work::by_owner));
        let done: usize = helpers.map(|helper| helper.join().unwrap()).iter().sum();
        collected += finish(&mut owner, &mut results);
        assert_eq!(collected, done);
        results.sort_unstable();
        assert_eq!(results, [1, 2]);
        assert_eq!(owner.outstanding(), 0);
        BY_OWNER.count(done == 1);
        BY_HELPERS.count(done == 2);
    });
    WITH_HELPERS_AT_WORK.assert("a job was collected while the helpers ran");
    BY_OWNER.assert("owner and helper did one job each");
    BY_HELPERS.assert("the helpers did both jobs");
}

#[test]
fn a_job_whose_helper_stalls_is_done_again_by_others_and_the_late_helper_touches_nothing() {
    static GIVEN_UP: Seen = Seen::new();
    static BY_OTHER: Seen = Seen::new();
    static DONE_IN_THE_LAST_MOMENT: Seen = Seen::new();
    model(|| {
        let slots = slots(2);
        let mut owner = slots.owner().unwrap();
        let ticket = owner.post(|work| work.fill(1)).unwrap();
        let stalling = spawn(&slots, |slots| {
            let mut job = slots.take(1)?;
            job.first_half();
            // It stalls here for as long as the model likes.
            thread::yield_now();
            job.second_half();
            Some(job.finish())
        });
        let other = spawn(&slots, |slots| slots.take(2).map(by_helper));
        let state = owner.jobs().find(|(posted, _)| *posted == ticket);
        let given_up = state == Some((ticket, State::Taken(1))) && owner.give_up(ticket);
        DONE_IN_THE_LAST_MOMENT.count(state == Some((ticket, State::Taken(1))) && !given_up);
        let mut results = Vec::new();
        if given_up {
            GIVEN_UP.count(true);
            assert_eq!(owner.outstanding(), 0);
            assert!(!owner.give_up(ticket), "it was given up twice");
            // Only the other cell is left: the lost one is never posted, collected or withdrawn again.
            let again = owner.post(|work| work.fill(1)).unwrap();
            assert_ne!(again.slot(), ticket.slot());
            assert!(owner.post(|_| panic!("a lost cell was filled")).is_none());
            results.extend(owner.withdraw(Work::by_owner).or_else(|| owner.collect(Work::whole)));
            BY_OTHER.count(owner.jobs().any(|job| job == (again, State::Taken(2))));
        }
        let finished = stalling.join().unwrap();
        assert_eq!(given_up, finished == Some(false));
        assert_ne!(other.join().unwrap(), Some(false), "the other was not given up");
        finish(&mut owner, &mut results);
        assert_eq!(results, [1]);
        assert_eq!(owner.outstanding(), 0);
    });
    GIVEN_UP.assert("the helper was given up");
    BY_OTHER.assert("the other helper did the job again");
    DONE_IN_THE_LAST_MOMENT.assert("the helper finished while it was given up");
}

#[test]
fn of_those_who_take_and_the_one_who_withdraws_exactly_one_has_the_job() {
    static BY_OWNER: Seen = Seen::new();
    static BY_HELPER: [Seen; 2] = [Seen::new(), Seen::new()];
    model(|| {
        let slots = slots(1);
        let mut owner = slots.owner().unwrap();
        let helpers = [1, 2].map(|helper| spawn(&slots, move |slots| help(slots, helper, 1)));
        assert!(owner.post(|work| work.fill(1)).is_some());
        let withdrawn = owner.withdraw(Work::by_owner);
        assert_eq!(withdrawn.is_none(), owner.outstanding() == 1);
        let done = helpers.map(|helper| helper.join().unwrap());
        assert_eq!(usize::from(withdrawn.is_some()) + done[0] + done[1], 1);
        assert_eq!(owner.collect(Work::whole), withdrawn.is_none().then_some(1));
        BY_OWNER.count(withdrawn.is_some());
        BY_HELPER[0].count(done[0] == 1);
        BY_HELPER[1].count(done[1] == 1);
    });
    BY_OWNER.assert("the owner withdrew the job");
    BY_HELPER.iter().for_each(|seen| seen.assert("a helper took the job"));
}

#[test]
fn a_cell_posted_again_under_a_helper_that_is_just_looking_gives_each_post_to_one() {
    static BOTH_BY_HELPERS: Seen = Seen::new();
    static STALE_TICKET: Seen = Seen::new();
    model(|| {
        let slots = slots(1);
        let mut owner = slots.owner().unwrap();
        let first = owner.post(|work| work.fill(1)).unwrap();
        let helpers = [1, 2].map(|helper| spawn(&slots, move |slots| help(slots, helper, 1)));
        let mut results = Vec::new();
        results.extend(owner.collect(Work::whole).or_else(|| owner.withdraw(Work::by_owner)));
        let mut posts = 1;
        if let Some(second) = owner.post(|work| work.fill(2)) {
            posts += 1;
            assert!(second > first && second.slot() == first.slot());
            // The first ticket is not the second, even if the cell is taken again: no effect.
            STALE_TICKET.count(owner.jobs().any(|job| matches!(job, (_, State::Taken(_)))));
            assert!(!owner.give_up(first));
            results.extend(owner.collect(Work::whole));
        }
        let done: usize = helpers.map(|helper| helper.join().unwrap()).iter().sum();
        finish(&mut owner, &mut results);
        assert_eq!(results, (1..=posts).collect::<Vec<u64>>());
        BOTH_BY_HELPERS.count(done == 2);
    });
    BOTH_BY_HELPERS.assert("one helper did the first post of the cell, the other the second");
    STALE_TICKET.assert("the first post's ticket was given up while the second was taken");
}

#[test]
fn there_is_one_owner_at_a_time_and_the_next_sees_what_the_one_before_left() {
    static BOTH: Seen = Seen::new();
    static REFUSED: Seen = Seen::new();
    model(|| {
        let slots = slots(1);
        let own = |slots: &Slots<Work>| {
            let Some(mut owner) = slots.owner() else {
                return false;
            };
            // The previous owner's leftovers in the value are read, and filled anew.
            assert!(owner.post(|work| work.fill(work.number + 1)).is_some());
            assert!(owner.withdraw(Work::by_owner).is_some());
            true
        };
        let other = spawn(&slots, own);
        let owned = [own(&slots), other.join().unwrap()];
        let mut owner = slots.owner().unwrap();
        assert!(owner.post(|work| work.fill(work.number + 1)).is_some());
        let total = owner.withdraw(Work::by_owner);
        assert_eq!(total, Some(1 + owned.iter().filter(|owned| **owned).count() as u64));
        BOTH.count(owned == [true; 2]);
        REFUSED.count(owned != [true; 2]);
    });
    BOTH.assert("both were owners, one behind the other");
    REFUSED.assert("one was refused");
}

#[test]
fn the_next_owner_gets_no_result_of_the_one_before_and_no_cell_that_is_still_worked_on() {
    static WITHDRAWN: Seen = Seen::new();
    static FREED: Seen = Seen::new();
    static GIVEN_UP: Seen = Seen::new();
    model(|| {
        let slots = slots(1);
        let mut owner = slots.owner().unwrap();
        assert!(owner.post(|work| work.fill(1)).is_some());
        let helper = spawn(&slots, |slots| slots.take(1).map(|job| (job.number, by_helper(job))));
        drop(owner);
        let mut owner = slots.owner().unwrap();
        assert_eq!((owner.outstanding(), owner.collect(Work::whole)), (0, None));
        let mut results = Vec::new();
        let posted = owner.post(|work| work.fill(2)).is_some();
        if posted {
            results.extend(owner.withdraw(Work::by_owner));
        }
        let helped = helper.join().unwrap();
        // The cell was given up if and only if the helper is told so.
        assert_eq!(posted, helped != Some((1, false)));
        finish(&mut owner, &mut results);
        assert_eq!(results, if posted { vec![2] } else { vec![] });
        WITHDRAWN.count(helped.is_none_or(|(number, _)| number == 2));
        FREED.count(helped == Some((1, true)));
        GIVEN_UP.count(helped == Some((1, false)));
    });
    WITHDRAWN.assert("the post was withdrawn");
    FREED.assert("the post was done, and its cell freed");
    GIVEN_UP.assert("the post was given up");
}

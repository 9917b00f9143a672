//! The slots, which pass jobs to other CPUs: against a model, step by step, and with threads that stall and
//! die. `loom.rs` tries the interleavings of a few of them.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dumpcore::helpers::slots::{Job, MAX_HELPER, MAX_SLOTS, Slots, State, Ticket};
use dumpcore::sim::cases;
use proptest::prelude::*;

/// The work: long enough that a concurrent reader and writer would be noticed.
struct Work {
    number: u64,
    result: [u64; 64],
    /// How often it was processed since it was filled.
    runs: u32,
}

impl Work {
    fn new() -> Work {
        Work { number: 0, result: [0; 64], runs: 0 }
    }

    fn fill(&mut self, number: u64) {
        *self = Work { number, ..Work::new() };
    }

    fn word(number: u64, at: usize) -> u64 {
        (number ^ (at as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn half(&mut self, second: bool) {
        let number = self.number;
        let words = self.result.iter_mut().enumerate().skip(if second { 32 } else { 0 }).take(32);
        words.for_each(|(at, word)| *word = Work::word(number, at));
    }

    fn run(&mut self) {
        self.half(false);
        self.half(true);
        self.runs += 1;
    }

    /// The job's number, after checking its result.
    fn exact(&mut self) -> u64 {
        assert_eq!(self.runs, 1, "job {}", self.number);
        for (at, word) in self.result.iter().enumerate() {
            assert_eq!(*word, Work::word(self.number, at), "job {}, word {at}", self.number);
        }
        self.number
    }

    /// The owner does the job itself.
    fn by_owner(&mut self) -> u64 {
        assert_eq!(
            (self.runs, self.result),
            (0, [0; 64]),
            "job {} was withdrawn, but worked on",
            self.number
        );
        self.run();
        self.exact()
    }
}

#[test]
fn there_are_as_many_cells_as_values_and_no_more_than_the_most() {
    for (values, cells) in [(0, 0), (1, 1), (MAX_SLOTS, MAX_SLOTS), (MAX_SLOTS + 9, MAX_SLOTS)] {
        let slots = Slots::new(0..values);
        let mut owner = slots.owner().unwrap();
        for slot in 0..cells {
            // The values are in order, and so are the cells.
            assert_eq!(owner.post(|value| assert_eq!(*value, slot)).unwrap().slot(), slot);
        }
        assert!(owner.post(|_| panic!("filled")).is_none());
        assert_eq!(owner.outstanding(), cells);
    }
}

#[test]
fn a_helper_whose_number_is_too_high_gets_nothing() {
    let slots = Slots::new([Work::new()]);
    let mut owner = slots.owner().unwrap();
    let ticket = owner.post(|work| work.fill(1)).unwrap();
    assert!(slots.take(MAX_HELPER + 1).is_none());
    assert!(slots.take(u32::MAX).is_none());
    assert!(owner.jobs().eq([(ticket, State::Posted)]));
    assert!(slots.take(MAX_HELPER).is_some());
}

/// A step of the model. Numbers select among the possibilities.
#[derive(Clone, Copy, Debug)]
enum Step {
    Post,
    Take,
    Finish(usize),
    /// A helper dies, or leaves silently.
    Abandon(usize),
    Collect,
    Withdraw,
    GiveUp(usize),
    ChangeOwner,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Post),
        5 => Just(Step::Take),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Abandon),
        3 => Just(Step::Collect),
        2 => Just(Step::Withdraw),
        2 => any::<usize>().prop_map(Step::GiveUp),
        1 => Just(Step::ChangeOwner),
    ]
}

/// The model's record of a post.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Outstanding(State),
    /// Collected or withdrawn, by its owner or the next.
    Gone,
    Lost,
}

/// Posts by ticket, that is, in order: each with its number and state.
type Posts = BTreeMap<Ticket, (u64, Fate)>;

fn first(posts: &Posts, state: State) -> Option<(Ticket, u64)> {
    let of_state = |(_, post): &(&Ticket, &(u64, Fate))| post.1 == Fate::Outstanding(state);
    posts.iter().find(of_state).map(|(ticket, post)| (*ticket, post.0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn one_step_after_the_other_the_slots_do_what_a_simple_model_does(
        cells in 0..=MAX_SLOTS,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let slots = Slots::new((0..cells).map(|_| Work::new()));
        let mut owner = slots.owner().unwrap();
        let mut posts = Posts::new();
        let mut jobs: Vec<(Ticket, Job<'_, Work>)> = Vec::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Post => {
                    let used = |fate: &Fate| *fate != Fate::Gone;
                    let busy: Vec<usize> =
                        posts.iter().filter(|(_, post)| used(&post.1)).map(|(ticket, _)| ticket.slot()).collect();
                    let last = posts.last_key_value().map(|(ticket, _)| *ticket);
                    match owner.post(|work| work.fill(number)) {
                        Some(ticket) => {
                            prop_assert!(ticket.slot() < cells && !busy.contains(&ticket.slot()));
                            prop_assert!(last.is_none_or(|last| ticket > last));
                            posts.insert(ticket, (number, Fate::Outstanding(State::Posted)));
                            number += 1;
                        }
                        None => prop_assert_eq!(busy.len(), cells),
                    }
                }
                Step::Take => {
                    let helper = jobs.len() as u32;
                    let job = slots.take(helper);
                    let expected = first(&posts, State::Posted);
                    prop_assert_eq!(job.as_ref().map(|job| job.number), expected.map(|(_, number)| number));
                    if let (Some((ticket, number)), Some(job)) = (expected, job) {
                        posts.insert(ticket, (number, Fate::Outstanding(State::Taken(helper))));
                        jobs.push((ticket, job));
                    }
                }
                Step::Finish(which) if !jobs.is_empty() => {
                    let (ticket, mut job) = jobs.swap_remove(which % jobs.len());
                    let post = posts.get_mut(&ticket).unwrap();
                    job.run();
                    prop_assert_eq!(job.number, post.0);
                    prop_assert_eq!(job.finish(), post.1 != Fate::Lost);
                    if post.1 != Fate::Lost {
                        post.1 = Fate::Outstanding(State::Done);
                    }
                }
                Step::Abandon(which) if !jobs.is_empty() => {
                    jobs.swap_remove(which % jobs.len()).1.half(false);
                }
                Step::Collect => {
                    let expected = first(&posts, State::Done);
                    prop_assert_eq!(owner.collect(Work::exact), expected.map(|(_, number)| number));
                    expected.map(|(ticket, number)| posts.insert(ticket, (number, Fate::Gone)));
                }
                Step::Withdraw => {
                    let expected = first(&posts, State::Posted);
                    prop_assert_eq!(owner.withdraw(Work::by_owner), expected.map(|(_, number)| number));
                    expected.map(|(ticket, number)| posts.insert(ticket, (number, Fate::Gone)));
                }
                Step::GiveUp(which) if !posts.is_empty() => {
                    let which = which % posts.len();
                    let (ticket, post) = posts.iter_mut().nth(which).unwrap();
                    let taken = matches!(post.1, Fate::Outstanding(State::Taken(_)));
                    prop_assert_eq!(owner.give_up(*ticket), taken);
                    if taken {
                        post.1 = Fate::Lost;
                    }
                }
                Step::ChangeOwner => {
                    prop_assert!(slots.owner().is_none());
                    drop(owner);
                    owner = slots.owner().unwrap();
                    for (_, fate) in posts.values_mut() {
                        *fate = match *fate {
                            Fate::Outstanding(State::Taken(_)) | Fate::Lost => Fate::Lost,
                            Fate::Outstanding(State::Posted | State::Done) | Fate::Gone => Fate::Gone,
                        };
                    }
                }
                Step::Finish(_) | Step::Abandon(_) | Step::GiveUp(_) => {}
            }
            let outstanding: BTreeMap<Ticket, State> = posts
                .iter()
                .filter_map(|(ticket, post)| match post.1 {
                    Fate::Outstanding(state) => Some((*ticket, state)),
                    Fate::Gone | Fate::Lost => None,
                })
                .collect();
            prop_assert_eq!(owner.outstanding(), outstanding.len());
            prop_assert_eq!(owner.jobs().collect::<BTreeMap<_, _>>(), outstanding);
        }
    }
}

/// A helper's behaviour with a job.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Work,
    /// Pauses in the middle for this long, then continues; it may have been given up meanwhile.
    Stall(Duration),
    /// Stops in the middle for good.
    Die,
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        12 => Just(Mood::Work),
        3 => (0..3000_u64).prop_map(|span| Mood::Stall(Duration::from_micros(span))),
        1 => Just(Mood::Die),
    ]
}

/// The results of the helpers' jobs.
#[derive(Default)]
struct Count {
    finished: AtomicUsize,
    too_late: AtomicUsize,
    died: AtomicUsize,
}

fn help(slots: &Slots<Work>, helper: u32, moods: &[Mood], over: &AtomicBool, count: &Count) {
    let mut moods = moods.iter().cycle();
    // Until the owner says so, by a guard if it panics.
    while !over.load(Ordering::Relaxed) {
        let Some(mut job) = slots.take(helper) else {
            thread::yield_now();
            continue;
        };
        job.half(false);
        match moods.next().copied().unwrap_or(Mood::Work) {
            Mood::Work => {}
            Mood::Stall(span) => thread::sleep(span),
            Mood::Die => {
                count.died.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        job.half(true);
        job.runs += 1;
        if !job.finish() {
            count.too_late.fetch_add(1, Ordering::Relaxed);
            return;
        }
        count.finished.fetch_add(1, Ordering::Relaxed);
    }
}

/// Dismisses the helpers, even if the owner panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(96)))]

    #[test]
    fn whatever_becomes_of_the_helpers_every_job_is_done_exactly_and_once(
        cells in 0..=MAX_SLOTS,
        helpers in prop::collection::vec(prop::collection::vec(mood(), 0..12), 0..6),
        jobs in 0..200_u64,
        patience in 0..1500_u64,
    ) {
        let patience = Duration::from_micros(patience);
        let slots = Slots::new((0..cells).map(|_| Work::new()));
        let (over, count) = (AtomicBool::new(false), Count::default());
        let mut results = Vec::new();
        let (mut collected, mut given_up) = (0, 0);
        thread::scope(|scope| {
            let over = Over(&over);
            for (helper, moods) in helpers.iter().enumerate() {
                let (slots, over, count) = (&slots, over.0, &count);
                scope.spawn(move || help(slots, helper as u32, moods, over, count));
            }
            let mut owner = slots.owner().unwrap();
            let mut waiting: Vec<u64> = (0..jobs).rev().collect();
            // The last post of each cell, and since when it has been seen taken.
            let mut kept: [Option<(Ticket, u64, Option<Instant>)>; MAX_SLOTS] = [None; MAX_SLOTS];
            let end = Instant::now() + Duration::from_secs(60);
            while results.len() < jobs as usize {
                assert!(Instant::now() < end, "it never ends");
                while let Some(number) = owner.collect(Work::exact) {
                    results.push(number);
                    collected += 1;
                }
                let taken: Vec<Ticket> =
                    owner.jobs().filter(|job| matches!(job.1, State::Taken(_))).map(|job| job.0).collect();
                for ticket in taken {
                    let (posted, number, since) = kept[ticket.slot()].as_mut().unwrap();
                    assert_eq!(*posted, ticket);
                    if since.get_or_insert_with(Instant::now).elapsed() >= patience && owner.give_up(ticket) {
                        given_up += 1;
                        waiting.push(*number);
                    }
                }
                match waiting.pop() {
                    Some(number) => match owner.post(|work| work.fill(number)) {
                        Some(ticket) => kept[ticket.slot()] = Some((ticket, number, None)),
                        None => {
                            // No cell is free: the owner does the first job that was not taken, or this one.
                            let first = owner.withdraw(Work::by_owner);
                            results.push(first.unwrap_or(number));
                            waiting.extend(first.map(|_| number));
                        }
                    },
                    None => results.extend(owner.withdraw(Work::by_owner)),
                }
                thread::yield_now();
            }
            assert_eq!(owner.outstanding(), 0);
        });
        results.sort_unstable();
        prop_assert!(results.iter().copied().eq(0..jobs));
        prop_assert_eq!(count.finished.into_inner(), collected);
        prop_assert_eq!(count.too_late.into_inner() + count.died.into_inner(), given_up);
    }
}

//! Work on several threads, with the results in order.
//!
//! Jobs are created one after another, so that creating them may read a medium from front to back. Threads
//! process them independently, and the caller takes the results in order. At most two jobs per thread are in
//! progress or waiting to be taken, which limits memory.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use dumpcore::format::{BLOCK_SIZE, Block};

/// Number of CPUs available for threads.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Maximum number of jobs in progress or waiting to be taken.
pub(crate) fn under_way(threads: usize) -> usize {
    threads.max(1).saturating_mul(2)
}

/// Returns the next job, or `None` at the end, using the state of the calling thread.
pub(crate) type Next<'a, S, J> = &'a mut (dyn FnMut(&mut S) -> Option<J> + Send);

/// The work. Each thread has its own state, such as buffers.
pub(crate) struct Line<'a, S, J, T> {
    /// Creates a thread's state.
    pub(crate) state: &'a (dyn Fn() -> S + Sync),
    /// Creates the next job. Called by one thread at a time.
    pub(crate) next: Next<'a, S, J>,
    /// Processes a job.
    pub(crate) work: &'a (dyn Fn(&mut S, J) -> T + Sync),
}

impl<S, J, T: Send> Line<'_, S, J, T> {
    /// Processes all jobs on `threads` threads besides the caller's, which passes the results to `take`. With
    /// one thread, the caller does everything.
    ///
    /// # Errors
    /// The first error of `take`; then no further job is started.
    pub(crate) fn run<E>(self, threads: usize, take: &mut dyn FnMut(T) -> Result<(), E>) -> Result<(), E> {
        let Line { state, next, work } = self;
        let counter = Counter::new(under_way(threads));
        let jobs = Mutex::new(next);
        if threads > 1 {
            let done = thread::scope(|scope| {
                // Nobody waits for ever, even if `take` panics.
                let _stop = Stop(&counter);
                let hand = || hand(&jobs, &counter, state, work);
                let spawn = || thread::Builder::new().spawn_scoped(scope, hand).is_ok();
                // If the system allows fewer threads, use these.
                if (0..threads).take_while(|_| spawn()).count() == 0 {
                    return None;
                }
                while let Some(result) = counter.take() {
                    if let Err(error) = take(result) {
                        return Some(Err(error));
                    }
                }
                Some(Ok(()))
            });
            if let Some(done) = done {
                return done;
            }
        }
        let next = jobs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut state = state();
        while let Some(job) = next(&mut state) {
            take(work(&mut state, job))?;
        }
        Ok(())
    }
}

/// The work of one thread.
fn hand<S, J, T>(
    jobs: &Mutex<Next<'_, S, J>>,
    counter: &Counter<T>,
    state: &(dyn Fn() -> S + Sync),
    work: &(dyn Fn(&mut S, J) -> T + Sync),
) {
    let mut unwound = Unwound { counter, armed: true };
    let mut state = state();
    loop {
        let (number, job) = {
            let mut next = locked(jobs);
            if !counter.wait_for_room() {
                break;
            }
            match next(&mut state) {
                Some(job) => (counter.give(), job),
                None => {
                    counter.finish();
                    break;
                }
            }
        };
        counter.put(number, work(&mut state, job));
    }
    unwound.armed = false;
}

/// Reusable buffers: new memory costs a page fault for each page.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<Block>>>);

impl Pool {
    /// A buffer of at least `blocks` blocks, with any contents.
    pub(crate) fn take(&self, blocks: usize) -> Vec<Block> {
        let mut buffer = locked(&self.0).pop().unwrap_or_default();
        if buffer.len() < blocks {
            buffer.resize(blocks, [0; BLOCK_SIZE]);
        }
        buffer
    }

    /// Returns a buffer for reuse.
    pub(crate) fn give_back(&self, buffer: Vec<Block>) {
        locked(&self.0).push(buffer);
    }
}

/// Counts the jobs that were created, done and taken.
struct Counter<T> {
    numbers: Mutex<Numbers<T>>,
    changed: Condvar,
    limit: u64,
}

struct Numbers<T> {
    given: u64,
    taken: u64,
    done: BTreeMap<u64, T>,
    /// Whether all jobs were created.
    finished: bool,
    /// Whether no more jobs may start.
    stopped: bool,
}

impl<T> Counter<T> {
    fn new(limit: usize) -> Counter<T> {
        let numbers = Numbers { given: 0, taken: 0, done: BTreeMap::new(), finished: false, stopped: false };
        Counter { numbers: Mutex::new(numbers), changed: Condvar::new(), limit: limit as u64 }
    }

    /// Waits until another job may be created; `false` at the end.
    fn wait_for_room(&self) -> bool {
        let mut numbers = locked(&self.numbers);
        while !numbers.stopped && !numbers.finished && numbers.given - numbers.taken >= self.limit {
            numbers = self.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        !numbers.stopped && !numbers.finished
    }

    /// The number of a new job.
    fn give(&self) -> u64 {
        let mut numbers = locked(&self.numbers);
        numbers.given += 1;
        numbers.given - 1
    }

    fn finish(&self) {
        locked(&self.numbers).finished = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        locked(&self.numbers).stopped = true;
        self.changed.notify_all();
    }

    fn put(&self, number: u64, result: T) {
        locked(&self.numbers).done.insert(number, result);
        self.changed.notify_all();
    }

    /// Waits for the result of the next job in order; `None` at the end, or if a thread has panicked.
    fn take(&self) -> Option<T> {
        let mut numbers = locked(&self.numbers);
        loop {
            let next = numbers.taken;
            if let Some(result) = numbers.done.remove(&next) {
                numbers.taken += 1;
                self.changed.notify_all();
                return Some(result);
            }
            if numbers.stopped || (numbers.finished && numbers.given == numbers.taken) {
                return None;
            }
            numbers = self.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the threads when the caller has finished.
struct Stop<'a, T>(&'a Counter<T>);

impl<T> Drop for Stop<'_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Stops the caller when a thread panics; the panic continues in the caller.
struct Unwound<'a, T> {
    counter: &'a Counter<T>,
    armed: bool,
}

impl<T> Drop for Unwound<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            self.counter.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Creates jobs with the numbers below `jobs`, processes them with these `pauses`, and takes them up to
    /// `until`.
    fn taken(threads: usize, jobs: usize, pauses: &[u64], until: usize) -> (Vec<usize>, usize) {
        let mut numbers = 0..jobs;
        let (begun, over, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let mut taken = Vec::new();
        let line = Line {
            state: &|| (),
            next: &mut |()| {
                let number = numbers.next()?;
                let open = begun.fetch_add(1, Ordering::SeqCst) + 1 - over.load(Ordering::SeqCst);
                most.fetch_max(open, Ordering::SeqCst);
                Some(number)
            },
            work: &|(), number: usize| {
                let pause = pauses.get(number % pauses.len().max(1)).copied().unwrap_or(0);
                thread::sleep(std::time::Duration::from_micros(pause));
                number
            },
        };
        let stopped = line.run(threads, &mut |number| {
            taken.push(number);
            over.fetch_add(1, Ordering::SeqCst);
            if taken.len() < until { Ok(()) } else { Err(()) }
        });
        assert_eq!(stopped.is_err(), until <= jobs);
        (taken, most.into_inner())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn results_come_in_order_and_few_are_under_way(
            threads in 1_usize..5,
            jobs in 0_usize..60,
            pauses in prop::collection::vec(0_u64..300, 0..9),
            until in 1_usize..80,
        ) {
            let (taken, most) = taken(threads, jobs, &pauses, until);
            prop_assert_eq!(taken, (0..jobs.min(until)).collect::<Vec<_>>());
            // One more is created while the previous one is being counted.
            prop_assert!(most <= under_way(threads) + 1, "{} under way", most);
        }
    }

    #[test]
    fn a_panic_of_a_thread_reaches_the_caller() {
        let caught = std::panic::catch_unwind(|| {
            let mut numbers = 0..100;
            let line = Line {
                state: &|| (),
                next: &mut |()| numbers.next(),
                work: &|(), number| assert!(number != 7, "seven"),
            };
            line.run(3, &mut |()| Ok::<(), ()>(()))
        });
        caught.unwrap_err();
    }

    #[test]
    fn a_panic_of_the_caller_ends_the_threads() {
        let caught = std::panic::catch_unwind(|| {
            let mut numbers = 0..;
            let line =
                Line { state: &|| (), next: &mut |()| numbers.next(), work: &|(), number: u64| number };
            line.run(3, &mut |number| -> Result<(), ()> { panic!("at {number}") })
        });
        caught.unwrap_err();
    }
}

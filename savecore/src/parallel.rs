//! Work done on several threads, with the results taken in order.
//!
//! The jobs are given out one after another, so that giving them out may read a medium from front to back. A thread
//! works on each alone, and the caller takes the results in the order of the jobs. Not more than two jobs for each thread
//! are under way or wait to be taken, which bounds the memory.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use dumpcore::format::{BLOCK_SIZE, Block};

/// The threads that there is a processor for.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Jobs that are under way or wait to be taken, at most.
pub(crate) fn under_way(threads: usize) -> usize {
    threads.max(1).saturating_mul(2)
}

/// Returns the next job, until there is none, by means of the state of the thread that asks.
pub(crate) type Next<'a, S, J> = &'a mut (dyn FnMut(&mut S) -> Option<J> + Send);

/// What is to be done. Each thread has a state of its own, such as buffers.
pub(crate) struct Line<'a, S, J, T> {
    /// Makes a thread's state.
    pub(crate) state: &'a (dyn Fn() -> S + Sync),
    /// What is to be done next. Only one thread at a time is in here.
    pub(crate) next: Next<'a, S, J>,
    /// Does a job.
    pub(crate) work: &'a (dyn Fn(&mut S, J) -> T + Sync),
}

impl<S, J, T: Send> Line<'_, S, J, T> {
    /// Does all jobs on `threads` threads besides the caller's, which gives the results to `take`. With one thread, all
    /// is done by the caller.
    ///
    /// # Errors
    /// The first error of `take`; then no further job is begun.
    pub(crate) fn run<E>(self, threads: usize, take: &mut dyn FnMut(T) -> Result<(), E>) -> Result<(), E> {
        let Line { state, next, work } = self;
        let counter = Counter::new(under_way(threads));
        let jobs = Mutex::new(next);
        if threads > 1 {
            let done = thread::scope(|scope| {
                // Also if `take` panics, nobody waits for ever.
                let _stop = Stop(&counter);
                let hand = || hand(&jobs, &counter, state, work);
                let spawn = || thread::Builder::new().spawn_scoped(scope, hand).is_ok();
                // A system that gives fewer threads gives fewer.
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

/// What one thread does.
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

/// Buffers that are used again: memory that is new costs a page fault for each of its pages.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<Block>>>);

impl Pool {
    /// A buffer of at least that many blocks, whatever they hold.
    pub(crate) fn take(&self, blocks: usize) -> Vec<Block> {
        let mut buffer = locked(&self.0).pop().unwrap_or_default();
        if buffer.len() < blocks {
            buffer.resize(blocks, [0; BLOCK_SIZE]);
        }
        buffer
    }

    /// Keeps a buffer for the next who takes one.
    pub(crate) fn give_back(&self, buffer: Vec<Block>) {
        locked(&self.0).push(buffer);
    }
}

/// Which jobs were given out, done and taken.
struct Counter<T> {
    numbers: Mutex<Numbers<T>>,
    changed: Condvar,
    limit: u64,
}

struct Numbers<T> {
    given: u64,
    taken: u64,
    done: BTreeMap<u64, T>,
    /// Whether there are no more jobs.
    finished: bool,
    /// Whether nothing more is to be begun.
    stopped: bool,
}

impl<T> Counter<T> {
    fn new(limit: usize) -> Counter<T> {
        let numbers = Numbers { given: 0, taken: 0, done: BTreeMap::new(), finished: false, stopped: false };
        Counter { numbers: Mutex::new(numbers), changed: Condvar::new(), limit: limit as u64 }
    }

    /// Waits until another job may be given out; `false` if none may be any more.
    fn wait_for_room(&self) -> bool {
        let mut numbers = locked(&self.numbers);
        while !numbers.stopped && !numbers.finished && numbers.given - numbers.taken >= self.limit {
            numbers = self.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        !numbers.stopped && !numbers.finished
    }

    /// The number of a job that is given out.
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

    /// Waits for the result of the next job in order; `None` if there are no more, or a thread has panicked.
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

/// Stops the threads when the caller is done with them.
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

    /// Gives out the numbers below `jobs`, works as long on each as `pauses` says, and takes them up to `until`.
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
            // One more is given out while the one just taken is being counted.
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

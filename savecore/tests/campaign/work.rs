//! The runs to do, and what they found.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::scenario::{Scenario, Trouble};

/// One run: which scenario, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) scenario: usize,
    pub(crate) trouble: Trouble,
}

/// The results of many runs.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Runs.
    pub(crate) runs: u64,
    /// Runs that the trouble hit; the others ended before it came.
    pub(crate) hurt: u64,
    /// Dumps that were neither on their partition nor in the store.
    pub(crate) lost: u64,
    /// What should not have happened, one line each.
    pub(crate) findings: Vec<String>,
}

impl Found {
    pub(crate) fn add(&mut self, other: Found) {
        self.runs += other.runs;
        self.hurt += other.hurt;
        self.lost += other.lost;
        self.findings.extend(other.findings);
    }
}

/// Numbers that look random.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// A list of runs in pseudo-random order, so that any part of it is a sample of the whole; or random runs
/// without end.
pub(crate) struct Work {
    list: Option<Vec<Run>>,
    next: AtomicUsize,
    dice: Mutex<Dice>,
    deadline: Instant,
}

impl Work {
    /// Kills at random moments.
    pub(crate) fn endless(seed: u64, deadline: Instant) -> Work {
        Work { list: None, next: AtomicUsize::new(0), dice: Mutex::new(Dice::new(seed)), deadline }
    }

    /// Each of these once.
    pub(crate) fn list(mut list: Vec<Run>, seed: u64, deadline: Instant) -> Work {
        let mut dice = Dice::new(seed);
        for at in (1..list.len()).rev() {
            list.swap(at, dice.below(at as u64 + 1) as usize);
        }
        Work { list: Some(list), next: AtomicUsize::new(0), dice: Mutex::new(dice), deadline }
    }

    /// The number of runs, unless they are endless.
    pub(crate) fn length(&self) -> Option<usize> {
        self.list.as_ref().map(Vec::len)
    }

    pub(crate) fn next(&self, scenarios: &[Scenario]) -> Option<Run> {
        if Instant::now() >= self.deadline {
            return None;
        }
        if let Some(list) = &self.list {
            return list.get(self.next.fetch_add(1, Ordering::Relaxed)).cloned();
        }
        let mut dice = self.dice.lock().ok()?;
        let scenario = dice.below(scenarios.len() as u64) as usize;
        let micros = (scenarios[scenario].whole.as_micros() as u64).saturating_mul(11) / 10;
        // One to four in a row: each run starts with what the one before it left.
        let kills = (0..=dice.below(4)).map(|_| dice.below(micros)).collect();
        Some(Run { scenario, trouble: Trouble::Kills { after_micros: kills } })
    }
}

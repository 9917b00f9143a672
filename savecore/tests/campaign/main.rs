//! Tests that take hours: savecore is killed, or one of its system calls fails, over and over, in every way
//! that it is used. `cargo xtask campaign` runs them; `cargo test` does not.
//!
//! `campaign NAME [--seconds N] [--seed N]` prints one JSON object: what was run, how often, and what was
//! found.

mod calls;
// The campaign uses only some of it; savecore's other tests use the rest.
#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;
mod scenario;
mod work;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scenario::Scenario;
use crate::work::{Found, Run, Work};

/// Runs at the same time.
const LANES: u64 = 2;

/// Maximum number of findings to print in full; the others are counted.
const TOLD: usize = 20;

struct Arguments {
    name: String,
    seconds: u64,
    seed: u64,
}

impl Arguments {
    fn read() -> Option<Arguments> {
        let mut words = std::env::args().skip(1);
        let mut arguments = Arguments { name: words.next()?, seconds: 10, seed: 1 };
        while let Some(word) = words.next() {
            let number = words.next()?.parse().ok()?;
            match word.as_str() {
                "--seconds" => arguments.seconds = number,
                "--seed" => arguments.seed = number,
                _ => return None,
            }
        }
        Some(arguments)
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::read() else {
        eprintln!("campaign NAME [--seconds N] [--seed N]; NAME is kills, calls or faults");
        return ExitCode::from(2);
    };
    let scenarios = Scenario::all();
    let deadline = Instant::now() + Duration::from_secs(arguments.seconds);
    let work = match arguments.name.as_str() {
        "kills" => Work::endless(arguments.seed, deadline),
        "calls" => Work::list(calls::kills(&scenarios), arguments.seed, deadline),
        "faults" => Work::list(calls::faults(&scenarios), arguments.seed, deadline),
        other => {
            eprintln!("there is no {other}: kills, calls or faults");
            return ExitCode::from(2);
        }
    };
    let begin = Instant::now();
    let found = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| lane(&work, &scenarios))).collect();
        let mut all = Found::default();
        for lane in lanes {
            all.add(lane.join().expect("a lane does not panic"));
        }
        all
    });
    let told: Vec<&String> = found.findings.iter().take(TOLD).collect();
    let printed = json!({
        "name": arguments.name,
        "seed": arguments.seed,
        "seconds": begin.elapsed().as_secs_f64(),
        "runs": found.runs,
        "of": work.length(),
        "hurt": found.hurt,
        "lost": found.lost,
        "findings": found.findings.len(),
        "told": told,
    });
    println!("{printed}");
    if found.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Takes runs from the list until it is empty or time is up.
fn lane(work: &Work, scenarios: &[Scenario]) -> Found {
    let place = scenario::Place::new();
    let mut found = Found::default();
    while let Some(run) = work.next(scenarios) {
        let Run { scenario, trouble } = run;
        scenarios[scenario].go(&place, &trouble, &mut found);
    }
    found
}

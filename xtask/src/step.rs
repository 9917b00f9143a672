//! The steps of a task: each is one line on the terminal, and is counted.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ui::{self, Mark};

/// A section that takes longer has hung.
pub(crate) const SECTION_LIMIT: Duration = Duration::from_secs(1200);

/// The counts of a series of work.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The result of a step: its facts, or the reason why it was skipped.
pub(crate) enum Step {
    /// The facts.
    Done(String),
    /// The reason.
    Skipped(String),
}

/// Whether this is a continuous-integration machine, where nothing may be skipped for want of a tool.
pub(crate) fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Runs one step, prints its line, counts it.
pub(crate) fn step(count: &mut Count, name: &str, run: impl FnOnce() -> Result<Step>) {
    ui::running(name);
    let begin = Instant::now();
    let result = run();
    let took = Some(begin.elapsed());
    match result {
        Ok(Step::Done(facts)) => {
            count.passed += 1;
            ui::done(Mark::Ok, name, &facts, took);
        }
        Ok(Step::Skipped(why)) => {
            count.skipped += 1;
            ui::done(Mark::Skipped, name, &why, took);
        }
        Err(error) => {
            count.failed += 1;
            ui::done(Mark::Failed, name, &format!("{error:#}"), took);
        }
    }
}

/// Why tests failed, from their output: the names of those that did, or that none was run.
pub(crate) fn why_failed(text: &str) -> String {
    let names = failures(text);
    if names.is_empty() { "it did not build or was killed".to_owned() } else { names.join(", ") }
}

/// Adds up the summaries of nextest (`3 tests run: 2 passed, 1 failed, 0 skipped`) and of the standard test
/// harness (`test result: ok. 2 passed; 1 failed; 0 ignored; …`). If nextest counts, the harness output that
/// it shows for a failed test does not count.
pub(crate) fn counted(text: &str) -> Count {
    let mut count = Count::default();
    let by_nextest = |line: &str| line.trim_start().starts_with("Summary [");
    let is_nextest = text.lines().any(by_nextest);
    for line in text.lines() {
        let summary = if is_nextest {
            line.split_once(" run: ").filter(|_| by_nextest(line))
        } else {
            line.split_once("test result: ")
        };
        let Some((_, summary)) = summary else { continue };
        let words: Vec<&str> =
            summary.split([' ', ',', ';', '.', '(', ')']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let [number, word] = pair else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match *word {
                "passed" => count.passed += number,
                "failed" | "timed" => count.failed += number,
                "ignored" | "skipped" => count.skipped += number,
                _ => {}
            }
        }
    }
    count
}

/// The names of failed tests; only nextest's, if it has any, since it also shows the harness output of a
/// failed test.
pub(crate) fn failures(text: &str) -> Vec<String> {
    let by_nextest = |line: &str| {
        let rest = line.strip_prefix("FAIL [").or_else(|| line.strip_prefix("TIMEOUT ["))?;
        let name = rest.split_once(']')?.1.trim();
        // Its number in the run.
        let place = name.strip_prefix('(').and_then(|rest| rest.split_once(") "));
        Some(place.map_or(name, |(_, name)| name).to_owned())
    };
    let by_harness = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    let mut names: Vec<String> = text.lines().filter_map(|line| by_nextest(line.trim())).collect();
    if names.is_empty() {
        names = text.lines().filter_map(|line| by_harness(line.trim())).collect();
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_summaries_are_counted() {
        let nextest = "     Summary [   0.437s] 27 tests run: 25 passed, 1 failed, 1 timed out, 2 skipped";
        assert_eq!(counted(nextest), Count { passed: 25, failed: 2, skipped: 2 });
        let harness = "test result: FAILED. 3 passed; 1 failed; 4 ignored; 0 measured; 9 filtered out; finished in 0.1s\n\
                       test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(counted(harness), Count { passed: 5, failed: 1, skipped: 4 });
        assert_eq!(counted("3 passed by the door"), Count::default());
        // Nextest shows the harness output of a failed test.
        assert_eq!(counted(&format!("{harness}\n{nextest}")), Count { passed: 25, failed: 2, skipped: 2 });
    }

    #[test]
    fn failed_tests_are_named_once() {
        let harness = "test crash::nested ... FAILED\ntest good ... ok";
        assert_eq!(failures(harness), ["crash::nested"]);
        let nextest = "        FAIL [   0.010s] (1/9) dumpcore wait::tests::ends\n        FAIL [   0.010s] dumpcore wait::tests::ends";
        assert_eq!(failures(&format!("{nextest}\n{harness}")), ["dumpcore wait::tests::ends"]);
    }

    #[test]
    fn the_last_line_has_its_exact_form() {
        assert_eq!(Count { passed: 3, failed: 0, skipped: 1 }.to_string(), "3 passed, 0 failed, 1 skipped");
    }
}

//! `cargo xtask qemu`: the scenarios of the QEMU matrix.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use qemu_tests::scenarios::{self, Programs, Scenario};

use crate::ui::{self, Mark};
use crate::{CannotBegin, build, setup};

/// Scenarios at a time. They are held to deadlines, so never more than there are CPUs for.
const AT_A_TIME: usize = 2;

/// How a row of work ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    /// Good ones.
    pub(crate) passed: usize,
    /// Bad ones.
    pub(crate) failed: usize,
    /// Ones that were not run.
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

/// The task.
pub(crate) fn task(filter: Option<&str>, list: bool) -> Result<bool> {
    let chosen = scenarios::matching(filter.unwrap_or_default());
    if chosen.is_empty() {
        return Err(CannotBegin(format!(
            "no scenario's name contains `{}`; `cargo xtask qemu --list` names them",
            filter.unwrap_or_default()
        ))
        .into());
    }
    if list {
        let width = chosen.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
        for scenario in chosen {
            ui::text(&format!("{:<width$}  {}", scenario.name, scenario.about));
        }
        return Ok(true);
    }
    setup::ensure(&[crate::toolchain::TARGETS[0]])?;
    ui::running("building the test kernel and savecore");
    let programs = build::programs()?;
    ui::section("QEMU matrix");
    let count = run(&chosen, &programs);
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// Runs scenarios, [`AT_A_TIME`] at a time, and prints a line for each.
pub(crate) fn run(chosen: &[&'static Scenario], programs: &Programs) -> Count {
    let next = AtomicUsize::new(0);
    let count = Mutex::new(Count::default());
    let worker = || {
        while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            ui::running(scenario.name);
            let begin = Instant::now();
            let result = scenarios::run(scenario, programs);
            let took = Some(begin.elapsed());
            let mut count = count.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match result {
                Ok(facts) => {
                    count.passed += 1;
                    ui::done(Mark::Ok, scenario.name, &facts, took);
                }
                Err(error) => {
                    count.failed += 1;
                    let folder = programs.folder.join(scenario.name);
                    let mut again = format!("{error:#}");
                    // Most errors name the very file.
                    if !again.contains(&folder.display().to_string()) {
                        again.push_str(&format!("; logs: {}", folder.display()));
                    }
                    again.push_str(&format!("; again: cargo xtask qemu {}", scenario.name));
                    ui::done(Mark::Failed, scenario.name, &again, took);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(chosen.len()) {
            scope.spawn(worker);
        }
    });
    count.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

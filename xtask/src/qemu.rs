//! `cargo xtask qemu`: the scenarios of the QEMU matrix.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use qemu_tests::scenarios::{self, Programs, Row};

use crate::step::Count;
use crate::ui::{self, Mark};
use crate::{CannotBegin, build, folders, setup};

/// Scenarios at a time. They have deadlines, so never more than the CPUs can run.
const AT_A_TIME: usize = 2;

/// The page of the book with the matrix, and the marks around it.
const PAGE: &str = "docs/src/figures/matrix.md";
const TABLE: [&str; 2] = ["<!-- matrix: cargo xtask qemu --table -->", "<!-- end of the matrix -->"];

/// What to do with the matrix.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Show {
    /// Run it.
    #[default]
    Run,
    /// List the names of the rows, and what they prove.
    List,
    /// Print the matrix as a table, and write it into the book.
    Table,
}

/// The task.
pub(crate) fn task(filter: Option<&str>, show: Show) -> Result<bool> {
    if show == Show::Table {
        ui::text(scenarios::table().trim_end());
        write_page()?;
        return Ok(true);
    }
    let chosen = scenarios::matching(filter.unwrap_or_default());
    if chosen.is_empty() {
        return Err(CannotBegin(format!(
            "no row's name contains `{}`; `cargo xtask qemu --list` names them",
            filter.unwrap_or_default()
        ))
        .into());
    }
    if show == Show::List {
        let width = chosen.iter().map(|row| row.name().len()).max().unwrap_or_default();
        for row in chosen {
            ui::text(&format!("{:<width$}  {}", row.name(), row.scenario.about));
        }
        return Ok(true);
    }
    let targets: Vec<&str> = chosen.iter().map(|row| row.bed.architecture.target).collect();
    setup::ensure(&targets)?;
    ui::running("building the test kernel and savecore");
    let programs = build::programs(chosen.iter().map(Row::build))?;
    ui::section("QEMU matrix");
    let count = run(&chosen, &programs);
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// The page with the matrix, and the range of the table in it.
fn page() -> Result<(std::path::PathBuf, String, std::ops::Range<usize>)> {
    let path = folders::root().join(PAGE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let [begin, end] = TABLE.map(|mark| text.find(mark));
    let (Some(begin), Some(end)) = (begin.map(|begin| begin + TABLE[0].len()), end) else {
        bail!("{} has no place for the matrix between `{}` and `{}`", path.display(), TABLE[0], TABLE[1]);
    };
    Ok((path, text, begin..end))
}

/// Checks that the book's table matches the matrix; returns its number of rows.
///
/// # Errors
/// If it does not.
pub(crate) fn is_in_the_book() -> Result<String> {
    let (path, text, place) = page()?;
    if text.get(place).map(str::trim) != Some(scenarios::table().trim()) {
        bail!("the matrix in {} is out of date; run `cargo xtask qemu --table`", path.display());
    }
    Ok(format!("{} rows", scenarios::rows().len()))
}

fn write_page() -> Result<()> {
    let (path, mut text, place) = page()?;
    text.replace_range(place, &format!("\n\n{}\n\n", scenarios::table().trim()));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs rows, [`AT_A_TIME`] at a time, and prints a line for each.
pub(crate) fn run(chosen: &[Row], programs: &Programs) -> Count {
    let next = AtomicUsize::new(0);
    let count = Mutex::new(Count::default());
    let worker = || {
        while let Some(row) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = row.name();
            ui::running(&name);
            let begin = Instant::now();
            let result = scenarios::run(row, programs);
            let took = Some(begin.elapsed());
            let mut count = count.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match result {
                Ok(facts) => {
                    count.passed += 1;
                    ui::done(Mark::Ok, &name, &facts, took);
                }
                Err(error) => {
                    count.failed += 1;
                    let folder = programs.folder.join(&name);
                    let mut again = format!("{error:#}");
                    // Most errors name the file.
                    if !again.contains(&folder.display().to_string()) {
                        again.push_str(&format!("; logs: {}", folder.display()));
                    }
                    again.push_str(&format!("; again: cargo xtask qemu {name}"));
                    ui::done(Mark::Failed, &name, &again, took);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_table_is_the_matrix() {
        is_in_the_book().unwrap();
    }
}

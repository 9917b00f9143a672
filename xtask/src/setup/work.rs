//! Long pieces of work, each with a line on the terminal.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use qemu_tests::process::Output;

use crate::toolchain::{self, logged};
use crate::ui::{self, Mark};

/// Interval for updating the progress on a terminal.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// How much of the end of a log to search for its last line, and how much of that to show.
const LINE: u64 = 400;
const WIDTH: usize = 60;

/// Runs one piece of work, and prints its line on success. On failure its error is the line, and comes last.
pub(super) fn work<T>(what: &str, facts: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    ui::running(what);
    let result = run();
    match &result {
        Ok(_) => ui::done(Mark::Ok, what, facts, Some(begin.elapsed())),
        Err(_) => ui::not_running(),
    }
    result
}

/// Runs a long command; a terminal shows its latest line of output.
pub(super) fn watched(command: Command, what: &str, limit: Duration) -> Result<Output> {
    let log = toolchain::log_of(what)?;
    let logs = [log.with_added_extension("err"), log];
    std::thread::scope(|scope| {
        let run = scope.spawn(|| logged(command, what, limit));
        while !run.is_finished() {
            std::thread::sleep(SHOW_EVERY);
            if let Some(line) = logs.iter().rev().find_map(|log| last_line(log)) {
                ui::running(&format!("{what}: {line}"));
            }
        }
        run.join().expect("it does not panic")
    })
}

/// The last complete line of a file.
fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(LINE))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(WIDTH).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_log_is_the_last_that_says_something() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(last_line(file.path()), None);
        std::fs::write(file.path(), format!("{}\nUnpacking gdb\n\n", "x".repeat(1000))).unwrap();
        assert_eq!(last_line(file.path()).as_deref(), Some("Unpacking gdb"));
        assert_eq!(last_line(Path::new("/no/such/file")), None);
    }
}

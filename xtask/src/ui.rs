//! Output of the tasks for people: one line for each finished thing, with its result and its time.
//!
//! Colours go through `anstream`, which drops them in pipes and under NO_COLOR.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// As it should.
    Ok,
    /// Not as it should.
    Failed,
    /// Not done.
    Skipped,
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Keeps lines of parallel work apart.
static SCREEN: Mutex<()> = Mutex::new(());

/// Writes to standard output. If the reader closed it (`| head`), the task continues to its exit code without
/// output.
fn put(text: &str) {
    let mut out = anstream::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A part of the work, and when it began.
struct Section {
    title: String,
    begin: Instant,
}

/// The headlines so far.
static SECTIONS: Mutex<Vec<Section>> = Mutex::new(Vec::new());

/// The time of each part of the work so far, in one line.
pub(crate) fn times() -> String {
    let sections = SECTIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ends = sections.iter().skip(1).map(|section| section.begin).chain([Instant::now()]);
    let times = sections.iter().zip(ends);
    let times =
        times.map(|(Section { title, begin }, end)| format!("{title} {} s", (end - *begin).as_secs()));
    times.collect::<Vec<_>>().join(", ")
}

/// A headline.
pub(crate) fn section(title: &str) {
    if let Ok(mut sections) = SECTIONS.lock() {
        sections.push(Section { title: title.to_owned(), begin: Instant::now() });
    }
    let _screen = SCREEN.lock();
    put(&format!("{BOLD}{title}{BOLD:#}\n"));
}

/// Shows the current work; only on a terminal, where [`done`] replaces it.
pub(crate) fn running(what: &str) {
    if std::io::stdout().is_terminal() {
        let _screen = SCREEN.lock();
        put(&format!("\r\x1b[K  {DIM}…{DIM:#}     {what}"));
    }
}

/// Clears the line of [`running`].
pub(crate) fn not_running() {
    if std::io::stdout().is_terminal() {
        let _screen = SCREEN.lock();
        put("\r\x1b[K");
    }
}

/// Prints one finished thing: name, result, facts in few words, and duration.
pub(crate) fn done(mark: Mark, what: &str, facts: &str, took: Option<Duration>) {
    let _screen = SCREEN.lock();
    let (color, word) = match mark {
        Mark::Ok => (AnsiColor::Green, "ok  "),
        Mark::Failed => (AnsiColor::Red, "FAIL"),
        Mark::Skipped => (AnsiColor::Yellow, "skip"),
    };
    let style = Style::new().fg_color(Some(color.into()));
    let took = took.map_or_else(String::new, |took| format!("{:>6.1} s", took.as_secs_f32()));
    let clear = if std::io::stdout().is_terminal() { "\r\x1b[K" } else { "" };
    let line = format!("{clear}  {style}{word}{style:#}  {what:<32} {took:>8}  {facts}");
    put(&format!("{}\n", line.trim_end()));
}

/// Plain text.
pub(crate) fn text(text: &str) {
    let _screen = SCREEN.lock();
    put(&format!("{text}\n"));
}

/// A notice in advance, on standard error: it is not a result.
pub(crate) fn notice(text: &str) {
    // A reader that closed it does not want the notice.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Reports downloads and builds: finished lines, and on a terminal the progress.
pub(crate) struct Teller;

impl qemu_tests::linux::Tell for Teller {
    fn say(&mut self, line: &str) {
        notice(line);
    }

    fn progress(&mut self, what: &str, done: u64, of: u64) {
        let share = 100 * done.min(of) / of.max(1);
        running(&format!("{share:>3} % of {:.0} MB: {what}", of as f64 / 1e6));
    }
}

/// An error, on standard error.
pub(crate) fn error(text: &str) {
    let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
    // If not even this can be printed, the exit code says it.
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {text}");
}

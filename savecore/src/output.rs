//! Output for people: colours and progress bars only on a terminal, one line per error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use savecore::source::Progress;
pub(crate) use savecore::text::{count, pages, size};
use savecore::text::{harmless_json, harmless_line};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const STRONG: Style = Style::new().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();

/// Standard output, without colours if it is not a terminal.
pub(crate) fn out() -> impl Write {
    anstream::AutoStream::auto(io::stdout().lock())
}

/// Text in a style.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a one-line error to standard error.
pub(crate) fn error(line: &str) {
    say(BAD, "error", 3, line);
}

/// Prints a one-line warning to standard error.
pub(crate) fn warning(line: &str) {
    say(WARNING, "warning", 4, line);
}

/// Prints a one-line result: to the journal, or else to standard output.
pub(crate) fn note(line: &str) {
    let line = harmless_line(line);
    // With standard output closed, nobody wants to know.
    let _ = if in_journal() {
        io::stderr().write_all(format!("<6>{line}\n").as_bytes())
    } else {
        writeln!(io::stdout(), "{line}")
    };
}

/// `level` is the journal's level (sd-daemon(3)).
fn say(style: Style, kind: &str, level: u8, line: &str) {
    // Messages may contain text from servers, file systems and hooks.
    let line = harmless_line(line);
    let text = if in_journal() {
        // The journal adds the program's name, and shows the level.
        format!("<{level}>{line}\n")
    } else {
        format!("savecore: {}: {line}\n", paint(style, kind))
    };
    let text = match AutoStream::choice(&io::stderr()) {
        ColorChoice::Never => strip_str(&text).to_string(),
        _ => text,
    };
    // In one write, so that other processes' output cannot get into the line. If standard error is closed,
    // give up.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether standard error goes to the journal, which parses a level before each line and shows neither
/// colours nor bars.
fn in_journal() -> bool {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    *JOURNAL.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stat = rustix::fs::fstat(io::stderr());
        stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Prints a value as JSON, for machines.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let text = harmless_json(&serde_json::to_string_pretty(value)?);
    writeln!(out, "{text}")?;
    Ok(())
}

/// A progress bar on standard error if that is a terminal; otherwise nothing.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { bar: None }
    }

    /// Removes it, so that other lines can be printed.
    pub(crate) fn finish(&mut self) {
        self.end();
    }
}

impl Progress for Bar {
    fn begin(&mut self, what: &str, total: u64) {
        self.end();
        // A terminal without cursor movement would show each update on a line of its own.
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        if dumb || !io::stderr().is_terminal() {
            return;
        }
        // The length of piped input is unknown.
        let length = (total > 0).then(|| total.saturating_mul(4096));
        let template = match length {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{msg} {spinner} {bytes}, {bytes_per_sec}",
        };
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        // Short work needs no bar.
        bar.enable_steady_tick(Duration::from_millis(250));
        self.bar = Some(bar);
    }

    fn advance(&mut self, blocks: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(blocks.saturating_mul(4096));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn warn(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| warning(line)),
            None => warning(line),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

//! The results of a drill, line by line.

use std::io::{self, Write};

use savecore::text::harmless_line;

use crate::output::{BAD, GOOD, WARNING, out, paint};

/// The state of an item.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    Ok,
    Warn,
    Fail,
}

/// The result for one item.
#[derive(serde::Serialize)]
pub(super) struct Line {
    pub(super) mark: Mark,
    /// The item.
    pub(super) about: String,
    /// The finding.
    pub(super) found: String,
    /// The advice.
    pub(super) advice: Option<String>,
}

/// All results.
#[derive(Default, serde::Serialize)]
pub(super) struct Drill {
    pub(super) lines: Vec<Line>,
}

impl Drill {
    pub(super) fn ok(&mut self, about: &str, found: impl Into<String>) {
        self.lines.push(Line { mark: Mark::Ok, about: about.to_owned(), found: found.into(), advice: None });
    }

    pub(super) fn warn(&mut self, about: &str, found: impl Into<String>, advice: &str) {
        let advice = Some(advice.to_owned());
        self.lines.push(Line { mark: Mark::Warn, about: about.to_owned(), found: found.into(), advice });
    }

    pub(super) fn fail(&mut self, about: &str, found: impl Into<String>, advice: &str) {
        let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
        self.lines.push(Line { mark: Mark::Fail, about: about.to_owned(), found: found.into(), advice });
    }

    pub(super) fn print(&self) -> io::Result<()> {
        let mut out = out();
        for line in &self.lines {
            let (style, mark) = match line.mark {
                Mark::Ok => (GOOD, "ok  "),
                Mark::Warn => (WARNING, "warn"),
                Mark::Fail => (BAD, "fail"),
            };
            let advice = line.advice.as_ref().map_or(String::new(), |advice| format!("; {advice}"));
            let text = harmless_line(&format!("{}: {}{advice}", line.about, line.found));
            writeln!(out, "{}  {text}", paint(style, mark))?;
        }
        out.flush()
    }
}

//! The serial log of a machine, read line by line while it grows, with the time at which each line was seen.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it was seen, since the start of the machine.
    pub at: Duration,
    /// The text, without the line end; invalid UTF-8 is replaced.
    pub text: String,
}

/// A growing serial log.
#[derive(Debug)]
pub struct Serial {
    path: PathBuf,
    file: Option<File>,
    begin: Instant,
    partial: Vec<u8>,
    lines: Vec<Line>,
    /// Lines before this one were already returned to a waiting caller.
    seen: usize,
}

impl Serial {
    /// The log at `path`, which need not exist yet; times count from now.
    pub fn new(path: &Path) -> Serial {
        Serial {
            path: path.to_path_buf(),
            file: None,
            begin: Instant::now(),
            partial: Vec::new(),
            lines: Vec::new(),
            seen: 0,
        }
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what was written since the last call.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn update(&mut self) -> Result<()> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot read the serial log {}", self.path.display()));
                }
            }
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.read_to_end(&mut self.partial)
            .with_context(|| format!("cannot read the serial log {}", self.path.display()))?;
        let at = self.begin.elapsed();
        let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.partial.split_off(whole);
        let text = String::from_utf8_lossy(&self.partial);
        self.lines.extend(text.lines().map(|line| Line { at, text: line.trim_end_matches('\r').to_owned() }));
        self.partial = rest;
        Ok(())
    }

    /// The first line not yet passed that contains `needle`; passes it and all before it.
    pub fn next(&mut self, needle: &str) -> Option<Line> {
        let found = self.lines.iter().skip(self.seen).position(|line| line.text.contains(needle))?;
        let line = self.lines.get(self.seen + found)?.clone();
        self.seen += found + 1;
        Some(line)
    }

    /// All complete lines so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The first line that contains `needle`, anywhere.
    pub fn find(&self, needle: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.text.contains(needle))
    }

    /// The last line, for an error message, preceded by the dump's last line, which often gives the reason.
    pub fn last(&self) -> String {
        let Some(last) = self.lines.last() else { return "(nothing)".to_owned() };
        match self.lines.iter().rfind(|line| line.text.starts_with("diskdump: ")) {
            Some(said) if said.text != last.text => format!("{} / {}", said.text, last.text),
            _ => last.text.clone(),
        }
    }
}

/// The value of `key=value` in a line; values end at a space.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The number in `key=number`, decimal or with `0x`.
pub fn number(line: &str, key: &str) -> Option<u64> {
    let value = value(line, key)?;
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn a_log_that_does_not_exist_yet_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let mut serial = Serial::new(&folder.path().join("log"));
        serial.update().unwrap();
        assert_eq!(serial.last(), "(nothing)");
        assert_eq!(serial.next(""), None);
    }

    #[test]
    fn waiting_for_the_same_text_twice_needs_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one armed\r\ntwo\r\n").unwrap();
        let mut serial = Serial::new(&path);
        serial.update().unwrap();
        assert_eq!(serial.next("armed").unwrap().text, "one armed");
        assert_eq!(serial.next("armed"), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"again armed\n").unwrap();
        serial.update().unwrap();
        assert_eq!(serial.next("armed").unwrap().text, "again armed");
    }

    #[test]
    fn numbers_are_read_in_both_forms() {
        let line = "testkernel: armed arena_used=4096 arena=0x1000-0x2000 base=0xff";
        assert_eq!(number(line, "arena_used"), Some(4096));
        assert_eq!(number(line, "base"), Some(255));
        assert_eq!(value(line, "arena"), Some("0x1000-0x2000"));
        assert_eq!(number(line, "arena"), None);
        assert_eq!(number(line, "missing"), None);
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive_the_lines_are_the_same(
            text in "([a-z ]{0,20}\r?\n){0,10}[a-z]{0,5}",
            cuts in proptest::collection::vec(0_usize..200, 0..6),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut file = std::fs::File::create(&path).unwrap();
            let mut serial = Serial::new(&path);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut at = 0;
            for cut in cuts {
                file.write_all(&text.as_bytes()[at..cut]).unwrap();
                at = cut;
                serial.update().unwrap();
            }
            let whole = text.rfind('\n').map_or("", |last| &text[..last]);
            let expected: Vec<&str> =
                if text.contains('\n') { whole.split('\n').map(|line| line.trim_end_matches('\r')).collect() } else { Vec::new() };
            let got: Vec<&str> = serial.lines().iter().map(|line| line.text.as_str()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

//! The progress of an upload across runs: a small file with the finished parts.
//!
//! Lines of JSON: first the upload, then each part as it is finished. A partially written line is the last
//! one, and is ignored.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::cut::Cuts;

/// savecore's persistent state, unless systemd or the caller says otherwise.
const DIRECTORY: &str = "/var/lib/savecore";
/// Number of attempts to lock, and the pause between them.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Maximum bytes of such a file.
const MAX_BYTES: u64 = 64 << 20;

/// An upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Upload {
    url: String,
    id: String,
    first: u64,
    grows: bool,
}

/// A finished part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) index: u64,
    pub(super) bytes: u64,
    /// SHA-256, hexadecimal.
    pub(super) sum: String,
    /// Its id in the store.
    pub(super) id: String,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Upload(Upload),
    Part(Part),
    /// The upload was completed as a file of this many bytes.
    Complete(u64),
}

/// The file for one upload.
pub(super) struct State {
    path: PathBuf,
    file: File,
    url: String,
    upload: Option<Upload>,
    parts: HashMap<u64, Part>,
    complete: Option<u64>,
}

/// The directory of such files.
pub(super) fn directory(given: Option<&Path>) -> PathBuf {
    // systemd may list several, separated by colons.
    let told = || std::env::var("STATE_DIRECTORY").ok();
    let first = |told: String| told.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(|| told().and_then(first)).unwrap_or_else(|| DIRECTORY.into())
}

impl State {
    /// Opens the file for uploads to a URL. [`io::ErrorKind::ResourceBusy`] if it is locked.
    pub(super) fn open(directory: &Path, url: &str) -> io::Result<State> {
        if !directory.is_dir() {
            DirBuilder::new().mode(0o700).create(directory)?;
        }
        let tail: Vec<&str> = url.rsplit('/').take(2).collect();
        let tail: Vec<String> = tail.into_iter().rev().map(super::names::harmless).collect();
        let name = format!("upload-{}-{:08x}.jsonl", tail.join("-"), crc32fast::hash(url.as_bytes()));
        let path = directory.join(name);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)?;
        lock(&file)?;
        let mut state = State {
            path,
            file: file.try_clone()?,
            url: url.to_owned(),
            upload: None,
            parts: HashMap::new(),
            complete: None,
        };
        let mut good = 0;
        let mut lines = BufReader::new((&mut file).take(MAX_BYTES));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") && state.take(&line) {
            good += line.len() as u64;
            line.clear();
        }
        // Further lines are written after the last valid line.
        file.set_len(good)?;
        file.seek(SeekFrom::Start(good))?;
        state.file = file;
        Ok(state)
    }

    /// Parses a line; returns whether it is valid.
    fn take(&mut self, line: &[u8]) -> bool {
        match serde_json::from_slice(line) {
            Ok(Line::Upload(upload)) if self.upload.is_none() && upload.url == self.url => {
                self.upload = Some(upload);
            }
            Ok(Line::Part(part)) if self.upload.is_some() => {
                self.parts.insert(part.index, part);
            }
            Ok(Line::Complete(length)) if self.upload.is_some() => self.complete = Some(length),
            _ => return false,
        }
        true
    }

    fn add(&mut self, line: Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.take(&text);
        Ok(())
    }

    /// The current upload, and the boundaries of its parts.
    pub(super) fn upload(&self) -> Option<(&str, Cuts)> {
        self.upload
            .as_ref()
            .map(|upload| (upload.id.as_str(), Cuts { first: upload.first, grows: upload.grows }))
    }

    /// Starts over, with a new upload.
    pub(super) fn begin(&mut self, id: &str, cuts: Cuts) -> io::Result<()> {
        self.forget()?;
        let Cuts { first, grows } = cuts;
        self.add(Line::Upload(Upload { url: self.url.clone(), id: id.to_owned(), first, grows }))
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.upload, self.complete) = (None, None);
        self.parts.clear();
        Ok(())
    }

    /// A finished part.
    pub(super) fn part(&self, index: u64) -> Option<&Part> {
        self.parts.get(&index)
    }

    pub(super) fn done(&mut self, part: Part) -> io::Result<()> {
        self.add(Line::Part(part))
    }

    /// The length of the file if it is complete.
    pub(super) fn completed(&self) -> Option<u64> {
        self.complete
    }

    pub(super) fn complete(&mut self, length: u64) -> io::Result<()> {
        self.add(Line::Complete(length))
    }

    /// Removes the file: there is nothing to resume.
    pub(super) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Locks it. [`io::ErrorKind::ResourceBusy`] if it is locked for longer than a moment: a child process
/// inherits locks until it has executed its program.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CUTS: Cuts = Cuts { first: 8 << 20, grows: false };

    fn part(index: u64) -> Part {
        Part { index, bytes: 9, sum: format!("{index:064x}"), id: "<e>\"1\"</e>".to_owned() }
    }

    proptest! {
        #[test]
        fn a_file_that_ends_anywhere_tells_a_part_of_the_truth(parts in 0..6_u64, cut in 0..1000_usize) {
            let temporary = tempfile::TempDir::new().unwrap();
            let mut state = State::open(temporary.path(), "s3://b/k").unwrap();
            state.begin("id", CUTS).unwrap();
            for index in 0..parts {
                state.done(part(index)).unwrap();
            }
            let path = state.path.clone();
            drop(state);
            let text = std::fs::read(&path).unwrap();
            let cut = cut.min(text.len());
            std::fs::write(&path, &text[..cut]).unwrap();
            let mut state = State::open(temporary.path(), "s3://b/k").unwrap();
            let there = text[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
            prop_assert_eq!(state.upload(), (there > 0).then_some(("id", CUTS)));
            prop_assert_eq!(state.parts.len() as u64, there.saturating_sub(1));
            // And it continues from there.
            if there > 0 {
                state.done(part(7)).unwrap();
                drop(state);
                let state = State::open(temporary.path(), "s3://b/k").unwrap();
                prop_assert_eq!(state.part(7), Some(&part(7)));
                prop_assert_eq!(state.parts.len() as u64, there);
            }
        }

        #[test]
        fn any_bytes_are_no_state_or_one(bytes: Vec<u8>) {
            let temporary = tempfile::TempDir::new().unwrap();
            let path = State::open(temporary.path(), "s3://b/k").unwrap().path;
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(State::open(temporary.path(), "s3://b/k").unwrap().upload().is_none());
        }
    }

    #[test]
    fn a_lock_that_a_starting_program_still_has_is_waited_for() {
        let temporary = tempfile::TempDir::new().unwrap();
        let held = State::open(temporary.path(), "s3://b/k").unwrap();
        // As the child of a process between fork and exec: keeps the same open file for a moment longer.
        let left = held.file.try_clone().unwrap();
        drop(held);
        let child = std::thread::spawn(move || {
            sleep(LOCK_PAUSE * 3);
            drop(left);
        });
        State::open(temporary.path(), "s3://b/k").unwrap();
        child.join().unwrap();
    }

    #[test]
    fn one_savecore_has_it_at_a_time_and_each_url_has_its_own() {
        let temporary = tempfile::TempDir::new().unwrap();
        let held = State::open(temporary.path(), "s3://b/one/k").unwrap();
        let busy = State::open(temporary.path(), "s3://b/one/k").err().unwrap();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        State::open(temporary.path(), "s3://c/one/k").unwrap().remove().unwrap();
        held.remove().unwrap();
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}

//! The time limit of a harvest at boot.
//!
//! Shortly before the limit, the store stops accepting data: the current save ends with an error, its folder
//! is removed, and the dump stays on its partition. If it does not end then, because a disk or a network
//! hangs, the process exits; the next harvest cleans up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Error;
use crate::corefile::Sink;
use crate::store::{Begun, Crash, Folder, Place, Room, Store, StoreError};

/// Maximum time for an orderly end: a fraction of the limit, but no more than this.
const MAX_ENDING: Duration = Duration::from_secs(5);
const ENDING_PART: u32 = 5;

/// The deadline of a harvest.
#[derive(Clone, Debug)]
pub struct Deadline {
    /// The hard deadline; `None`: no limit.
    end: Option<Instant>,
    /// The start of an orderly end.
    ending: Option<Instant>,
    /// Whether something was refused because of the deadline.
    refused: Arc<AtomicBool>,
}

impl Deadline {
    /// `limit` from now on.
    pub fn new(limit: Option<Duration>) -> Deadline {
        let now = Instant::now();
        let end = limit.and_then(|limit| now.checked_add(limit));
        let ending = limit.zip(end).map(|(limit, end)| end - (limit / ENDING_PART).min(MAX_ENDING));
        Deadline { end, ending, refused: Arc::default() }
    }

    /// Time left until the orderly end.
    pub fn left(&self) -> Duration {
        self.ending.map_or(Duration::MAX, |ending| ending.saturating_duration_since(Instant::now()))
    }

    /// Whether new work must not begin.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether work was given up because of the deadline.
    pub fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Records that work was given up.
    pub fn give_up(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Calls `over`, which should end the process, on its own thread if the process still runs at the hard
    /// deadline.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn watch(&self, over: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Some(end) = self.end else { return Ok(()) };
        let watch = move || {
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                thread::sleep(left.max(Duration::from_millis(1)));
            }
            over();
        };
        thread::Builder::new().name("limit".to_owned()).spawn(watch).map(drop)
    }

    fn check(&self) -> io::Result<()> {
        if !self.is_over() {
            return Ok(());
        }
        self.give_up();
        Err(io::Error::new(io::ErrorKind::TimedOut, "the time limit for booting is over"))
    }
}

/// A store that stops accepting data at the deadline.
pub struct Limited<'d> {
    /// The store.
    pub store: Box<dyn Store>,
    /// The deadline.
    pub deadline: &'d Deadline,
}

impl Store for Limited<'_> {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn keeps_holes(&self) -> bool {
        self.store.keeps_holes()
    }

    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError> {
        if let Err(error) = self.deadline.check() {
            let path = self.store.name().to_owned();
            return Err(StoreError::Io { what: "begin a folder in", path, error });
        }
        Ok(match self.store.begin(crash, core, room)? {
            Begun::AlreadyThere(place) => Begun::AlreadyThere(place),
            Begun::New(folder) => Begun::New(Box::new(LimitedFolder { folder, deadline: self.deadline })),
        })
    }
}

struct LimitedFolder<'s> {
    folder: Box<dyn Folder + 's>,
    deadline: &'s Deadline,
}

impl Folder for LimitedFolder<'_> {
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), Error>,
    ) -> Result<(), StoreError> {
        let deadline = self.deadline;
        self.folder.file(name, &mut |sink| write(&mut LimitedSink { sink, deadline }))
    }

    fn finish(self: Box<Self>, info: &Value) -> Result<Place, StoreError> {
        // All data has been written: finishing takes less time than starting over.
        self.folder.finish(info)
    }
}

struct LimitedSink<'s> {
    sink: &'s mut dyn Sink,
    deadline: &'s Deadline,
}

impl Sink for LimitedSink<'_> {
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()> {
        self.deadline.check()?;
        self.sink.begin(head, length)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.deadline.check()?;
        self.sink.write_at(offset, bytes)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.deadline.check()?;
        self.sink.set_len(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::{self, crash};

    fn limited<'d>(directory: &tempfile::TempDir, deadline: &'d Deadline) -> Limited<'d> {
        let name = directory.path().to_str().unwrap();
        Limited { store: store::open(name, &store::Limits::default()).unwrap(), deadline }
    }

    fn is_empty(directory: &tempfile::TempDir) -> bool {
        std::fs::read_dir(directory.path()).unwrap().next().is_none()
    }

    #[test]
    fn a_folder_in_the_middle_when_the_time_is_over_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let deadline = Deadline::new(Some(Duration::from_millis(600)));
        let mut store = limited(&directory, &deadline);
        let Begun::New(mut folder) = store.begin(&crash(2), "vmcore.elf", None).unwrap() else {
            panic!("new")
        };
        let mut written = 0;
        let error = folder.file("vmcore.elf", &mut |sink| {
            sink.begin(0, None).map_err(Error::Core)?;
            loop {
                sink.write_at(written, &[7]).map_err(Error::Core)?;
                written += 1;
                thread::sleep(Duration::from_millis(10));
            }
        });
        assert!(error.unwrap_err().to_string().contains("time limit"));
        assert!(written > 0 && deadline.refused() && deadline.is_over());
        drop(folder);
        assert!(matches!(store.begin(&crash(2), "vmcore.elf", None), Err(StoreError::Io { .. })));
        drop(store);
        assert!(is_empty(&directory));
    }

    #[test]
    fn without_a_limit_nothing_is_ever_refused() {
        let directory = tempfile::tempdir().unwrap();
        let deadline = Deadline::new(None);
        deadline.watch(|| panic!("it has no end")).unwrap();
        let mut store = limited(&directory, &deadline);
        let Begun::New(mut folder) = store.begin(&crash(2), "vmcore.elf", None).unwrap() else {
            panic!("new")
        };
        folder.file("vmcore.elf", &mut |sink| sink.write_at(0, &[7]).map_err(Error::Core)).unwrap();
        folder.finish(&Value::Null).unwrap();
        assert!(!deadline.refused() && !is_empty(&directory));
    }

    #[test]
    fn the_watch_calls_at_the_end_and_not_before_the_orderly_one() {
        let deadline = Deadline::new(Some(Duration::from_millis(300)));
        let (told, tell) = mpsc::channel();
        let watched = deadline.clone();
        deadline.watch(move || told.send(watched.is_over()).unwrap()).unwrap();
        assert_eq!(tell.recv_timeout(Duration::from_secs(60)), Ok(true));
        assert!(!deadline.refused(), "nothing was given up");
    }
}

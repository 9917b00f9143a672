//! An object store: S3 and compatible ones, Google Cloud Storage, Azure.
//!
//! Crashes of a fleet are in `PREFIX/host=HOST/date=YYYY-MM-DD/NAME/`, so tools that support Hive partitions
//! read the `info.json` of all machines as one table. An object store cannot rename folders, so a crash first
//! claims its name with an object that only one writer can create; `info.json` comes last and marks the rest
//! as complete.

mod cut;
mod remote;
mod state;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use object_store::path::Path;
use serde_json::{Value, json};

use self::remote::{Found, Remote};
use self::state::State;
use self::upload::{Ended, Upload};
use super::error::{StoreError, failed};
use super::limits::Limits;
use super::names;
use super::record::Record;
use super::types::{Begun, Crash, Folder, INFO, Place, Store};
use crate::corefile::{Room, Sink};
use crate::dump::utc;

/// How long to retry a server that does not answer, or is temporarily unavailable.
const PATIENCE: Duration = Duration::from_secs(180);
/// The object that claims a name.
const CLAIM: &str = "claim.json";
/// In place of an unknown date: Hive, DuckDB and Spark treat it as null.
const NO_DATE: &str = "__HIVE_DEFAULT_PARTITION__";
/// Maximum number of crashes with the same name.
const MAX_ALIKE: u32 = 999;

/// Crashes under a prefix of a bucket.
pub(super) struct Objects {
    remote: Remote,
    prefix: Path,
    name: String,
    state: PathBuf,
}

impl Objects {
    /// Prepares a store for a URL, with the settings and credentials in `environment`.
    pub(super) fn open(
        destination: &str,
        limits: &Limits,
        environment: &[(String, String)],
    ) -> Result<Objects, StoreError> {
        let patience = limits.patience.unwrap_or(PATIENCE);
        let (remote, prefix) = Remote::open(destination, environment, patience)?;
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| StoreError::Remote {
            what: "use",
            place: destination.to_owned(),
            why: error.to_string(),
            next: "give another prefix",
        })?;
        let name = destination.trim_end_matches('/').to_owned();
        Ok(Objects { remote, prefix, name, state: state::directory(limits.state.as_deref()) })
    }

    /// The folder for crashes of that name, with a distinguishing number.
    fn folder(&self, crash: &Crash, number: u32) -> Path {
        let date = match crash.seconds.and_then(utc) {
            Some(time) => time.strftime("%Y-%m-%d").to_string(),
            None => NO_DATE.to_owned(),
        };
        let name = names::numbered(&names::folder(crash), number);
        let host = names::harmless(&crash.host);
        [format!("host={host}"), format!("date={date}"), name]
            .into_iter()
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The record in an object, and the object's length; `None` if there is no object. An invalid record
    /// belongs to nobody.
    fn record(&self, path: &Path) -> Result<Option<(Option<Record>, u64)>, StoreError> {
        Ok(match self.remote.get(path)? {
            Found::Nothing => None,
            Found::Bytes(bytes) => Some((Record::parse(&bytes), bytes.len() as u64)),
        })
    }

    /// Whether all files of a finished crash still have their lengths.
    fn is_whole(&self, folder: &Path, record: &Record) -> Result<bool, StoreError> {
        for file in &record.files {
            if self.remote.length(&folder.clone().join(file.name.as_str()))? != Some(file.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the folder is free for the crash, or was claimed for it by an earlier run.
    fn claim(&self, folder: &Path, crash: &Crash, core: &str) -> Result<bool, StoreError> {
        let path = folder.clone().join(CLAIM);
        let mine = Record::new(crash, None, &[(core.to_owned(), 0)]);
        if self.remote.put_new(&path, mine.text(&crash.host, &json!({})))? {
            return Ok(true);
        }
        let there = self.record(&path)?.and_then(|(record, _)| record);
        Ok(there.is_some_and(|record| record.is_of(crash, core)))
    }
}

impl Store for Objects {
    fn name(&self) -> &str {
        &self.name
    }

    fn keeps_holes(&self) -> bool {
        false
    }

    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError> {
        for number in 1..=MAX_ALIKE {
            let folder = self.folder(crash, number);
            match self.record(&folder.clone().join(INFO))? {
                Some((Some(record), length)) if record.is_of(crash, core) => {
                    if self.is_whole(&folder, &record)? {
                        let (folder, files) = (self.remote.shown(&folder), record.files_with(length));
                        let (remarks, doubt) = (Vec::new(), None);
                        return Ok(Begun::AlreadyThere(Place { folder, files, remarks, doubt }));
                    }
                }
                Some(_) => {}
                None => {
                    if self.claim(&folder, crash, core)? {
                        let crash = crash.clone();
                        let (files, states, remarks) = (Vec::new(), Vec::new(), Vec::new());
                        let objects = self;
                        let filling = Filling { objects, folder, crash, room, files, states, remarks };
                        return Ok(Begun::New(Box::new(filling)));
                    }
                }
            }
        }
        Err(StoreError::Taken { path: self.remote.shown(&self.folder(crash, 1)) })
    }
}

/// A crash being uploaded.
struct Filling<'s> {
    objects: &'s Objects,
    folder: Path,
    crash: Crash,
    room: Option<Room>,
    files: Vec<(String, u64)>,
    /// The state of the files' uploads: until the crash is finished, an interrupted run continues from there.
    states: Vec<State>,
    remarks: Vec<String>,
}

impl Filling<'_> {
    fn state(&mut self, url: &str) -> Result<Option<State>, StoreError> {
        match State::open(&self.objects.state, url) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Err(StoreError::Busy { path: url.to_owned() })
            }
            Err(error) => {
                if self.remarks.is_empty() {
                    let shown = self.objects.state.display();
                    self.remarks.push(format!(
                        "an upload that breaks off begins anew: nothing can be kept in {shown}: {error}"
                    ));
                }
                Ok(None)
            }
        }
    }
}

impl Folder for Filling<'_> {
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<(), StoreError> {
        let remote = &self.objects.remote;
        let path = self.folder.clone().join(names::harmless(name));
        let url = remote.shown(&path);
        if !names::is_file(name) || name == CLAIM || self.files.iter().any(|(there, _)| there == name) {
            return Err(failed("write", url)(io::Error::from(io::ErrorKind::InvalidFilename)));
        }
        let mut state = self.state(&url)?;
        let mut is_last = false;
        loop {
            let mut upload = Upload::new(remote, path.clone(), state.take());
            let ended = match upload.run(self.room.map(|room| room.most), write) {
                Ok(length) => {
                    self.files.push((name.to_owned(), length));
                    self.states.extend(upload.into_state());
                    return Ok(());
                }
                Err(ended) => ended,
            };
            if matches!(ended, Ended::Content(_)) {
                // Another run would produce something else.
                upload.abort();
            }
            state = upload.into_state();
            match ended {
                Ended::Refused(error) => return Err(error),
                Ended::Content(error) => {
                    if let Some(state) = state {
                        let _ = state.remove();
                    }
                    return Err(StoreError::Content(error));
                }
                Ended::Lost if is_last => {
                    let why = "the server lost what it was sent".to_owned();
                    let next = "try again, or store elsewhere";
                    return Err(StoreError::Remote { what: "upload", place: url, why, next });
                }
                Ended::Lost => {
                    is_last = true;
                    state = state.and_then(|mut state| state.forget().ok().map(|()| state));
                }
            }
        }
    }

    fn finish(mut self: Box<Self>, info: &Value) -> Result<Place, StoreError> {
        let remote = &self.objects.remote;
        let record = Record::new(&self.crash, None, &self.files);
        let text = record.text(&self.crash.host, info);
        let length = text.len() as u64;
        remote.put(&self.folder.clone().join(INFO), text)?;
        // The crash is durable: the rest is only cleanup.
        if let Err(error) = remote.delete(&self.folder.clone().join(CLAIM)) {
            self.remarks.push(error.to_string());
        }
        for state in self.states.drain(..) {
            if let Err(error) = state.remove() {
                self.remarks.push(format!("cannot remove the state of an upload: {error}"));
            }
        }
        let (folder, files) = (remote.shown(&self.folder), record.files_with(length));
        Ok(Place { folder, files, remarks: self.remarks, doubt: None })
    }
}

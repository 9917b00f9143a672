//! The upload of one file into an object store, in parts, several at a time.

use std::collections::BTreeMap;
use std::io;

use object_store::path::Path;
use object_store::{Error, PutPayload};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::super::error::StoreError;
use super::cut::{Content, Cuts, Cutter, Parts};
use super::remote::{Remote, is_lost, is_refusal};
use super::state::{Part, State};
use crate::corefile::Sink;

/// Memory for parts in bytes, for any file: those in transit, the one being filled, and those held until the
/// file's head is known. Parts of more than 42 MiB, as in files of more than 360 GiB, take three times their
/// size.
const MEMORY: u64 = 128 << 20;
/// Parts in transit at a time.
const MOST_FLYING: usize = 8;

/// Why an upload ended.
pub(super) enum Ended {
    /// The store refused or could not be reached. Finished parts are kept for the next run.
    Refused(StoreError),
    /// The contents could not be produced.
    Content(crate::Error),
    /// The store does not know the upload to be resumed, or has a different file: start over.
    Lost,
}

/// A finished part, and whether it is new.
type Sent = Result<(Part, bool), Error>;

/// One file being uploaded.
pub(super) struct Upload<'r> {
    remote: &'r Remote,
    path: Path,
    /// The progress across runs; `None` if it cannot be saved.
    state: Option<State>,
    /// The upload's id in the store, once started, and whether an earlier run started it.
    id: Option<String>,
    is_resumed: bool,
    cuts: Cuts,
    flying: JoinSet<(u64, Sent)>,
    flying_bytes: u64,
    /// The ids of the finished parts in the store.
    there: BTreeMap<u64, String>,
    zeros: PutPayload,
    ended: Option<Ended>,
}

impl<'r> Upload<'r> {
    pub(super) fn new(remote: &'r Remote, path: Path, state: Option<State>) -> Upload<'r> {
        Upload {
            remote,
            path,
            state,
            id: None,
            is_resumed: false,
            cuts: Cuts::new(None),
            flying: JoinSet::new(),
            flying_bytes: 0,
            there: BTreeMap::new(),
            zeros: PutPayload::new(),
            ended: None,
        }
    }

    /// Uploads the output of `write`, of at most `at_most` bytes if known. Returns the length.
    pub(super) fn run(
        &mut self,
        at_most: Option<u64>,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<u64, Ended> {
        let mut sink = FileSink { cutter: None, at_most, upload: self };
        let written = write(&mut sink);
        let cutter = sink.cutter.take();
        let result = written.map_err(Ended::Content).and_then(|()| {
            let cutter = match cutter {
                Some(cutter) => cutter,
                None => Cutter::new(self.cuts, 0).map_err(unmade)?,
            };
            let (length, single) = cutter.finish(self).map_err(unmade)?;
            self.complete(length, single)?;
            Ok(length)
        });
        result.map_err(|ended| {
            let ended = self.ended.take().unwrap_or(ended);
            if matches!(ended, Ended::Refused(_)) {
                self.land_all();
            }
            ended
        })
    }

    /// Waits for the parts in transit after one has failed, so that those that arrive count in the next run.
    /// They end as soon as the failed one did, or a little later: all have the same time limit.
    fn land_all(&mut self) {
        while !self.flying.is_empty() {
            // Report the reason of the first failure.
            let _ = self.land();
        }
    }

    /// The progress across runs.
    pub(super) fn into_state(self) -> Option<State> {
        self.state
    }

    /// Forgets the finished parts.
    pub(super) fn abort(&mut self) {
        self.flying = JoinSet::new();
        if let Some(id) = self.id.take() {
            self.remote.abort_upload(&self.path, &id);
        }
    }

    /// The upload's id in the store; starts the upload unless an earlier run did.
    fn id(&mut self) -> Result<&str, Ended> {
        if self.id.is_none() {
            let before = self.state.as_ref().and_then(State::upload);
            let id = match before {
                Some((id, cuts)) if cuts == self.cuts => {
                    self.is_resumed = true;
                    id.to_owned()
                }
                before => {
                    if let Some((id, _)) = before {
                        self.remote.abort_upload(&self.path, id);
                    }
                    let id = self.remote.begin_upload(&self.path).map_err(Ended::Refused)?;
                    self.keep(|state, cuts| state.begin(&id, cuts));
                    id
                }
            };
            self.id = Some(id);
        }
        self.id.as_deref().ok_or(Ended::Lost)
    }

    /// Records the progress. If that fails, an interruption costs a new upload, but nothing else.
    fn keep(&mut self, write: impl FnOnce(&mut State, Cuts) -> io::Result<()>) {
        if let Some(state) = &mut self.state
            && write(state, self.cuts).is_err()
        {
            self.state = None;
        }
    }

    /// Waits for one of the parts in transit.
    fn land(&mut self) -> Result<(), Ended> {
        let Some(landed) = self.remote.runtime.block_on(self.flying.join_next()) else { return Ok(()) };
        let (bytes, result) = landed.map_err(|error| unmade(io::Error::other(error)))?;
        self.flying_bytes -= bytes;
        let (part, is_new) = result.map_err(|error| self.refused("upload a part of", error))?;
        self.there.insert(part.index, part.id.clone());
        if is_new {
            self.keep(|state, _| state.done(part));
        }
        Ok(())
    }

    /// Interprets an error: for an upload started by an earlier run, it may only mean that the upload is
    /// gone.
    fn refused(&self, what: &'static str, error: Error) -> Ended {
        if is_lost(&error) || (self.is_resumed && is_refusal(&error)) {
            return Ended::Lost;
        }
        Ended::Refused(self.remote.failed(what, &self.path)(error))
    }

    fn send(&mut self, index: u64, content: Content) -> Result<(), Ended> {
        let length = content.len();
        let room = |flying: u64| flying.saturating_add(length.saturating_mul(3)) <= MEMORY;
        while self.flying.len() >= MOST_FLYING || (!self.flying.is_empty() && !room(self.flying_bytes)) {
            self.land()?;
        }
        let upload = self.id()?.to_owned();
        let before = self.state.as_ref().and_then(|state| state.part(index)).cloned();
        let is_complete = self.state.as_ref().is_some_and(|state| state.completed().is_some());
        let (bytes, payload) = match content {
            Content::Bytes(bytes) => (length, PutPayload::from(bytes)),
            Content::Zeros(_) => {
                if self.zeros.content_length() as u64 != length {
                    self.zeros = PutPayload::from(vec![0; length as usize]);
                }
                (0, self.zeros.clone())
            }
        };
        let (sender, path) = (self.remote.sender(), self.path.clone());
        self.flying_bytes += bytes;
        let send = async move {
            let mut hash = Sha256::new();
            payload.iter().for_each(|bytes| hash.update(bytes));
            let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if let Some(before) = before.filter(|before| before.sum == sum && before.bytes == length) {
                return (bytes, Ok((before, false)));
            }
            if is_complete {
                // An earlier run completed the upload with different contents.
                let (path, source) = (path.to_string(), "the file is a different one".into());
                return (bytes, Err(Error::NotFound { path, source }));
            }
            let sent = sender.send(&path, &upload, index, payload).await;
            (bytes, sent.map(|id| (Part { index, bytes: length, sum, id }, true)))
        };
        self.flying.spawn_on(send, self.remote.runtime.handle());
        Ok(())
    }

    /// Completes the upload from its parts, and checks the file's length.
    fn complete(&mut self, length: u64, single: Option<Content>) -> Result<(), Ended> {
        if let Some(content) = single {
            let bytes = match content {
                Content::Bytes(bytes) => bytes,
                Content::Zeros(length) => vec![0; length as usize],
            };
            self.remote.put(&self.path, bytes).map_err(Ended::Refused)?;
        } else {
            while !self.flying.is_empty() {
                self.land()?;
            }
            let before = self.state.as_ref().and_then(State::completed);
            if before != Some(length) {
                let parts = std::mem::take(&mut self.there).into_values().collect();
                if before.is_some() {
                    return Err(Ended::Lost);
                }
                let (remote, path) = (self.remote, self.path.clone());
                let completed = remote.complete_upload(&path, self.id()?, parts);
                completed.map_err(|error| self.refused("finish the upload of", error))?;
                self.keep(|state, _| state.complete(length));
            }
        }
        match self.remote.length(&self.path).map_err(Ended::Refused)? {
            Some(there) if there == length => Ok(()),
            there => {
                let gone = self.state.as_ref().is_some_and(|state| state.completed().is_some());
                if gone && there.is_none() {
                    return Err(Ended::Lost);
                }
                let there = there.unwrap_or(0);
                Err(Ended::Refused(StoreError::Remote {
                    what: "trust",
                    place: self.remote.shown(&self.path),
                    why: format!("the store has {there} bytes of it instead of {length}"),
                    next: "try again, or store elsewhere",
                }))
            }
        }
    }
}

impl Parts for Upload<'_> {
    fn part(&mut self, index: u64, content: Content) -> io::Result<()> {
        self.send(index, content).map_err(|ended| {
            self.ended = Some(ended);
            io::Error::other("the upload ended")
        })
    }
}

fn unmade(error: io::Error) -> Ended {
    Ended::Content(crate::Error::Core(error))
}

/// The sink for a core.
struct FileSink<'u, 'r> {
    cutter: Option<Cutter>,
    at_most: Option<u64>,
    upload: &'u mut Upload<'r>,
}

impl FileSink<'_, '_> {
    fn parts(&mut self) -> io::Result<(&mut Cutter, &mut dyn Parts)> {
        if self.cutter.is_none() {
            self.begin(0, None)?;
        }
        let cutter = self.cutter.as_mut().ok_or(io::ErrorKind::NotFound)?;
        Ok((cutter, self.upload))
    }
}

impl Sink for FileSink<'_, '_> {
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()> {
        self.upload.cuts = Cuts::new(length.or(self.at_most));
        self.cutter = Some(Cutter::new(self.upload.cuts, head)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (cutter, parts) = self.parts()?;
        cutter.write(offset, bytes, parts)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.parts()?.0.set_len(length)
    }
}

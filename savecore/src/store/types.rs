//! The common interface of all stores.

use serde_json::Value;
use uuid::Uuid;

use super::error::StoreError;
use crate::corefile::{Room, Sink};

/// The file with all facts about a crash.
pub(crate) const INFO: &str = "info.json";

/// The identification of a crash. The store makes all of it safe for file names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crash {
    /// The machine that crashed.
    pub host: String,
    /// Its wall clock at the crash, in seconds since 1970-01-01; `None` without a clock.
    pub seconds: Option<u64>,
    /// The dump partition's identity; for a striped dump, the first part's.
    pub uuid: Uuid,
    /// The dump's number on its partition, from 1.
    pub sequence: u32,
    /// The dump's own number.
    pub nonce: u64,
    /// Missing stripes, numbered from 0.
    pub missing_stripes: Vec<u32>,
    /// A checksum of the stored part of the dump: a folder with a different one is not this crash's.
    pub content: u32,
    /// Whether the dump stays on its partition: it may be stored again, so nothing is removed for it.
    pub stays: bool,
}

/// A crash for tests.
#[cfg(test)]
pub(crate) fn crash(nonce: u64) -> Crash {
    Crash {
        host: "web-1".to_owned(),
        seconds: Some(1_700_000_000),
        uuid: Uuid::from_u128(5),
        sequence: 1,
        nonce,
        missing_stripes: Vec::new(),
        content: 1,
        stays: false,
    }
}

/// A destination for crashes.
pub trait Store {
    /// The store's name in messages.
    fn name(&self) -> &str;

    /// Whether holes in a file take no space.
    fn keeps_holes(&self) -> bool {
        true
    }

    /// Starts the crash's folder. `core` is the core's file name, `room` the size of all files, if known.
    ///
    /// # Errors
    /// If the store is unusable, or certainly has no room; then nothing was written.
    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError>;
}

/// A crash's folder.
pub enum Begun<'s> {
    /// An earlier run finished it: the same dump, read to the same extent, with a core of that name and all
    /// files at their original sizes.
    AlreadyThere(Place),
    /// To be filled.
    New(Box<dyn Folder + 's>),
}

/// A folder being filled. If it is dropped before it is finished, it is deleted; if the store may be
/// unreachable, as over a network, the next run uses or removes the rest.
pub trait Folder {
    /// Writes one file by `write`. Names come from savecore, never from a dump.
    ///
    /// # Errors
    /// Errors of the store or of `write`.
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<(), StoreError>;

    /// Writes `info.json` from `info`, and gives the folder its name. When this returns, all files are
    /// durable and have their final names.
    ///
    /// # Errors
    /// Errors of the store: then the crash does not count as saved.
    fn finish(self: Box<Self>, info: &Value) -> Result<Place, StoreError>;
}

/// The place of a stored crash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The folder: a path or a URL.
    pub folder: String,
    /// Its files: names, and sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// Remarks about harmless irregularities, one per line.
    pub remarks: Vec<String>,
    /// Why a power failure may lose it; then it must not be the only copy.
    pub doubt: Option<String>,
}

//! What all stores have in common.

use serde_json::Value;
use uuid::Uuid;

use super::error::StoreError;
use crate::corefile::{Room, Sink};

/// The file that tells all about a crash.
pub(crate) const INFO: &str = "info.json";

/// What names a crash. All of it is made harmless for file names by the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crash {
    /// The machine that crashed.
    pub host: String,
    /// Its wall clock at the crash, in seconds since 1970-01-01; `None` if it had none.
    pub seconds: Option<u64>,
    /// The dump partition's identity; of a striped dump, the first part's.
    pub uuid: Uuid,
    /// The dump's number on its partition, from 1.
    pub sequence: u32,
    /// The dump's own number.
    pub nonce: u64,
    /// Stripes, from 0, that are not in what is saved.
    pub missing_stripes: Vec<u32>,
    /// A checksum of what of the dump is stored: a folder with something else is not this crash's.
    pub content: u32,
    /// Whether the dump stays on its partition when it is stored: it may be stored again, so nothing is removed for it.
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

/// Where crashes go.
pub trait Store {
    /// The store as messages name it.
    fn name(&self) -> &str;

    /// Whether what was not written of a file takes no room.
    fn keeps_holes(&self) -> bool {
        true
    }

    /// Begins the crash's folder. `core` is the file name that the core will have, `room` what all files take, if known.
    ///
    /// # Errors
    /// If the store cannot be used, or surely has no room; then nothing was written.
    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError>;
}

/// A crash's folder.
pub enum Begun<'s> {
    /// An earlier run finished it: the same dump, of which it could read as much, with a core of that name and all files
    /// of the size they were written with.
    AlreadyThere(Place),
    /// It is to be filled.
    New(Box<dyn Folder + 's>),
}

/// A folder that is being filled. Dropped before it is finished, it vanishes; where the store may be out of reach, as over a
/// network, what is left of it is used or removed by the next run.
pub trait Folder {
    /// Writes one file through `write`. Names come from savecore, never from a dump.
    ///
    /// # Errors
    /// If the store refuses, or `write` does.
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), crate::Error>,
    ) -> Result<(), StoreError>;

    /// Writes `info.json` from `info`, and gives the folder its name. When this returns, all files are safe and have
    /// their final names.
    ///
    /// # Errors
    /// If the store refuses: then nothing can be taken for saved.
    fn finish(self: Box<Self>, info: &Value) -> Result<Place, StoreError>;
}

/// Where a crash was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The folder: a path or a URL.
    pub folder: String,
    /// Its files: names, and sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// What went otherwise than it should without harm to the crash, a line each.
    pub remarks: Vec<String>,
    /// Why a power failure may lose it; then it is not to be the only copy.
    pub doubt: Option<String>,
}

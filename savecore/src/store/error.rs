//! Why something could not be stored.

use std::fmt::Display;
use std::io;

use bytesize::ByteSize;

/// The kinds of stores that there are.
const KINDS: &str = if cfg!(feature = "object-store") {
    "a directory, s3://, gs:// or az://"
} else {
    "a directory; it was built without object stores"
};

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// The directory is not there.
    #[error("{path} does not exist: create it with `mkdir -m 0700 {path}`, or mount what belongs there")]
    Missing {
        /// Which.
        path: String,
    },
    /// There is not enough room.
    #[error("{path} has {} free, and {} needed: make room there, or store elsewhere", ByteSize(*free), needed(*room, *min_free))]
    NoRoom {
        /// Where.
        path: String,
        /// Bytes that are free.
        free: u64,
        /// Bytes that the crash takes at most, as far as known.
        room: u64,
        /// Bytes that must stay free.
        min_free: u64,
    },
    /// It ended elsewhere than where it was begun.
    #[error(
        "{path} was unmounted, moved or replaced while it was written to: nothing counts as saved; try again"
    )]
    Moved {
        /// Which.
        path: String,
    },
    /// An object store said no, or nothing.
    #[error("cannot {what} {place}: {why}; {next}")]
    Remote {
        /// What was tried.
        what: &'static str,
        /// On what.
        place: String,
        /// Why not.
        why: String,
        /// What to do.
        next: &'static str,
    },
    /// A URL of an unknown kind.
    #[error("{scheme}:// is not a kind of store that this savecore knows: give {KINDS}")]
    Scheme {
        /// What stands in front of `://`.
        scheme: String,
    },
    /// Something else has the name.
    #[error("{path} exists already and holds something else: move it away, or choose another directory")]
    Taken {
        /// Which.
        path: String,
    },
    /// Another savecore writes the same file.
    #[error("another savecore is writing {path}")]
    Busy {
        /// Which.
        path: String,
    },
    /// What was to be written could not be.
    #[error(transparent)]
    Content(crate::Error),
}

/// Makes the error of something that was tried on a path.
pub(super) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: impl Display,
) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Io { what, path: path.to_string(), error: error.into() }
}

fn needed(room: u64, min_free: u64) -> String {
    let (room, min_free) = (ByteSize(room), ByteSize(min_free));
    match (room.as_u64(), min_free.as_u64()) {
        (_, 0) => format!("{room} are"),
        (0, _) => format!("{min_free} that must stay free are"),
        _ => format!("{room}, besides {min_free} that must stay free, are"),
    }
}

//! Errors of stores.

use std::fmt::Display;
use std::io;

use bytesize::ByteSize;
use rustix::io::Errno;

/// The available kinds of stores.
const KINDS: &str = if cfg!(feature = "object-store") {
    "a directory, s3://, gs:// or az://"
} else {
    "a directory; it was built without object stores"
};

/// Why storing failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file system error.
    #[error("cannot {what} {path}: {error}{}", next(error))]
    Io {
        /// The operation.
        what: &'static str,
        /// Its path.
        path: String,
        /// The error.
        error: io::Error,
    },
    /// The directory does not exist.
    #[error(
        "{path} does not exist: create it with `mkdir -m 0700 {path}`, or mount the file system that belongs there"
    )]
    Missing {
        /// Its path.
        path: String,
    },
    /// There is not enough room.
    #[error("{path} has {} free, and {} needed: make room there, or store elsewhere", ByteSize(*free), needed(*least, *min_free))]
    NoRoom {
        /// The path.
        path: String,
        /// Bytes that are free.
        free: u64,
        /// Known minimum size of the crash in bytes.
        least: u64,
        /// Bytes that must stay free.
        min_free: u64,
    },
    /// The free space ran out while writing the crash.
    #[error("{path} has {} free after a part of it was written, and {} must stay free: make room there, or store elsewhere", ByteSize(*free), ByteSize(*min_free))]
    RoomEnded {
        /// The path.
        path: String,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        min_free: u64,
    },
    /// The directory was moved while being written.
    #[error(
        "{path} was unmounted, moved or replaced while it was written to: nothing counts as saved; try again"
    )]
    Moved {
        /// Its path.
        path: String,
    },
    /// An object store refused, or did not answer.
    #[error("cannot {what} {place}: {why}; {next}")]
    Remote {
        /// The operation.
        what: &'static str,
        /// Its object.
        place: String,
        /// The reason.
        why: String,
        /// The advice.
        next: &'static str,
    },
    /// A URL of an unknown kind.
    #[error("{scheme}:// is not a kind of store that this savecore supports: use {KINDS}")]
    Scheme {
        /// The part before `://`.
        scheme: String,
    },
    /// The name is taken by something else.
    #[error("{path} exists already and holds something else: move it away, or choose another directory")]
    Taken {
        /// Its path.
        path: String,
    },
    /// It was saved before, and a raw copy cannot be made again.
    #[error(
        "it was saved but is no longer in the store, and a raw copy would carry the same mark: --format elf makes a core of it"
    )]
    Marked,
    /// Another savecore writes the same file.
    #[error("another savecore is writing {path}")]
    Busy {
        /// Its path.
        path: String,
    },
    /// The contents could not be produced.
    #[error(transparent)]
    Content(crate::Error),
}

/// Turns a failed operation on a path into an error.
pub(super) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: impl Display,
) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Io { what, path: path.to_string(), error: error.into() }
}

fn needed(least: u64, min_free: u64) -> String {
    let (least, min_free) = (ByteSize(least), ByteSize(min_free));
    match (least.as_u64(), min_free.as_u64()) {
        (_, 0) => format!("at least {least} are"),
        (0, _) => format!("{min_free} that must stay free are"),
        _ => format!("at least {least}, besides {min_free} that must stay free, are"),
    }
}

impl StoreError {
    /// Whether a smaller core might have fitted.
    pub(crate) fn is_lack_of_room(&self) -> bool {
        match self {
            StoreError::NoRoom { free, min_free, .. } => free > min_free,
            StoreError::RoomEnded { .. } => true,
            _ => matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG)),
        }
    }

    /// Whether the store rejects a file of this length.
    pub(crate) fn is_too_long_a_file(&self) -> bool {
        self.errno() == Some(Errno::FBIG)
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            StoreError::Io { error, .. } => Errno::from_io_error(error),
            _ => None,
        }
    }
}

/// Advice about a file system's error, after a semicolon; empty if there is none.
fn next(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => "; make room there, or store elsewhere",
        Some(Errno::DQUOT) => "; make room there, raise the quota, or store elsewhere",
        Some(Errno::FBIG) => "; files cannot be that large there: store elsewhere",
        Some(Errno::ROFS) => "; mount it read-write, or store elsewhere",
        Some(
            Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::NODEV | Errno::NXIO,
        ) => "; the store went away: mount it again, and try again",
        Some(Errno::ACCESS | Errno::PERM) => "; savecore must be allowed to write there",
        Some(Errno::IO) => "; the medium or the server is faulty: see the kernel's log",
        _ => "",
    }
}

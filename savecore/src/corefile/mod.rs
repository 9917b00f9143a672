//! Core formats: ELF core, compressed kdump, raw copy.

pub mod elf;
mod head;
pub mod kdump;
mod layout;
mod linux;
mod notes;
pub mod pages;
pub mod pagetable;
pub mod raw;
pub mod select;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(crate) use linux::node_name;
pub use notes::{FACTS_NAME, FACTS_TYPE};
pub use select::{Level, Selection};

use crate::dump::{Dump, Encryption};
use crate::{Error, processors};

/// The compression of a compressed kdump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// None.
    None,
    /// zlib, supported by every reader.
    Zlib,
    /// zstd: smaller, and faster to read.
    Zstd,
}

/// The format of a saved dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An ELF core.
    Elf,
    /// A compressed kdump.
    Kdump(Compression),
    /// An unchanged copy, encrypted or not.
    Raw,
}

impl Format {
    /// Its name on the command line, in the configuration and in `info.json`; also the file name's extension.
    pub fn name(self) -> &'static str {
        match self {
            Format::Elf => "elf",
            Format::Kdump(_) => "kdump",
            Format::Raw => "raw",
        }
    }
}

/// Checks that a dump's pages can become a core here.
///
/// # Errors
/// If it is encrypted and not open, or this machine has too little memory for its index.
fn may_be_core(dump: &Dump<'_>) -> Result<(), Error> {
    if matches!(dump.encryption(), Encryption::Encrypted | Encryption::Refused) {
        return Err(Error::Encrypted);
    }
    match dump.index().dropped {
        0 => Ok(()),
        pages => Err(Error::NoMemory { pages }),
    }
}

/// Bytes for the files of a crash, without holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Minimum, with the best compression.
    pub least: u64,
    /// Maximum.
    pub most: u64,
}

/// Options for writing a core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreOptions {
    /// Pages to exclude; `None` for none.
    pub level: Option<Level>,
    /// Threads that read, check, decompress and compress pages, at least 1. The core's bytes do not depend on
    /// it.
    pub threads: usize,
}

impl Default for CoreOptions {
    /// All pages, with as many threads as CPUs.
    fn default() -> CoreOptions {
        CoreOptions { level: None, threads: processors() }
    }
}

/// Output of a core: first everything after its head, in ascending order, then its head. Unwritten parts read
/// as zeros.
pub trait Sink {
    /// Announces the output, before all else: the first `head` bytes are written last, the others before
    /// them, each of the two parts in ascending order of offset and each byte at most once. `length` is the
    /// file's length, if known.
    ///
    /// # Errors
    /// The file's errors.
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()>;

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    /// The file's errors.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Sets its length in bytes.
    ///
    /// # Errors
    /// The file's errors.
    fn set_len(&mut self, length: u64) -> io::Result<()>;
}

impl Sink for &File {
    fn begin(&mut self, _head: u64, _length: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(*self, bytes, offset)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }
}

impl Sink for Vec<u8> {
    fn begin(&mut self, _head: u64, _length: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if self.len() < end {
            self.resize(end, 0);
        }
        self[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        Ok(())
    }
}

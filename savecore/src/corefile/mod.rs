//! What a dump becomes: an ELF core, a compressed kdump, or a raw copy.

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

/// How pages of a compressed kdump are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// zlib, which every reader knows.
    Zlib,
    /// zstd: smaller, and faster to read.
    Zstd,
}

/// What a dump is saved as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An ELF core.
    Elf,
    /// A compressed kdump.
    Kdump(Compression),
    /// The dump as it is, encrypted or not.
    Raw,
}

impl Format {
    /// Its name, as the command line, the configuration and `info.json` have it; and what its files' names end in.
    pub fn name(self) -> &'static str {
        match self {
            Format::Elf => "elf",
            Format::Kdump(_) => "kdump",
            Format::Raw => "raw",
        }
    }
}

/// Whether a dump's pages can become a core here.
///
/// # Errors
/// If it is encrypted and was not opened, or this machine has too little memory to say where all of them are.
fn may_be_core(dump: &Dump<'_>) -> Result<(), Error> {
    if matches!(dump.encryption(), Encryption::Encrypted | Encryption::Refused) {
        return Err(Error::Encrypted);
    }
    match dump.index().dropped {
        0 => Ok(()),
        pages => Err(Error::NoMemory { pages }),
    }
}

/// Bytes that the files of a crash take; holes do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// They take no less, whatever they are compressed to.
    pub least: u64,
    /// They take no more.
    pub most: u64,
}

/// How a core is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreOptions {
    /// What is left out of the dump's pages; `None` for nothing.
    pub level: Option<Level>,
    /// Threads that read, check, unpack and pack pages, at least 1. The core's bytes do not depend on it.
    pub threads: usize,
}

impl Default for CoreOptions {
    /// All pages, by as many threads as there are processors.
    fn default() -> CoreOptions {
        CoreOptions { level: None, threads: processors() }
    }
}

/// Where a core is written to: first all after its head in ascending order, then its head. What is never written reads as
/// zeros.
pub trait Sink {
    /// Tells what comes, before all else: the first `head` bytes are written last of all, the others before, each part of
    /// them in ascending order of offset and each byte at most once. `length` is the file's, if it is known.
    ///
    /// # Errors
    /// What the file says.
    fn begin(&mut self, head: u64, length: Option<u64>) -> io::Result<()>;

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    /// What the file says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes it `length` bytes long.
    ///
    /// # Errors
    /// What the file says.
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

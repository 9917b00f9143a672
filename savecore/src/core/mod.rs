//! What a dump becomes: an ELF core.

pub mod elf;
mod layout;
mod notes;
pub mod pagetable;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use notes::{FACTS_NAME, FACTS_TYPE};

/// Where a core is written to; what is never written reads as zeros.
pub trait Sink {
    /// Tells what comes: the first `head` bytes are written last of all, all others in ascending order of their offset,
    /// and each byte once. `length` is the file's length, if it is known. A store that uploads in parts relies on it.
    ///
    /// # Errors
    /// If that cannot be taken.
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

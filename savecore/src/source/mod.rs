//! Sources of dumps: a sequence of 4096-byte blocks in a partition, an image file, or memory.

mod access;
mod armed;
mod content;
mod discover;
mod file;
mod holder;
mod in_use;
mod node;
mod reader;
mod spool;
mod sysfs;
mod table;
mod users;
mod view;

use std::io;
use std::path::Path;

use dumpcore::format::{BLOCK_SIZE, Block};

pub use access::Access;
pub(crate) use armed::{MODULE, read_text, write_text};
pub use content::{Content, describe_block, fingerprint, recognise};
pub use discover::{Discovery, Labelled, PARTITION_TYPE, discover, discover_as, discover_at, discover_in};
pub use dumpcore::table::{Kind as TableKind, SlotKind};
pub use file::Target;
pub use holder::Holder;
pub use node::{Node, node_at, nodes_of};
pub use reader::Reader;
pub(crate) use reader::{Unreadable, read_around};
pub use spool::{STANDARD_INPUT, Spool};
pub use sysfs::Roots;
pub use table::Slot;
pub use view::{Reading, find_partition};

use crate::text::harmless_line;

/// Blocks per read or write (1 MiB).
pub const BATCH: usize = 256;

/// A dump partition, block by block. Block 0 is the partition's first. Several threads may read concurrently.
pub trait Source: Sync {
    /// Size in blocks, without a partial block at the end.
    fn blocks(&self) -> u64;

    /// Reads consecutive blocks from number `first` on.
    ///
    /// # Errors
    /// Errors of the medium, or [`io::ErrorKind::UnexpectedEof`] beyond its end.
    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()>;

    /// Writes consecutive blocks from number `first` on.
    ///
    /// # Errors
    /// Errors of the medium, or [`io::ErrorKind::UnexpectedEof`] beyond its end; then nothing is written.
    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()>;

    /// Returns when everything written so far is on the medium, not just in a cache.
    ///
    /// # Errors
    /// Errors of the medium.
    fn sync(&mut self) -> io::Result<()>;

    /// Drops the system's cache of the blocks from `first` on: others may write without that cache, as a
    /// kernel's dump does.
    fn forget(&self, _first: u64) {}
}

/// The first blocks of another source; read-only.
pub(crate) struct First<'s> {
    pub(crate) source: &'s dyn Source,
    /// Their number; at most that of the other source.
    pub(crate) blocks: u64,
}

impl Source for First<'_> {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        within(self.blocks, first, into.len())?;
        self.source.read(first, into)
    }

    fn write(&mut self, _first: u64, _from: &[Block]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A path for messages, without control characters: the names in an archive of dumps may be anyone's.
fn shown(path: &Path) -> String {
    harmless_line(&path.display().to_string())
}

/// Checks that `count` blocks from `first` on are within `blocks`.
fn within(blocks: u64, first: u64, count: usize) -> io::Result<()> {
    match first.checked_add(count as u64) {
        Some(end) if end <= blocks => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("blocks {first} to {} of {blocks} do not exist", first.saturating_add(count as u64)),
        )),
    }
}

/// A partition in memory, as from a simulation.
impl Source for Vec<u8> {
    fn blocks(&self) -> u64 {
        (self.len() / BLOCK_SIZE) as u64
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        within(self.blocks(), first, into.len())?;
        let start = first as usize * BLOCK_SIZE;
        let bytes = into.as_flattened_mut();
        bytes.copy_from_slice(&self[start..start + bytes.len()]);
        Ok(())
    }

    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()> {
        within(self.blocks(), first, from.len())?;
        let start = first as usize * BLOCK_SIZE;
        let bytes = from.as_flattened();
        self[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports the progress of a long operation. `()` ignores it.
pub trait Progress {
    /// Starts an operation of `total` blocks.
    fn begin(&mut self, what: &str, total: u64);
    /// `blocks` more are done.
    fn advance(&mut self, blocks: u64);
    /// The operation is over.
    fn end(&mut self);
    /// Shows a line to the user.
    fn warn(&mut self, _line: &str) {}
}

impl Progress for () {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _blocks: u64) {}
    fn end(&mut self) {}
}

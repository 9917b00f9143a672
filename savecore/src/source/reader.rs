//! Reads a source in large pieces, returns single blocks, and skips unreadable sectors.

use std::io;

use dumpcore::format::{BLOCK_SIZE, Block};

use super::{BATCH, Source};

/// A window over a source that moves forward with its user.
pub struct Reader<'s> {
    source: &'s dyn Source,
    window: Vec<Block>,
    first: u64,
    length: usize,
    /// Up to here, read single blocks: a larger piece could not be read.
    careful_until: u64,
}

impl<'s> Reader<'s> {
    /// A reader that has read nothing yet.
    pub fn new(source: &'s dyn Source) -> Reader<'s> {
        Reader { source, window: vec![[0; BLOCK_SIZE]; BATCH], first: 0, length: 0, careful_until: 0 }
    }

    /// Size of the source in blocks.
    pub fn blocks(&self) -> u64 {
        self.source.blocks()
    }

    /// The block with this number.
    ///
    /// # Errors
    /// If this block cannot be read; its neighbours do not matter.
    pub fn block(&mut self, number: u64) -> io::Result<&Block> {
        let inside = number >= self.first && number - self.first < self.length as u64;
        if !inside {
            self.fill(number)?;
        }
        Ok(&self.window[(number - self.first) as usize])
    }

    fn fill(&mut self, number: u64) -> io::Result<()> {
        self.length = 0;
        let left = self.source.blocks().saturating_sub(number);
        let piece = left.min(BATCH as u64) as usize;
        if piece > 1 && number >= self.careful_until {
            if self.source.read(number, &mut self.window[..piece]).is_ok() {
                (self.first, self.length) = (number, piece);
                return Ok(());
            }
            self.careful_until = number + piece as u64;
        }
        self.source.read(number, &mut self.window[..1])?;
        (self.first, self.length) = (number, 1);
        Ok(())
    }
}

/// The unreadable blocks of a read.
#[derive(Default)]
pub(crate) struct Unreadable(Vec<u64>);

impl Unreadable {
    /// Whether this block is one of them.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.0.binary_search(&number).is_ok()
    }

    /// The first of them.
    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first().copied()
    }
}

/// Reads consecutive blocks in one read; if that fails, one by one. Unreadable blocks are left unchanged.
pub(crate) fn read_around(source: &dyn Source, first: u64, into: &mut [Block]) -> Unreadable {
    if into.is_empty() || source.read(first, into).is_ok() {
        return Unreadable::default();
    }
    let singly = (first..).zip(into.chunks_exact_mut(1));
    Unreadable(
        singly.filter_map(|(number, block)| source.read(number, block).is_err().then_some(number)).collect(),
    )
}

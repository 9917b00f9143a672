//! Reads a source in large pieces, gives single blocks, and gets around sectors that cannot be read.

use std::io;

use dumpcore::format::{BLOCK_SIZE, Block};

use super::{BATCH, Source};

/// A window over a source that moves forward with its user.
pub struct Reader<'s> {
    source: &'s dyn Source,
    window: Vec<Block>,
    first: u64,
    length: usize,
    /// Up to here, blocks are read singly: a piece that reaches there could not be read whole.
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
    /// If this very block cannot be read; its neighbours do not matter.
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

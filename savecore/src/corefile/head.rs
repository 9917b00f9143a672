//! The head of a core: consecutive structures, written in large pieces.

use super::Sink;
use crate::Error;

/// Bytes of the head to write at once; also the part of a bitmap in memory.
pub(super) const GATHER: usize = 1 << 20;

/// Gathers bytes and writes them in large pieces.
pub(super) struct Head<'o> {
    out: &'o mut dyn Sink,
    /// Offset of the collected bytes.
    at: u64,
    bytes: Vec<u8>,
}

impl<'o> Head<'o> {
    /// Starts writing at `at`.
    pub(super) fn new(out: &'o mut dyn Sink, at: u64) -> Head<'o> {
        Head { out, at, bytes: Vec::with_capacity(GATHER) }
    }

    /// Offset of the next bytes.
    pub(super) fn position(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Skips forward to `at`; the gap reads as zeros.
    pub(super) fn seek(&mut self, at: u64) -> Result<(), Error> {
        if at != self.position() {
            self.flush()?;
            self.at = at;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if !self.bytes.is_empty() {
            self.out.write_at(self.at, &self.bytes).map_err(Error::Core)?;
            self.at += self.bytes.len() as u64;
            self.bytes.clear();
        }
        Ok(())
    }
}

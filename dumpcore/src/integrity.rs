//! The checksum of the armed state, and what it finds when that was harmed.

use crate::format::crc::Crc32;
use crate::text::{Describe, Line, display_by_describe};

/// What makes the dump itself one that must not write any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Harm {
    /// A stack in the arena has overflowed: what lies below it is not what it was.
    Stack,
    /// What a checksum protects was changed.
    Integrity {
        /// Its checksum when armed.
        armed: u32,
        /// Its checksum now.
        now: u32,
    },
}

impl Describe for Harm {
    fn describe(&self, line: &mut Line) {
        match *self {
            Harm::Stack => {
                line.text("the dump's own stack has overflowed, nothing more is written");
            }
            Harm::Integrity { armed, now } => {
                line.text("the armed state was changed: its checksum was ").hex(armed.into());
                line.text(", is ").hex(now.into());
            }
        }
    }
}

display_by_describe!(Harm);

/// A running CRC-32 over everything that must not change between `arm()` and `crash()`.
#[derive(Clone, Debug)]
pub struct Digest {
    crc: Crc32,
}

impl Digest {
    /// Nothing taken in yet.
    pub fn new() -> Digest {
        Digest { crc: Crc32::new() }
    }

    /// Takes in bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Digest {
        self.crc.update(bytes);
        self
    }

    /// Takes in a number.
    pub fn number(&mut self, number: u64) -> &mut Digest {
        self.bytes(&number.to_le_bytes())
    }

    /// The checksum of all that was taken in.
    pub fn finish(self) -> u32 {
        self.crc.finish()
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

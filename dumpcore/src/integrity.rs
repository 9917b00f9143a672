//! The checksum of the armed state, and the errors it detects.

use crate::format::crc::Crc32;
use crate::text::{Describe, Line};

/// Damage after which a dump must not write any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// A stack in the arena has overflowed: the memory below it was overwritten.
    Stack,
    /// Data protected by a checksum has changed.
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

/// A running CRC-32 over everything that must not change between `arm()` and `crash()`.
#[derive(Clone, Debug)]
pub struct Digest {
    crc: Crc32,
}

impl Digest {
    /// The state before any input.
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

    /// The checksum of all input.
    pub fn finish(self) -> u32 {
        self.crc.finish()
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

//! Checksums of the dump path's own code and of the sealed armed state.

use crate::console::{Describe, Line};
use crate::format::crc::Crc32;
use crate::platform::{CodeRange, Platform};

/// What makes the dump itself one that must not write any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// A stack in the arena has overflowed: what lies below it is not what it was.
    Stack,
    /// What was sealed was changed.
    Seal {
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
            Harm::Seal { armed, now } => {
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

/// CRC-32 of all code ranges that the platform names, and their number of bytes.
pub fn code(platform: &dyn Platform) -> (u32, u64) {
    let mut digest = Digest::new();
    let mut bytes = 0_u64;
    for CodeRange { start, length } in platform.code_ranges() {
        // SAFETY: Platform::code_ranges promises that the range is readable; code and read-only data do not change.
        let range = unsafe { core::slice::from_raw_parts(*start, *length) };
        digest.number(*start as u64).number(*length as u64).bytes(range);
        bytes = bytes.wrapping_add(*length as u64);
    }
    (digest.finish(), bytes)
}

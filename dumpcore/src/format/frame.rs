//! What label, headers, chunk headers and pattern blocks have in common: magic in front, CRC-32 at the end.

use super::{BLOCK_SIZE, Block, OLDEST_VERSION, VERSION};

/// Where a framed block's CRC-32 stands; it covers all bytes before.
pub const CRC_OFFSET: usize = BLOCK_SIZE - 4;

/// Where a framed block's format version stands (all kinds but the pattern).
pub const VERSION_OFFSET: usize = 8;

/// The kinds of block that name themselves, by the eight bytes in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The partition's label, block 0.
    Label,
    /// A dump's front header.
    Front,
    /// A dump's back header.
    Back,
    /// A chunk's header.
    Chunk,
    /// A block of the pattern: free for a dump.
    Pattern,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 5] = [Kind::Label, Kind::Front, Kind::Back, Kind::Chunk, Kind::Pattern];

    /// The eight bytes in front of a block of this kind.
    pub const fn magic(self) -> [u8; 8] {
        *match self {
            Kind::Label => b"DISKDMPL",
            Kind::Front => b"DISKDMPF",
            Kind::Back => b"DISKDMPB",
            Kind::Chunk => b"DISKDMPC",
            Kind::Pattern => b"DISKDMPP",
        }
    }

    /// The kind that a block claims to be; its checksum is not looked at.
    pub fn of(block: &Block) -> Option<Kind> {
        let magic = block.first_chunk::<8>()?;
        Kind::ALL.into_iter().find(|kind| kind.magic() == *magic)
    }
}

/// Why a block is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Malformed {
    /// It does not begin with the magic of the kind that was expected.
    Magic {
        /// The first eight bytes found, as a little-endian number.
        found: u64,
    },
    /// Its checksum does not match its bytes.
    Crc {
        /// The CRC-32 stored in the block.
        stored: u32,
        /// The CRC-32 of the block's bytes.
        computed: u32,
    },
    /// It was written by a version of the format that this crate does not know.
    Version {
        /// The version found.
        found: u32,
    },
    /// Checksum and version are right, but a field holds a value that the format does not allow.
    Field {
        /// The field's name in this module.
        name: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// CRC-32 (IEEE) of a framed block's bytes, as it belongs at [`CRC_OFFSET`].
pub fn crc(block: &Block) -> u32 {
    let (covered, _) = block.split_at(CRC_OFFSET);
    super::crc::hash(covered)
}

/// Sets the CRC-32 of a finished block.
pub fn set_checksum(block: &mut Block) {
    let crc = crc(block);
    if let Some(slot) = block.last_chunk_mut::<4>() {
        *slot = crc.to_le_bytes();
    }
}

/// Whether this crate reads what is of this version of the format.
pub fn is_known(version: u32) -> bool {
    (OLDEST_VERSION..=VERSION).contains(&version)
}

/// Whether a block is a whole block of `kind` of a version that this crate knows.
///
/// # Errors
/// The first of magic, checksum and version that is wrong. A pattern block has no version.
pub fn check(block: &Block, kind: Kind) -> Result<(), Malformed> {
    let magic = block.first_chunk::<8>().copied().unwrap_or_default();
    if magic != kind.magic() {
        return Err(Malformed::Magic { found: u64::from_le_bytes(magic) });
    }
    let stored = u32::from_le_bytes(block.last_chunk::<4>().copied().unwrap_or_default());
    let computed = crc(block);
    if stored != computed {
        return Err(Malformed::Crc { stored, computed });
    }
    if kind != Kind::Pattern {
        let (_, tail) = block.split_at(VERSION_OFFSET);
        let found = u32::from_le_bytes(tail.first_chunk::<4>().copied().unwrap_or_default());
        if !is_known(found) {
            return Err(Malformed::Version { found });
        }
    }
    Ok(())
}

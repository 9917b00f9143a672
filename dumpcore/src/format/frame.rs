//! The frame of labels, headers, chunk headers and pattern blocks: a magic at the start, a CRC-32 at the end.

use super::{BLOCK_SIZE, Block, OLDEST_VERSION, VERSION};

/// Offset of a framed block's CRC-32, which covers all bytes before it.
pub const CRC_OFFSET: usize = BLOCK_SIZE - 4;

/// Offset of a framed block's format version (all kinds except the pattern).
pub const VERSION_OFFSET: usize = 8;

/// The kinds of block, identified by their first eight bytes.
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

    /// The first eight bytes of a block of this kind.
    pub const fn magic(self) -> [u8; 8] {
        *match self {
            Kind::Label => b"DISKDMPL",
            Kind::Front => b"DISKDMPF",
            Kind::Back => b"DISKDMPB",
            Kind::Chunk => b"DISKDMPC",
            Kind::Pattern => b"DISKDMPP",
        }
    }

    /// The kind that a block claims to be, without a check of its checksum.
    pub fn of(block: &Block) -> Option<Kind> {
        let magic = block.first_chunk::<8>()?;
        Kind::ALL.into_iter().find(|kind| kind.magic() == *magic)
    }
}

/// Why a block is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// It does not begin with the magic of the expected kind.
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
    /// It was written by a format version that this crate does not know.
    Version {
        /// The version found.
        found: u32,
    },
    /// Checksum and version are right, but a field has a value that the format does not allow.
    Field {
        /// The field's name in this module.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

/// CRC-32 (IEEE) of a framed block's bytes, as stored at [`CRC_OFFSET`].
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

/// Whether this crate reads this version of the format.
pub fn is_known(version: u32) -> bool {
    (OLDEST_VERSION..=VERSION).contains(&version)
}

/// Checks that a block is an intact block of `kind`, of a version that this crate knows.
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

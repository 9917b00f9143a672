//! A chunk: one header block that describes and checks up to [`MAX_PAYLOAD_BLOCKS`] payload blocks.
//!
//! A notes chunk carries [notes](super::note). A memory chunk carries pages: its runs say, in order, which
//! page frames it speaks of and what became of each; the pages of [`RunKind::Data`] runs follow as payload,
//! one page a block, in the order of the runs.

use static_assertions::{const_assert, const_assert_eq};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::{self, Kind, Malformed};
use super::{BLOCK_SIZE, Block, VERSION};

/// Payload blocks in a chunk, at most (512 KiB).
pub const MAX_PAYLOAD_BLOCKS: usize = 128;

/// Runs in a chunk, at most.
pub const MAX_RUNS: usize = 188;

/// What a chunk carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ChunkKind {
    /// Registers, messages, maps: see [`note`](super::note).
    Notes = 1,
    /// Pages of memory.
    Memory = 2,
}

impl ChunkKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<ChunkKind> {
        [ChunkKind::Notes, ChunkKind::Memory].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// What became of the pages of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RunKind {
    /// Their bytes are in the payload, one block each.
    Data = 1,
    /// They held only zeros; no payload.
    Zero = 2,
    /// They are the dump's own arena; no payload.
    Arena = 3,
    /// They could not be read; no payload.
    Unreadable = 4,
}

impl RunKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<RunKind> {
        [RunKind::Data, RunKind::Zero, RunKind::Arena, RunKind::Unreadable]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// Consecutive pages with the same fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Run {
    /// Page frame number of the first: its physical address divided by [`PAGE_SIZE`](super::PAGE_SIZE).
    pub pfn: U64,
    /// How many, at least one.
    pub count: U32,
    /// A [`RunKind`].
    pub kind: U32,
}
const_assert_eq!(size_of::<Run>(), 16);

impl Run {
    /// What became of its pages; [`ChunkHeader::parse`] has made sure that it is a known kind.
    pub fn kind(&self) -> RunKind {
        RunKind::from_number(self.kind.get()).unwrap_or(RunKind::Unreadable)
    }
}

/// The layout of a chunk's header on disk.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// `DISKDMPC`.
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// A [`ChunkKind`].
    pub kind: U32,
    /// The dump's nonce.
    pub nonce: U64,
    /// Position in the dump, from 0.
    pub index: U64,
    /// Number of this header's own block.
    pub block: U64,
    /// Payload blocks behind this one, at most [`MAX_PAYLOAD_BLOCKS`].
    pub payload_blocks: U32,
    /// Runs in use, at most [`MAX_RUNS`]; 0 in a notes chunk.
    pub run_count: U32,
    /// Bytes of payload in use; the rest of the last block is zero.
    pub payload_bytes: U64,
    /// [Checksum](super::checksum) of each payload block, seeded with the number of the block it stands in.
    pub sums: [U64; MAX_PAYLOAD_BLOCKS],
    /// What happened to which pages.
    pub runs: [Run; MAX_RUNS],
    /// Zero.
    pub reserved: [u8; 4],
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<ChunkHeader>(), BLOCK_SIZE);
const_assert!(MAX_PAYLOAD_BLOCKS <= u32::MAX as usize);

impl ChunkHeader {
    /// An empty header.
    pub fn new() -> ChunkHeader {
        let mut header = ChunkHeader::new_zeroed();
        header.clear();
        header
    }

    /// Empties the header in place (it is too large for a small stack).
    pub fn clear(&mut self) {
        self.zero();
        self.magic = Kind::Chunk.magic();
        self.version = VERSION.into();
    }

    /// A block seen as a chunk header, to be filled in place.
    pub fn of_mut(block: &mut Block) -> Option<&mut ChunkHeader> {
        ChunkHeader::mut_from_bytes(block.as_mut_slice()).ok()
    }

    /// The chunk header in a block.
    ///
    /// # Errors
    /// What [`frame::check`] says, or counts and runs that contradict each other.
    pub fn parse(block: &Block) -> Result<&ChunkHeader, Malformed> {
        frame::check(block, Kind::Chunk)?;
        let header = ChunkHeader::ref_from_bytes(block.as_slice())
            .map_err(|_| Malformed::Field { name: "chunk", value: 0 })?;
        let kind = ChunkKind::from_number(header.kind.get())
            .ok_or(Malformed::Field { name: "kind", value: header.kind.get().into() })?;
        let blocks = header.payload_blocks.get();
        if blocks as usize > MAX_PAYLOAD_BLOCKS {
            return Err(Malformed::Field { name: "payload_blocks", value: blocks.into() });
        }
        let bytes = header.payload_bytes.get();
        if bytes.div_ceil(BLOCK_SIZE as u64) != u64::from(blocks) {
            return Err(Malformed::Field { name: "payload_bytes", value: bytes });
        }
        let Some(runs) = header.runs.get(..header.run_count.get() as usize) else {
            return Err(Malformed::Field { name: "run_count", value: header.run_count.get().into() });
        };
        let mut data = 0_u64;
        for run in runs {
            let Some(kind) = RunKind::from_number(run.kind.get()) else {
                return Err(Malformed::Field { name: "run.kind", value: run.kind.get().into() });
            };
            // Page frame numbers of a 64-bit physical address have at most 52 bits.
            let end = run.pfn.get().checked_add(run.count.get().into());
            if run.count.get() == 0 || end.is_none_or(|end| end > 1 << 52) {
                return Err(Malformed::Field { name: "run.count", value: run.count.get().into() });
            }
            if kind == RunKind::Data {
                data = data.saturating_add(run.count.get().into());
            }
        }
        let expected = match kind {
            ChunkKind::Notes => 0,
            ChunkKind::Memory => u64::from(blocks),
        };
        if data != expected || (kind == ChunkKind::Notes && !runs.is_empty()) {
            return Err(Malformed::Field { name: "runs", value: data });
        }
        Ok(header)
    }

    /// What the chunk carries; [`ChunkHeader::parse`] has made sure that it is known.
    pub fn kind(&self) -> ChunkKind {
        ChunkKind::from_number(self.kind.get()).unwrap_or(ChunkKind::Notes)
    }

    /// The runs in use.
    pub fn runs(&self) -> &[Run] {
        self.runs.get(..self.run_count.get() as usize).unwrap_or_default()
    }

    /// The checksums of the payload blocks.
    pub fn sums(&self) -> &[U64] {
        self.sums.get(..self.payload_blocks.get() as usize).unwrap_or_default()
    }
}

impl Default for ChunkHeader {
    fn default() -> Self {
        Self::new()
    }
}

//! A chunk: one header block that describes and checks up to [`MAX_PAYLOAD_BLOCKS`] payload blocks.
//!
//! A notes chunk carries [notes](super::note). A memory chunk carries pages: its runs list, in order, the
//! page frames that it covers and what happened to each. The pages of [`RunKind::Data`] runs follow as
//! payload, in the same order, [encoded](Encoding) as one page per block or packed in [units](UnitHeader).
//!
//! The payload of an encrypted chunk is encrypted as a whole, including padding; see [`crypt`](super::crypt).

use static_assertions::{const_assert, const_assert_eq};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{self, version3};
use super::cipher::{Cipher, PublicKey, Tag};
use super::class::PageClass;
use super::frame::{self, Kind, Malformed};
use super::integer::{U16, U32, U64};
use super::{BLOCK_SIZE, Block, PAGE_SIZE, VERSION};

/// Maximum number of payload blocks in a chunk (512 KiB).
pub const MAX_PAYLOAD_BLOCKS: usize = 128;

/// Maximum number of runs in a chunk.
pub const MAX_RUNS: usize = 183;

/// The first format version with the current payload checksum; earlier ones use [`version3`].
const VERSION_OF_SUM: u32 = 4;

/// Maximum number of pages in a unit.
pub const MAX_UNIT_PAGES: usize = 16;

/// Maximum number of [`RunKind::Data`] pages in a chunk: bounds what a reader has to unpack.
pub const MAX_CHUNK_PAGES: u64 = 1 << 16;

/// The content of a chunk.
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

/// What happened to the pages of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum RunKind {
    /// Their bytes are in the payload, one block each.
    Data = 1,
    /// They held only zeros; no payload.
    Zero = 2,
    /// They are the dump's own arena; no payload.
    Arena = 3,
    /// The platform could not read them; no payload.
    Unreadable = 4,
    /// Reading them faulted (machine check, hole, unmapped); no payload.
    Faulted = 5,
    /// Left out by the dump level: page cache without private data.
    Cache = 6,
    /// Left out by the dump level: page cache with private data.
    CachePrivate = 7,
    /// Left out by the dump level: memory of user processes.
    User = 8,
    /// Left out by the dump level: free memory.
    Free = 9,
    /// Left out by the dump level "kernel only": not known to belong to the kernel.
    NotKernel = 10,
    /// Never read: according to the platform, they belong to a device.
    Device = 11,
}

impl RunKind {
    /// All kinds, in the order of their numbers, which begin at 1.
    pub const ALL: [RunKind; 11] = [
        RunKind::Data,
        RunKind::Zero,
        RunKind::Arena,
        RunKind::Unreadable,
        RunKind::Faulted,
        RunKind::Cache,
        RunKind::CachePrivate,
        RunKind::User,
        RunKind::Free,
        RunKind::NotKernel,
        RunKind::Device,
    ];

    /// The kind with this number.
    pub fn from_number(number: u16) -> Option<RunKind> {
        RunKind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Whether the pages were left out on purpose.
    pub fn is_left_out(self) -> bool {
        matches!(
            self,
            RunKind::Arena
                | RunKind::Cache
                | RunKind::CachePrivate
                | RunKind::User
                | RunKind::Free
                | RunKind::NotKernel
                | RunKind::Device
        )
    }
}

/// How a memory chunk stores pages in its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Encoding {
    /// One page per block, unchanged. Notes chunks use this encoding too.
    Plain = 0,
    /// In [units](UnitHeader), one after another.
    Units = 1,
}

impl Encoding {
    /// The encoding with this number.
    pub fn from_number(number: u32) -> Option<Encoding> {
        [Encoding::Plain, Encoding::Units].into_iter().find(|encoding| *encoding as u32 == number)
    }
}

/// How a unit's bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Packing {
    /// Unchanged, because compression did not shrink them.
    Stored = 0,
    /// As one LZ4 block (LZ4 Block Format Description, github.com/lz4/lz4, doc/lz4_Block_format.md).
    Lz4 = 1,
}

impl Packing {
    /// The packing with this number.
    pub fn from_number(number: u16) -> Option<Packing> {
        [Packing::Stored, Packing::Lz4].into_iter().find(|packing| *packing as u16 == number)
    }
}

/// Precedes each unit, which holds the next `pages` data pages of the chunk. The unit's bytes are padded with
/// zeros to a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UnitHeader {
    /// Bytes after this header, without padding; at least 1, at most the size of `pages` pages.
    pub stored: U32,
    /// Pages, 1 to [`MAX_UNIT_PAGES`].
    pub pages: U16,
    /// A [`Packing`].
    pub packing: U16,
}
const_assert_eq!(size_of::<UnitHeader>(), 8);

/// A unit found in a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Offset of its bytes in the payload.
    pub offset: usize,
    /// Number of its bytes.
    pub stored: usize,
    /// Number of its pages.
    pub pages: usize,
    /// How they are stored.
    pub packing: Packing,
}

/// The units in the payload of a chunk with [`Encoding::Units`], one after another. Ends at the end of the
/// payload or at an inconsistent unit; in the latter case [`Units::rest`] is not empty.
#[derive(Clone, Debug)]
pub struct Units<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Units<'a> {
    /// The units in a payload's used bytes.
    pub fn new(payload: &'a [u8]) -> Units<'a> {
        Units { payload, at: 0 }
    }

    /// The bytes not visited yet.
    pub fn rest(&self) -> &'a [u8] {
        self.payload.get(self.at..).unwrap_or_default()
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let (header, behind) = UnitHeader::ref_from_prefix(self.rest()).ok()?;
        let packing = Packing::from_number(header.packing.get())?;
        let pages = usize::from(header.pages.get());
        let stored = usize::try_from(header.stored.get()).ok()?;
        let raw = pages.saturating_mul(PAGE_SIZE);
        let fits = match packing {
            Packing::Stored => stored == raw,
            Packing::Lz4 => stored < raw,
        };
        if pages == 0 || pages > MAX_UNIT_PAGES || stored == 0 || !fits {
            return None;
        }
        let padded = stored.next_multiple_of(8);
        if padded > behind.len() {
            return None;
        }
        let offset = self.at.saturating_add(size_of::<UnitHeader>());
        self.at = offset.saturating_add(padded);
        Some(Unit { offset, stored, pages, packing })
    }
}

/// Consecutive pages of one class to which the same happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Run {
    /// Page frame number of the first page: its physical address divided by [`PAGE_SIZE`].
    pub pfn: U64,
    /// Number of pages, at least one.
    pub count: U32,
    /// A [`RunKind`].
    pub kind: U16,
    /// A [`PageClass`]: what the pages were used for, whatever happened to them.
    pub class: U16,
}
const_assert_eq!(size_of::<Run>(), 16);

impl Run {
    /// What happened to its pages. [`ChunkHeader::parse`] has checked that the kind is known.
    pub fn kind(&self) -> RunKind {
        RunKind::from_number(self.kind.get()).unwrap_or(RunKind::Unreadable)
    }

    /// What its pages were used for. [`ChunkHeader::parse`] has checked that the class is known.
    pub fn class(&self) -> PageClass {
        PageClass::from_number(self.class.get()).unwrap_or(PageClass::Unknown)
    }
}

/// The layout of a chunk's header on disk.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// `DISKDMPC`.
    pub magic: [u8; 8],
    /// [`VERSION`], or an earlier one down to [`OLDEST_VERSION`](super::OLDEST_VERSION).
    pub version: U32,
    /// A [`ChunkKind`].
    pub kind: U32,
    /// The dump's nonce.
    pub nonce: U64,
    /// Position in the dump, from 0.
    pub index: U64,
    /// Number of this header's own block.
    pub block: U64,
    /// Payload blocks after this one, at most [`MAX_PAYLOAD_BLOCKS`].
    pub payload_blocks: U32,
    /// Runs in use, at most [`MAX_RUNS`]; 0 in a notes chunk.
    pub run_count: U32,
    /// Bytes of payload in use; the rest of the last block is zero (before encryption).
    pub payload_bytes: U64,
    /// An [`Encoding`].
    pub encoding: U32,
    /// A [`Cipher`].
    pub cipher: U32,
    /// The pass that wrote it: 0 notes, then as in [`header::PASSES`](super::header::PASSES).
    pub pass: U32,
    /// Number of the attempt since the key was made; part of the cipher's nonce.
    pub attempt: U32,
    /// The ephemeral public key of an encrypted chunk, so that each chunk can be decrypted on its own;
    /// otherwise zeros.
    pub ephemeral: PublicKey,
    /// What happened to which pages.
    pub runs: [Run; MAX_RUNS],
    /// Zero.
    pub padding: [u8; 8],
    /// Authenticates the payload and all header bytes before the tag in an encrypted chunk; otherwise zeros.
    pub tag: Tag,
    /// [Checksum](super::checksum) of each payload block as stored, for the block number at which it is
    /// stored.
    pub sums: [U64; MAX_PAYLOAD_BLOCKS],
    /// Zero.
    pub reserved: [u8; 12],
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<ChunkHeader>(), BLOCK_SIZE);
/// Bytes before the tag, which it covers: a multiple of the 16 that Poly1305 takes in at a time.
pub const TAG_OFFSET: usize = 104 + MAX_RUNS * size_of::<Run>() + 8;
const_assert!(TAG_OFFSET.is_multiple_of(16));
const_assert_eq!(core::mem::offset_of!(ChunkHeader, tag), TAG_OFFSET);
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

    /// Views a block as a chunk header, whatever it contains.
    pub fn of(block: &Block) -> Option<&ChunkHeader> {
        ChunkHeader::ref_from_bytes(block.as_slice()).ok()
    }

    /// Views a block as a chunk header, to be filled in place.
    pub fn of_mut(block: &mut Block) -> Option<&mut ChunkHeader> {
        ChunkHeader::mut_from_bytes(block.as_mut_slice()).ok()
    }

    /// The chunk header in a block.
    ///
    /// # Errors
    /// As for [`frame::check`]; also inconsistent counts or runs.
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
        let encoding = Encoding::from_number(header.encoding.get())
            .ok_or(Malformed::Field { name: "encoding", value: header.encoding.get().into() })?;
        if Cipher::from_number(header.cipher.get()).is_none() {
            return Err(Malformed::Field { name: "cipher", value: header.cipher.get().into() });
        }
        let mut data = 0_u64;
        for run in runs {
            let Some(kind) = RunKind::from_number(run.kind.get()) else {
                return Err(Malformed::Field { name: "run.kind", value: run.kind.get().into() });
            };
            if PageClass::from_number(run.class.get()).is_none() {
                return Err(Malformed::Field { name: "run.class", value: run.class.get().into() });
            }
            // A page frame number of a 64-bit physical address has at most 52 bits.
            let end = run.pfn.get().checked_add(run.count.get().into());
            if run.count.get() == 0 || end.is_none_or(|end| end > 1 << 52) {
                return Err(Malformed::Field { name: "run.count", value: run.count.get().into() });
            }
            if kind == RunKind::Data {
                data = data.saturating_add(run.count.get().into());
            }
        }
        let agrees = match (kind, encoding) {
            (ChunkKind::Notes, Encoding::Plain) => runs.is_empty(),
            (ChunkKind::Notes, Encoding::Units) => false,
            (ChunkKind::Memory, Encoding::Plain) => data == u64::from(blocks),
            (ChunkKind::Memory, Encoding::Units) => data <= MAX_CHUNK_PAGES && (data == 0) == (blocks == 0),
        };
        if !agrees {
            return Err(Malformed::Field { name: "runs", value: data });
        }
        Ok(header)
    }

    /// What the chunk carries. [`ChunkHeader::parse`] has checked that the kind is known.
    pub fn kind(&self) -> ChunkKind {
        ChunkKind::from_number(self.kind.get()).unwrap_or(ChunkKind::Notes)
    }

    /// How its pages are stored. [`ChunkHeader::parse`] has checked that the encoding is known.
    pub fn encoding(&self) -> Encoding {
        Encoding::from_number(self.encoding.get()).unwrap_or(Encoding::Plain)
    }

    /// Whether its payload is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.cipher.get() != Cipher::None as u32
    }

    /// The runs in use.
    pub fn runs(&self) -> &[Run] {
        self.runs.get(..self.run_count.get() as usize).unwrap_or_default()
    }

    /// The checksum that a payload block of this chunk should have at block number `position` of the
    /// partition, by the rule of the version that wrote it. For readers.
    pub fn block_sum(&self, block: &Block, position: u64) -> u64 {
        if self.version.get() < VERSION_OF_SUM {
            version3::block_sum(block, position)
        } else {
            checksum::block_sum(block, position)
        }
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

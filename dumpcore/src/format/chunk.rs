//! A chunk: one header block that describes and checks up to [`MAX_PAYLOAD_BLOCKS`] payload blocks.
//!
//! A notes chunk carries [notes](super::note). A memory chunk carries pages: its runs say, in order, which
//! page frames it speaks of and what became of each; the pages of [`RunKind::Data`] runs follow as payload in the
//! order of the runs, [encoded](Encoding) one page a block, or packed in [units](UnitHeader).
//!
//! The payload of a encrypted chunk is encrypted as a whole, padding included, see [`crypt`](super::crypt).

use static_assertions::{const_assert, const_assert_eq};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{self, version3};
use super::cipher::{Cipher, PublicKey, Tag};
use super::class::PageClass;
use super::frame::{self, Kind, Malformed};
use super::{BLOCK_SIZE, Block, PAGE_SIZE, VERSION};

/// Payload blocks in a chunk, at most (512 KiB).
pub const MAX_PAYLOAD_BLOCKS: usize = 128;

/// Runs in a chunk, at most.
pub const MAX_RUNS: usize = 183;

/// The version of the format from which on payload has the checksum that it has now; before, it was [`version3`]'s.
const VERSION_OF_SUM: u32 = 4;

/// Pages in a unit, at most.
pub const MAX_UNIT_PAGES: usize = 16;

/// Pages of [`RunKind::Data`] in a chunk, at most: bounds what a reader has to unpack.
pub const MAX_CHUNK_PAGES: u64 = 1 << 16;

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
#[repr(u16)]
pub enum RunKind {
    /// Their bytes are in the payload, one block each.
    Data = 1,
    /// They held only zeros; no payload.
    Zero = 2,
    /// They are the dump's own arena; no payload.
    Arena = 3,
    /// The platform had no way to read them; no payload.
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
    /// Left out by the dump level "kernel only": not known to be the kernel's.
    NotKernel = 10,
    /// Never read: the platform calls them a device's.
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

/// How a memory chunk's pages stand in its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Encoding {
    /// One page a block, as it is. Notes too are of this encoding.
    Plain = 0,
    /// In [units](UnitHeader), one behind another.
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
    /// As they are: they did not shrink.
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

/// In front of each unit: the next `pages` data pages of the chunk, together. Behind its bytes, zeros up to the next
/// multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UnitHeader {
    /// Bytes after this header, padding not counted; at least 1, at most `pages` pages.
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
    /// Where its bytes begin in the payload.
    pub offset: usize,
    /// How many bytes it has.
    pub stored: usize,
    /// How many pages.
    pub pages: usize,
    /// How they are stored.
    pub packing: Packing,
}

/// The units in the payload of a chunk with [`Encoding::Units`], one after another. Ends at the payload's end, or where a
/// unit contradicts itself; [`Units::rest`] is then not empty.
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

    /// What has not been walked over.
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

/// Consecutive pages of one class with the same fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Run {
    /// Page frame number of the first: its physical address divided by [`PAGE_SIZE`].
    pub pfn: U64,
    /// How many, at least one.
    pub count: U32,
    /// A [`RunKind`].
    pub kind: U16,
    /// A [`PageClass`]: what the pages were used for, whatever became of them.
    pub class: U16,
}
const_assert_eq!(size_of::<Run>(), 16);

impl Run {
    /// What became of its pages; [`ChunkHeader::parse`] has made sure that it is a known kind.
    pub fn kind(&self) -> RunKind {
        RunKind::from_number(self.kind.get()).unwrap_or(RunKind::Unreadable)
    }

    /// What its pages were used for; [`ChunkHeader::parse`] has made sure that it is a known class.
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
    /// Bytes of payload in use; the rest of the last block is zero (before it is encrypted).
    pub payload_bytes: U64,
    /// An [`Encoding`].
    pub encoding: U32,
    /// A [`Cipher`].
    pub cipher: U32,
    /// The pass that wrote it: 0 notes, then as in [`header::PASSES`](super::header::PASSES).
    pub pass: U32,
    /// Number of the attempt to dump since the key was made; part of the cipher's nonce.
    pub attempt: U32,
    /// The ephemeral public key of a encrypted chunk, so that each can be opened alone; zeros in others.
    pub ephemeral: PublicKey,
    /// What happened to which pages.
    pub runs: [Run; MAX_RUNS],
    /// Zero.
    pub padding: [u8; 8],
    /// Authenticates all bytes before and the payload of a encrypted chunk; zeros in others.
    pub tag: Tag,
    /// [Checksum](super::checksum) of each payload block as stored, for the number of the block it stands in.
    pub sums: [U64; MAX_PAYLOAD_BLOCKS],
    /// Zero.
    pub reserved: [u8; 12],
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<ChunkHeader>(), BLOCK_SIZE);
/// Bytes in front of the tag, which it covers: a multiple of the 16 that Poly1305 takes in at a time.
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

    /// A block seen as a chunk header, whatever it holds.
    pub fn of(block: &Block) -> Option<&ChunkHeader> {
        ChunkHeader::ref_from_bytes(block.as_slice()).ok()
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
            // Page frame numbers of a 64-bit physical address have at most 52 bits.
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

    /// What the chunk carries; [`ChunkHeader::parse`] has made sure that it is known.
    pub fn kind(&self) -> ChunkKind {
        ChunkKind::from_number(self.kind.get()).unwrap_or(ChunkKind::Notes)
    }

    /// How its pages are stored; [`ChunkHeader::parse`] has made sure that it is known.
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

    /// The checksum that a payload block of this chunk should have if it stands in block number `position` of the partition: by the
    /// rule of the version that wrote it. For readers.
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

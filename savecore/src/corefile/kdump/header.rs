//! The first blocks of a compressed kdump (makedumpfile, diskdump_mod.h and IMPLEMENTATION; the same on all architectures
//! of 64 bits).

use zerocopy::little_endian::{I32, I64, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::super::linux::UTS_LENGTH;

/// Bytes of a block, and of a page.
pub(super) const BLOCK: u64 = 4096;

/// The newest version there is.
pub(super) const VERSION: i32 = 6;

/// In [`Header::status`]: pages are missing that should be there.
pub(super) const INCOMPLETE: u32 = 8;

/// Block 0: `struct disk_dump_header`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    /// `KDUMP` and three spaces.
    pub(super) signature: [u8; 8],
    /// [`VERSION`].
    pub(super) version: I32,
    /// `struct new_utsname`.
    pub(super) utsname: [[u8; UTS_LENGTH]; 6],
    pub(super) padding: [u8; 6],
    /// Seconds since 1970, and microseconds.
    pub(super) time: [I64; 2],
    /// How pages are packed, as in [`PageDesc::flags`]; [`INCOMPLETE`].
    pub(super) status: U32,
    /// [`BLOCK`].
    pub(super) block_size: I32,
    /// Blocks of the sub header with the notes after it.
    pub(super) sub_header_blocks: I32,
    /// Blocks of both bitmaps.
    pub(super) bitmap_blocks: U32,
    /// The first page frame number that there is none of; see the sub header.
    pub(super) max_mapnr: U32,
    /// Pages of RAM.
    pub(super) ram_blocks: U32,
    /// Pages in the file.
    pub(super) device_blocks: U32,
    /// The same.
    pub(super) written_blocks: U32,
    /// The CPU that crashed.
    pub(super) current_cpu: U32,
    pub(super) cpus: I32,
}

const _: () = assert!(size_of::<Header>() == 464);

/// Block 1: `struct kdump_sub_header`. Notes follow it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct SubHeader {
    /// x86_64: where the kernel lies, less where it was linked to lie.
    pub(super) phys_base: U64,
    /// Which pages were left out: 2 page cache, 4 page cache with private data too, 8 user memory, 16 free memory.
    pub(super) dump_level: I32,
    /// Whether this is one file of several; then from and to which page.
    pub(super) split: I32,
    pub(super) split_pages: [U64; 2],
    /// Where in the file VMCOREINFO is, inside of the notes, and its length; zeros if there is none.
    pub(super) vmcoreinfo: [U64; 2],
    /// Where in the file the notes are, and their length.
    pub(super) notes: [U64; 2],
    /// The same of what says which memory was erased: nothing.
    pub(super) eraseinfo: [U64; 2],
    /// As above.
    pub(super) split_pages_64: [U64; 2],
    /// The first page frame number that there is none of.
    pub(super) max_mapnr: U64,
}

const _: () = assert!(size_of::<SubHeader>() == 104);

/// Where a page is: one for each page that the second bitmap names.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PageDesc {
    /// Where in the file; 0 for a page that was lost.
    pub(super) offset: U64,
    /// Bytes there.
    pub(super) size: U32,
    /// How it is packed: 0 not at all, 1 zlib, 0x20 zstd.
    pub(super) flags: U32,
    pub(super) page_flags: U64,
}

const _: () = assert!(size_of::<PageDesc>() == 24);

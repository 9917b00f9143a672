//! The first blocks of a compressed kdump (makedumpfile, diskdump_mod.h and IMPLEMENTATION; the same on all
//! 64-bit architectures).

use zerocopy::little_endian::{I32, I64, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::super::linux::UTS_LENGTH;

/// Bytes of a block, and of a page.
pub(super) const BLOCK: u64 = 4096;

/// The newest version.
pub(super) const VERSION: i32 = 6;

/// In [`Header::status`]: some pages are missing.
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
    /// The compression, as in [`PageDesc::flags`]; [`INCOMPLETE`].
    pub(super) status: U32,
    /// [`BLOCK`].
    pub(super) block_size: I32,
    /// Blocks of the sub header, including the notes after it.
    pub(super) sub_header_blocks: I32,
    /// Blocks of both bitmaps.
    pub(super) bitmap_blocks: U32,
    /// First page frame number after the last; see the sub header.
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
    /// x86_64: the kernel's physical address minus its link address.
    pub(super) phys_base: U64,
    /// Excluded pages: 2 page cache, 4 page cache with private data too, 8 user memory, 16 free memory.
    pub(super) dump_level: I32,
    /// Whether this is one file of several; then its range of pages.
    pub(super) split: I32,
    pub(super) split_pages: [U64; 2],
    /// File offset of VMCOREINFO, inside the notes, and its length; zeros if there is none.
    pub(super) vmcoreinfo: [U64; 2],
    /// File offset of the notes, and their length.
    pub(super) notes: [U64; 2],
    /// The same for the list of erased memory: empty.
    pub(super) eraseinfo: [U64; 2],
    /// As above.
    pub(super) split_pages_64: [U64; 2],
    /// First page frame number after the last.
    pub(super) max_mapnr: U64,
}

const _: () = assert!(size_of::<SubHeader>() == 104);

/// A page's descriptor: one for each page in the second bitmap.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PageDesc {
    /// File offset; 0 for a lost page.
    pub(super) offset: U64,
    /// Bytes there.
    pub(super) size: U32,
    /// Compression: 0 none, 1 zlib, 0x20 zstd.
    pub(super) flags: U32,
    pub(super) page_flags: U64,
}

const _: () = assert!(size_of::<PageDesc>() == 24);

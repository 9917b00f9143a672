//! Every byte on disk, described once.
//!
//! A dump partition is a row of 4096-byte blocks, numbered from 0. All integers are little-endian.
//!
//! | block | contents |
//! | --- | --- |
//! | 0 | [`Label`](label::Label): marks the partition as a dump partition; dumps never write it |
//! | 1 … | dumps, one after another; then, to the end, the [pattern] |
//!
//! A dump is a [front header](header), consecutive [chunks](chunk), and a back header equal to the front one.
//! A chunk is one header block and up to [`chunk::MAX_PAYLOAD_BLOCKS`] payload blocks. The chunk's header has
//! a checksum for each payload block. The content of a notes chunk is described in [`note`].
//!
//! Every block except a chunk's payload begins with an 8-byte magic and ends with the CRC-32 (IEEE, as in
//! zlib and Ethernet) of its first 4092 bytes; see [`frame`].
//!
//! The kernel side and `savecore` both use this module. It knows no device and contains no unsafe code.

#![forbid(unsafe_code)]

pub mod chain;
pub mod checksum;
pub mod chunk;
pub mod cipher;
pub mod class;
pub mod crc;
#[cfg(feature = "encryption")]
pub mod crypt;
pub mod frame;
pub mod freeing;
pub mod header;
pub mod integer;
#[cfg(not(feature = "encryption"))]
mod keyless;
pub mod label;
pub mod metrics;
pub mod note;
pub mod pattern;

#[cfg(feature = "encryption")]
pub(crate) use crypt::Key;
#[cfg(not(feature = "encryption"))]
pub(crate) use keyless::Key;

/// Bytes in a block, the unit of everything on the partition.
pub const BLOCK_SIZE: usize = 4096;

/// Bytes in a dumped page of memory. Equal to the block size on purpose: a page is a block.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] as an address difference.
pub const PAGE_BYTES: u64 = PAGE_SIZE as u64;

/// Version of the format that this crate writes.
///
/// Version 4 has a different [checksum](checksum::version3) of bulk data than version 3; everything else is
/// the same.
pub const VERSION: u32 = 4;

/// The oldest version that this crate reads. A partition may hold dumps of several versions, written by
/// different kernels.
pub const OLDEST_VERSION: u32 = 3;

/// One block's bytes.
pub type Block = [u8; BLOCK_SIZE];

/// Identity of a dump partition, chosen by `savecore format` (RFC 9562, version 4).
pub type Uuid = [u8; 16];

//! The last step of freeing a dump: turning its front header into the pattern.
//!
//! An armed kernel may crash at any moment and then read this block. If the write were torn, the block would
//! be neither header nor pattern, and the kernel would refuse the partition. So all but the first sector is
//! written first: the kernel then sees a damaged front header and looks for a place after it. The first
//! sector follows, which a disk writes atomically.

use zerocopy::{FromBytes, IntoBytes};

use super::frame::{self, Kind};
use super::header::{Header, Status};
use super::{BLOCK_SIZE, Block, Uuid, pattern};

/// Bytes that a disk writes atomically.
pub const SECTOR: usize = 512;

/// Overwrites all but the first sector of a front header with the pattern of block `number` of partition
/// `uuid`.
pub fn halve(block: &mut Block, uuid: &Uuid, number: u64) {
    let mut free = [0; BLOCK_SIZE];
    pattern::fill(&mut free, uuid, number);
    for (byte, free) in block.iter_mut().zip(free).skip(SECTOR) {
        *byte = free;
    }
}

/// The fields in the first sector of block `number` of partition `uuid`, if the block is the front header of
/// a saved dump that was being freed: at least one of its other sectors is already the pattern. An unsaved
/// dump never matches, because its header says that it is not saved. Fields outside the first sector are as
/// in an empty header.
pub fn half_free(block: &Block, uuid: &Uuid, number: u64) -> Option<Header> {
    let header = Header::ref_from_bytes(block.as_slice()).ok()?;
    let is_ours = header.magic == Kind::Front.magic() && frame::is_known(header.version.get());
    let is_here = header.uuid == *uuid && header.first_block.get() == number;
    if !is_ours || !is_here || header.status.get() != Status::Saved as u32 {
        return None;
    }
    let mut free = [0; BLOCK_SIZE];
    pattern::fill(&mut free, uuid, number);
    let mut sectors = block.chunks_exact(SECTOR).zip(free.chunks_exact(SECTOR)).skip(1);
    if !sectors.any(|(found, free)| found == free) {
        return None;
    }
    let mut header = Header::new();
    for (byte, found) in header.as_mut_bytes().iter_mut().zip(block.iter().take(SECTOR)) {
        *byte = *found;
    }
    Some(header)
}

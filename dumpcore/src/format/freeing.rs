//! The last step of freeing a dump: its front header becomes the pattern.
//!
//! A kernel that is armed may crash at any moment, and then looks at this block. Torn in between, it would be neither of the two, and
//! the kernel would refuse the partition. So all of it but the first sector is laid first: for the kernel the block is still a front
//! header, if a damaged one, and it looks for a place after it. Then comes the first sector, which a disk writes whole or not at all.

use zerocopy::{FromBytes, IntoBytes};

use super::frame::{self, Kind};
use super::header::{Header, Status};
use super::{BLOCK_SIZE, Block, Uuid, pattern};

/// Bytes that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// Lays the pattern of block `number` of partition `uuid` over all of a front header but its first sector.
pub fn halve(block: &mut Block, uuid: &Uuid, number: u64) {
    let mut free = [0; BLOCK_SIZE];
    pattern::fill(&mut free, uuid, number);
    for (byte, free) in block.iter_mut().zip(free).skip(SECTOR) {
        *byte = free;
    }
}

/// What the first sector of block `number` of partition `uuid` says, if the block is the front header of a saved dump that was being
/// made free: at least one of its other sectors is the pattern already. No dump that waits looks like that: its header says that it
/// is not saved. All but the first sector's fields are as in an empty header.
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

//! The chain of dumps on a partition: when a header or chunk may be trusted at the block where it was found,
//! and where the next dump may begin. Kernels and savecore both walk the chain with these functions.

use super::chunk::ChunkHeader;
use super::frame::Kind;
use super::header::{Header, Status};
use super::{Block, Uuid};

/// The front header in block `at`, if it belongs to partition `uuid` and to this block.
pub fn front_at<'b>(block: &'b Block, uuid: &Uuid, at: u64) -> Option<&'b Header> {
    let header = Header::parse(block, Kind::Front).ok()?;
    (header.uuid == *uuid && header.first_block.get() == at).then_some(header)
}

/// The back header in block `at`, if it belongs to partition `uuid` and to this block.
pub fn back_at<'b>(block: &'b Block, uuid: &Uuid, at: u64) -> Option<&'b Header> {
    let header = Header::parse(block, Kind::Back).ok()?;
    (header.uuid == *uuid && Some(header.end_block.get()) == at.checked_add(1)).then_some(header)
}

/// The chunk header in block `at`, of any dump, if it belongs to this block.
pub fn chunk_at(block: &Block, at: u64) -> Option<&ChunkHeader> {
    ChunkHeader::parse(block).ok().filter(|header| header.block.get() == at)
}

/// The extent of a dump, according to its front header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// The dump was not closed: its end has to be searched for.
    Open,
    /// Up to this block, in which the next dump may begin.
    Closed {
        /// The first block after its back header; at most the partition's blocks.
        end: u64,
    },
    /// An impossible extent: the end is before the beginning, or outside the partition.
    Impossible,
}

impl Extent {
    /// The extent of a dump with this front header, on a partition of `blocks` blocks.
    pub fn of(front: &Header, blocks: u64) -> Extent {
        let (first, end) = (front.first_block.get(), front.end_block.get());
        if front.status() == Status::InProgress {
            Extent::Open
        } else if end > first && end <= blocks {
            Extent::Closed { end }
        } else {
            Extent::Impossible
        }
    }
}

//! The chain of dumps on a partition: what may be believed of a header or chunk where it was found, and where the next
//! dump may begin. Kernels and savecore walk the chain by these.

use super::chunk::ChunkHeader;
use super::frame::Kind;
use super::header::{Header, Status};
use super::{Block, Uuid};

/// The front header in block `at`, if it is one of partition `uuid` that says it belongs there.
pub fn front_at<'b>(block: &'b Block, uuid: &Uuid, at: u64) -> Option<&'b Header> {
    let header = Header::parse(block, Kind::Front).ok()?;
    (header.uuid == *uuid && header.first_block.get() == at).then_some(header)
}

/// The back header in block `at`, if it is one of partition `uuid` that says it belongs there.
pub fn back_at<'b>(block: &'b Block, uuid: &Uuid, at: u64) -> Option<&'b Header> {
    let header = Header::parse(block, Kind::Back).ok()?;
    (header.uuid == *uuid && Some(header.end_block.get()) == at.checked_add(1)).then_some(header)
}

/// The chunk header in block `at`, if it is one that says it belongs there, of whatever dump.
pub fn chunk_at(block: &Block, at: u64) -> Option<&ChunkHeader> {
    ChunkHeader::parse(block).ok().filter(|header| header.block.get() == at)
}

/// How far a dump reaches, as its front header tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Nobody closed it: its end has to be looked for.
    Open,
    /// To this block, in which the next dump may begin.
    Closed {
        /// The first block after its back header; at most the partition's blocks.
        end: u64,
    },
    /// To a place that it cannot reach: before its own beginning, or outside of the partition.
    Impossible,
}

impl Extent {
    /// Of a dump with this front header, on a partition of `blocks` blocks.
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

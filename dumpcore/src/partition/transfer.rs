//! A transfer between a buffer and a partition: what it moves, and how it ended.

use crate::device::{DeviceError, Direction};
use crate::dma::DmaBuffer;
use crate::partition::range::BlockRange;

/// What a transfer moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// The buffer's first so many blocks.
    Blocks(u64),
    /// The buffer's first block, then the RAM that the first so many extents in its second block name.
    Gathered(usize),
}

/// A buffer of the pool in somebody's hands.
#[derive(Debug)]
pub struct Lease {
    /// The buffer's number in the pool.
    pub slot: usize,
    /// The buffer.
    pub buffer: DmaBuffer,
}

/// A transfer that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// In which member.
    pub member: usize,
    /// Which way.
    pub direction: Direction,
    /// First block, relative to the partition.
    pub block: u64,
    /// What is moved.
    pub load: Load,
}

/// A finished transfer, its buffer whole again.
#[derive(Debug)]
pub struct Done {
    /// The buffer.
    pub lease: Lease,
    /// Which member.
    pub member: usize,
    /// Which way it went.
    pub direction: Direction,
    /// The blocks that went from or into the buffer, relative to the partition.
    pub range: BlockRange,
    /// Whether all of it was transferred.
    pub result: Result<(), DeviceError>,
}

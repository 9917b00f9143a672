//! A transfer between a buffer and a partition: its load and its result.

use crate::device::{DeviceError, Direction};
use crate::dma::DmaBuffer;
use crate::partition::range::BlockRange;

/// The data that a transfer moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// The first blocks of the buffer; this many.
    Blocks(u64),
    /// The buffer's first block, then the RAM named by the first extents in its second block; this many
    /// extents.
    Gathered(usize),
}

/// A buffer that was taken from the pool.
#[derive(Debug)]
pub struct Lease {
    /// The buffer's number in the pool.
    pub slot: usize,
    /// The buffer.
    pub buffer: DmaBuffer,
}

/// A transfer to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The member.
    pub member: usize,
    /// Read or write.
    pub direction: Direction,
    /// First block, relative to the partition.
    pub block: u64,
    /// The data to move.
    pub load: Load,
}

/// A finished transfer. Its buffer is complete again.
#[derive(Debug)]
pub struct Done {
    /// The buffer.
    pub lease: Lease,
    /// The member.
    pub member: usize,
    /// Read or write.
    pub direction: Direction,
    /// The blocks transferred between buffer and partition, relative to the partition.
    pub range: BlockRange,
    /// Whether all of it was transferred.
    pub result: Result<(), DeviceError>,
}

//! A transfer between a buffer and a partition: what it moves, and how it ended.

use crate::device::{DeviceError, Direction};
use crate::dma::DmaBuffer;

/// What a transfer moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// The buffer's first so many blocks.
    Blocks(u64),
    /// The buffer's first block, then the RAM that the first so many extents in its second block name.
    Gathered(usize),
}

/// A finished transfer, its buffer whole again.
#[derive(Debug)]
pub struct Done {
    /// Which buffer.
    pub slot: usize,
    /// The buffer.
    pub buffer: DmaBuffer,
    /// Which lane.
    pub lane: usize,
    /// Which way it went.
    pub direction: Direction,
    /// First block, relative to the partition.
    pub block: u64,
    /// How many blocks went from or into the buffer.
    pub count: u64,
    /// Whether all of it was transferred.
    pub result: Result<(), DeviceError>,
}

/// A device that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Which lane it is in.
    pub lane: usize,
    /// How.
    pub error: DeviceError,
}

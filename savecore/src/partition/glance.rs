//! A quick check: is a partition ready, and are dumps waiting?

use std::collections::BTreeSet;

use dumpcore::format::pattern;

use super::check::judge;
use super::{BadBlock, Partition, Search, salvage};
use crate::Error;
use crate::ownership::Machine;
use crate::source::Source;

/// Number of free blocks to check, spread over the partition, besides the first and the last.
const SAMPLES: u64 = 62;

/// The result of [`glance`].
pub struct Glance {
    /// Label and places of the dumps.
    pub partition: Partition,
    /// The first checked free block that does not hold its pattern.
    pub bad: Option<BadBlock>,
}

/// Finds the dumps, trusting only `machine`'s marks as saved, and checks some of the free blocks;
/// [`check`](super::check()) checks all.
///
/// # Errors
/// As [`salvage`].
pub fn glance(source: &dyn Source, machine: Option<&Machine>) -> Result<Glance, Error> {
    let mut partition = salvage(source, Search::Quick, &mut ())?;
    partition.doubt(source, machine);
    let free = partition.free..partition.blocks.min(partition.label.blocks.get());
    let step = (free.end.saturating_sub(free.start) / SAMPLES).max(1);
    let samples = free.clone().step_by(usize::try_from(step).unwrap_or(usize::MAX));
    let samples: BTreeSet<u64> = samples.chain(free.last()).collect();
    let uuid = partition.uuid();
    let mut block = [[0; dumpcore::format::BLOCK_SIZE]];
    let bad = samples.into_iter().find_map(|at| {
        // A single block at each place: reading a window of blocks would be a waste.
        let read = source.read(at, &mut block).map(|()| &block[0]);
        judge(read, |block| pattern::matches(block, &uuid, at)).map(|holds| BadBlock { block: at, holds })
    });
    Ok(Glance { partition, bad })
}

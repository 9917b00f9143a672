//! A quick look: is a partition ready, and do dumps wait?

use std::collections::BTreeSet;

use dumpcore::format::pattern;

use super::check::judge;
use super::{BadBlock, Partition, Search, salvage};
use crate::Error;
use crate::ownership::Machine;
use crate::source::Source;

/// Free blocks that are looked at, spread over the partition, besides the first and the last.
const SAMPLES: u64 = 62;

/// The result of [`glance`].
pub struct Glance {
    /// Label and places of the dumps.
    pub partition: Partition,
    /// The first of the free blocks looked at that does not hold its pattern.
    pub bad: Option<BadBlock>,
}

/// Finds the dumps, of which those count as saved that `machine` marked, and looks at a few of the free blocks;
/// [`check`](super::check()) looks at all.
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
        // One block of each place: a window of blocks would be read in vain.
        let read = source.read(at, &mut block).map(|()| &block[0]);
        judge(read, |block| pattern::matches(block, &uuid, at)).map(|holds| BadBlock { block: at, holds })
    });
    Ok(Glance { partition, bad })
}

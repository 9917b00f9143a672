//! Dumps that a kernel which lives on writes while others are saved: they stand after those, and freeing what is before
//! them would leave a gap in which nobody looks for them.

use dumpcore::format::{BLOCK_SIZE, pattern};

use crate::ownership::Machine;
use crate::partition::{self, Partition, Search};
use crate::source::{Source, Target};
use crate::targets::Targets;

/// How often targets are looked at again: a kernel that writes dumps faster than they are saved is not waited for.
pub(super) const ROUNDS: u32 = 4;

/// Adds the dumps that came since the targets were read; returns them, each as a list of (target, dump on it).
pub(super) fn look_again(targets: &mut Targets, machine: Option<&Machine>) -> Vec<Vec<(usize, usize)>> {
    let known: Vec<usize> = targets.partitions.iter().map(|partition| partition.dumps.len()).collect();
    for (index, target) in targets.targets.iter().enumerate() {
        let partition = &mut targets.partitions[index];
        let is_freed = partition.defect.is_none() && !targets.copies[index] && !partition.dumps.is_empty();
        if !is_freed || !is_written_behind(target, partition) {
            continue;
        }
        let Ok(mut now) = partition::scan_with(target, Search::Quick, &mut ()) else { continue };
        now.doubt(target, machine);
        let behind = partition.free;
        partition.dumps.extend(now.dumps.into_iter().filter(|found| found.first >= behind));
        partition.free = partition.free.max(now.free);
        targets.watches[index].begin(target, partition);
    }
    let is_new = |(target, dump): &(usize, usize)| *dump >= known[*target];
    let mut groups = targets.dumps();
    groups.retain(|places| places.iter().all(is_new));
    groups
}

/// Whether the first block that was free is written on now.
pub(super) fn is_written_behind(target: &Target, partition: &Partition) -> bool {
    target.forget(partition.free);
    let mut block = [[0; BLOCK_SIZE]];
    // What cannot be read is no dump that could be saved.
    partition.free < partition.blocks
        && target.read(partition.free, &mut block).is_ok()
        && !pattern::matches(&block[0], &partition.uuid(), partition.free)
}

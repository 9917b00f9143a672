//! Dumps that a kernel which survives writes while others are being saved: they come after these, and freeing
//! the earlier ones would leave a gap before them, where they would not be found.

use dumpcore::format::{BLOCK_SIZE, pattern};

use crate::dump::DumpRef;
use crate::ownership::Machine;
use crate::partition::{self, Partition, Search};
use crate::source::{Source, Target};
use crate::targets::{OpenTarget, Targets};

/// Maximum number of new scans: do not wait for a kernel that writes dumps faster than they are saved.
pub(super) const ROUNDS: u32 = 4;

/// Adds the dumps written since the targets were scanned; returns them.
pub(super) fn look_again(targets: &mut Targets, machine: Option<&Machine>) -> Vec<Vec<DumpRef>> {
    let known: Vec<usize> = targets.open.iter().map(|open| open.partition.dumps.len()).collect();
    for OpenTarget { target, partition, is_copy, watch } in &mut targets.open {
        let is_freed = partition.defect.is_none() && !*is_copy && !partition.dumps.is_empty();
        if !is_freed || !is_written_behind(target, partition) {
            continue;
        }
        let Ok(mut now) = partition::scan_with(target, Search::Quick, &mut ()) else { continue };
        now.doubt(target, machine);
        let behind = partition.free;
        partition.dumps.extend(now.dumps.into_iter().filter(|found| found.first >= behind));
        partition.free = partition.free.max(now.free);
        watch.begin(target, partition);
    }
    let is_new = |place: &DumpRef| place.dump >= known[place.target];
    let mut groups = targets.dumps();
    groups.retain(|places| places.iter().all(is_new));
    groups
}

/// Whether something is being written to the first free block.
pub(super) fn is_written_behind(target: &Target, partition: &Partition) -> bool {
    target.forget(partition.free);
    let mut block = [[0; BLOCK_SIZE]];
    // An unreadable block is not a dump that could be saved.
    partition.free < partition.blocks
        && target.read(partition.free, &mut block).is_ok()
        && !pattern::matches(&block[0], &partition.uuid(), partition.free)
}

//! Whether a dump is still being written: by a virtual machine into its image, or by another host to a shared
//! disk.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dumpcore::format::{BLOCK_SIZE, Block};

use super::{Ending, Found, Partition};
use crate::source::{Source, read_around};

/// How long to watch a dump that was not closed. Writing a dump never pauses.
const WATCHED: Duration = Duration::from_secs(1);

/// Number of blocks to watch before and after a dump's end: more than any writer has in flight.
const BEFORE: u64 = 256;
const AFTER: u64 = 1024;

/// The ends of dumps on one partition, as first read.
#[derive(Default)]
pub struct Watch {
    /// First block of each dump, and a checksum of its end.
    ends: Vec<(u64, u32)>,
    last: Option<Instant>,
}

impl Watch {
    /// Reads the ends of all dumps on a partition that may still be being written, and are not watched yet.
    pub fn begin(&mut self, source: &dyn Source, partition: &Partition) {
        for found in partition.dumps.iter().filter(|found| may_grow(found)) {
            if self.end_of(found).is_none() {
                self.ends.push((found.first, end(source, found)));
                self.last = Some(Instant::now());
            }
        }
    }

    fn end_of(&self, found: &Found) -> Option<u32> {
        self.ends.iter().find(|(first, _)| *first == found.first).map(|(_, end)| *end)
    }

    /// Whether this dump is being written. Waits until all were watched long enough.
    pub fn grows(&self, source: &dyn Source, found: &Found) -> bool {
        let (Some(before), Some(last)) = (self.end_of(found), self.last) else { return false };
        sleep(WATCHED.saturating_sub(last.elapsed()));
        before != end(source, found)
    }
}

/// Whether the dump was not closed, so its writer may be alive.
fn may_grow(found: &Found) -> bool {
    matches!(found.ending, Ending::Open | Ending::AlmostClosed)
}

/// The first dump that is being written; watches for a moment if there are dumps that were not closed.
pub fn growing<'p>(source: &dyn Source, partition: &'p Partition) -> Option<&'p Found> {
    let mut watch = Watch::default();
    watch.begin(source, partition);
    partition.dumps.iter().find(|found| watch.grows(source, found))
}

/// A checksum of the front header and of the blocks around a dump's end, as they are on the medium now.
fn end(source: &dyn Source, found: &Found) -> u32 {
    let first = found.end.saturating_sub(BEFORE).max(found.first);
    let last = found.end.saturating_add(AFTER).min(source.blocks());
    let mut sum = crc32fast::Hasher::new();
    for (first, count) in [(found.first, 1), (first, last.saturating_sub(first))] {
        source.forget(first);
        let mut blocks: Vec<Block> = vec![[0; BLOCK_SIZE]; count as usize];
        read_around(source, first, &mut blocks);
        sum.update(blocks.as_flattened());
    }
    sum.finalize()
}

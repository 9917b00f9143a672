//! A dump may be striped over several partitions: its chunks go to them in turn, and each has its own
//! headers.

use dumpcore::format::Uuid;

use crate::partition::{Ending, Found, Partition};
use crate::source::Source;

/// Maximum number of missing stripes to list.
const MAX_TOLD: usize = 64;

/// The part of a dump on one partition.
pub struct Part<'s> {
    /// The partition.
    pub source: &'s dyn Source,
    /// Its identity.
    pub uuid: Uuid,
    /// The dump's place on it, and its header there.
    pub found: Found,
}

/// A dump on one of several partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DumpRef {
    /// Index of the partition, or of its target.
    pub target: usize,
    /// Index in [`Partition::dumps`].
    pub dump: usize,
}

/// The number of stripes in a header; `None` if there is no header.
fn stripes(found: &Found) -> Option<u32> {
    (found.ending != Ending::BothLost).then(|| found.header.stripes.get())
}

/// Whether two of these have the same nonce, and their headers do not contradict that they are stripes of one
/// dump.
fn belongs(group: &[&Found], other: &Found) -> bool {
    let Some(first) = group.first() else { return false };
    let Some(number) = group.iter().find_map(|found| stripes(found)) else { return false };
    first.header.nonce == other.header.nonce
        && number > 1
        && (group.len() as u64) < u64::from(number)
        && match stripes(other) {
            None => true,
            Some(stated) => {
                let taken =
                    |found: &&Found| stripes(found).is_some() && found.header.stripe == other.header.stripe;
                stated == number && !group.iter().any(taken)
            }
        }
}

/// Finds the dumps of several partitions that are stripes of the same dump. Each occurs once; stripes of one
/// dump are in order.
pub fn gather<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> Vec<Vec<DumpRef>> {
    let partitions = partitions.into_iter().enumerate();
    let all = partitions.flat_map(|(target, scanned)| {
        scanned.dumps.iter().enumerate().map(move |(dump, found)| (DumpRef { target, dump }, found))
    });
    // Without a header, a dump's stripe is unknown: it goes wherever there is room.
    let (lost, told): (Vec<_>, Vec<_>) = all.partition(|(_, found)| stripes(found).is_none());
    let mut groups: Vec<Vec<(DumpRef, &Found)>> = Vec::new();
    for (place, found) in told.into_iter().chain(lost) {
        let fits = |group: &&mut Vec<(DumpRef, &Found)>| {
            let members: Vec<&Found> = group.iter().map(|(_, found)| *found).collect();
            belongs(&members, found)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push((place, found)),
            None => groups.push(vec![(place, found)]),
        }
    }
    let mut places: Vec<Vec<DumpRef>> = Vec::new();
    for mut group in groups {
        group.sort_by_key(|(place, found)| (stripes(found).is_none(), found.header.stripe.get(), *place));
        places.push(group.into_iter().map(|(place, _)| place).collect());
    }
    places.sort_by_key(|group| group.iter().copied().min());
    places
}

/// A dump's number of stripes, and the missing ones; the first ones if there are very many.
pub(super) fn missing(parts: &[Part<'_>]) -> (u32, Vec<u32>) {
    let number = parts.iter().filter_map(|part| stripes(&part.found)).max().unwrap_or(1);
    let there = |stripe: &u32| {
        let is_it =
            |part: &Part<'_>| stripes(&part.found).is_some() && part.found.header.stripe.get() == *stripe;
        parts.iter().any(is_it)
    };
    if parts.iter().all(|part| stripes(&part.found).is_none()) {
        return (number, Vec::new());
    }
    (number, (0..number).filter(|stripe| !there(stripe)).take(MAX_TOLD).collect())
}

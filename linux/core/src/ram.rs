//! RAM, and the parts of it that are not dumped.

use dumpcore::platform::RamRange;

/// Calls `visit` with the parts of a range outside the holes, in order. Empty holes are ignored.
pub fn without(range: RamRange, holes: &[RamRange], visit: &mut dyn FnMut(RamRange)) {
    let mut start = range.start;
    // Each turn passes a hole, or is the last.
    for _ in 0..=holes.len() {
        let next =
            holes.iter().filter(|hole| hole.start < hole.end && hole.end > start && hole.start < range.end);
        let next = next.min_by_key(|hole| hole.start);
        let end = next.map_or(range.end, |hole| hole.start);
        if start < end {
            visit(RamRange { start, end });
        }
        let Some(hole) = next else { return };
        start = hole.end.max(start);
        if start >= range.end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = RamRange> {
        (0..60_u64, 0..20_u64).prop_map(|(start, length)| RamRange { start, end: start + length })
    }

    proptest! {
        #[test]
        fn each_address_of_the_range_is_visited_once_unless_it_is_in_a_hole(
            range in range(), holes in prop::collection::vec(range(), 0..5),
        ) {
            let mut visited = Vec::new();
            without(range, &holes, &mut |part| {
                assert!(part.start < part.end);
                visited.extend(part.start..part.end);
            });
            let is_in_a_hole = |address: &u64| holes.iter().any(|hole| (hole.start..hole.end).contains(address));
            let expected: Vec<u64> = (range.start..range.end).filter(|address| !is_in_a_hole(address)).collect();
            prop_assert_eq!(visited, expected);
        }
    }
}

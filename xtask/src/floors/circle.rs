//! Circles of files that use each other.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};

use super::resolve::Imports;

/// Circles that have no file in common: for each set of files that use each other, the shortest circle. Each
/// file uses the next one, and the last one the first.
pub(super) fn circles(imports: &Imports) -> Vec<Vec<usize>> {
    let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in imports.keys() {
        next.entry(from).or_default().push(to);
    }
    let mut told = BTreeSet::new();
    let mut circles: Vec<Vec<usize>> = Vec::new();
    for &from in next.keys() {
        if let Some(circle) = shortest(&next, from)
            && circle.iter().all(|file| !told.contains(file))
        {
            told.extend(circle.iter().copied());
            circles.push(circle);
        }
    }
    circles
}

/// The shortest way from a file back to it.
fn shortest(next: &BTreeMap<usize, Vec<usize>>, from: usize) -> Option<Vec<usize>> {
    let mut before = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        for &to in next.get(&file).map_or(&[][..], Vec::as_slice) {
            if to == from {
                let mut circle = vec![file];
                while let Some(&earlier) = circle.last().and_then(|last| before.get(last)) {
                    circle.push(earlier);
                }
                circle.reverse();
                return Some(circle);
            }
            if let Entry::Vacant(new) = before.entry(to) {
                new.insert(file);
                queue.push_back(to);
            }
        }
    }
    None
}

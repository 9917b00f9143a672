//! Common code for the tests of all architectures: memory with tables, including random ones, and a
//! comparison of a walk with translations of single addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use dumpcore::format::Block;
use dumpcore::format::note::CONTROL_REGISTERS;
use proptest::prelude::*;

use super::table::Half;
use super::{Mapping, Paging, Root, Walked, walk};

pub(super) type Control = [u64; CONTROL_REGISTERS];

/// Pages by page frame number.
#[derive(Clone, Default, Debug)]
pub(super) struct Memory(pub(super) BTreeMap<u64, Box<Block>>);

impl Memory {
    /// Stores an entry.
    pub(super) fn set(&mut self, address: u64, entry: u64) {
        let page = self.0.entry(address / 4096).or_insert_with(|| Box::new([0; 4096]));
        page[(address % 4096) as usize..][..8].copy_from_slice(&entry.to_le_bytes());
    }

    /// Reads an entry.
    pub(super) fn get(&self, address: u64) -> Option<u64> {
        let page = self.0.get(&(address / 4096))?;
        Some(u64::from_le_bytes(page[(address % 4096) as usize..][..8].try_into().unwrap()))
    }

    pub(super) fn walk(&self, roots: &[Root]) -> (Vec<Mapping>, Walked) {
        let mut mappings = Vec::new();
        let walked = walk(roots, &mut |pfn| self.0.get(&pfn).cloned(), &mut |mapping| {
            mappings.push(mapping);
            ControlFlow::Continue(())
        });
        (mappings, walked)
    }
}

/// The roots of tables that must all be walkable.
pub(super) fn roots(paging: Paging) -> Vec<Root> {
    match paging {
        Paging::On { roots, refused: None } => roots,
        paging => panic!("{paging:?}"),
    }
}

/// A planned entry in random tables.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Level from the top.
    depth: u32,
    /// Index of the table at its level.
    table: u64,
    index: u64,
    /// Level and index of the table that the entry points to, unless it is a leaf: mostly the next level's.
    next: u64,
    stray: bool,
    leaf: bool,
    /// Random bits, for the address of a leaf and for all other bits.
    noise: u64,
}

/// Tables per level in random tables.
const TABLES: u64 = 3;

prop_compose! {
    /// Entries; `stray` percent of them point to a table of any level, including their own.
    pub(super) fn plans(stray: u32)(
        plans in prop::collection::vec(
            (0..5_u32, 0..TABLES, prop_oneof![0..4_u64, any::<u64>()], 0..TABLES + 1, 0..100_u32, 0..4_u32, any::<u64>()),
            0..30,
        )
    ) -> Vec<Plan> {
        plans
            .into_iter()
            .map(|(depth, table, index, next, strays, leaf, noise)| {
                Plan { depth, table, index, next, stray: strays < stray, leaf: leaf == 0, noise }
            })
            .collect()
    }
}

/// Writes random tables: table `number` of the level `depth` below the top at `base + (depth * 4 + number) *
/// 64 KiB`, the topmost at the root. Table number [`TABLES`] of each level is not in memory. `encode` makes
/// an entry from the level, an address, whether it is a leaf, and noise. Returns the used indexes, by depth.
pub(super) fn lay(
    memory: &mut Memory,
    root: &Root,
    base: u64,
    plans: &[Plan],
    encode: impl Fn(u32, u64, bool, u64) -> u64,
) -> Vec<BTreeSet<u64>> {
    let place = |depth: u32, number: u64| {
        if depth == 0 { root.table } else { base + (u64::from(depth) * 4 + number) * 0x1_0000 }
    };
    // Also write tables without entries.
    for depth in 0..root.levels {
        let table = if depth == 0 { 0..1 } else { 0..TABLES };
        for number in table {
            for page in 0..(root.entries(root.levels - depth) * 8).div_ceil(4096) {
                let pfn = place(depth, number) / 4096 + page;
                memory.0.entry(pfn).or_insert_with(|| Box::new([0; 4096]));
            }
        }
    }
    let mut used = vec![BTreeSet::new(); root.levels as usize];
    for plan in plans {
        let depth = plan.depth % root.levels;
        let level = root.levels - depth;
        let index = plan.index % root.entries(level);
        let leaf = plan.leaf || level == 1;
        let towards = if plan.stray { (plan.noise >> 7) as u32 % root.levels } else { depth + 1 };
        let address = if leaf { plan.noise.rotate_left(21) } else { place(towards, plan.next) };
        memory.set(place(depth, plan.table) + index * 8, encode(level, address, leaf, plan.noise));
        used[depth as usize].insert(index);
    }
    used
}

/// One root's half of a walk must agree with `translate` on single addresses: each mapping at its start,
/// middle and end, and, if no table was skipped, each address composed of indexes in `used`.
pub(super) fn compare(
    memory: &Memory,
    root: &Root,
    used: &[BTreeSet<u64>],
    translate: impl Fn(u64) -> Option<u64>,
) -> Result<(), TestCaseError> {
    let (mappings, walked) = memory.walk(&[*root]);
    prop_assert!(!walked.cut_short);
    let mut by_address = BTreeMap::new();
    for mapping in &mappings {
        for offset in [0, mapping.length / 2, mapping.length - 1] {
            prop_assert_eq!(translate(mapping.virt + offset), Some(mapping.phys + offset), "{:x?}", mapping);
            let alone = super::translate(&[*root], mapping.virt + offset, &mut |address| memory.get(address));
            prop_assert_eq!(alone, Some(mapping.phys + offset), "{:x?} by itself", mapping);
        }
        let before = by_address.insert(mapping.virt, *mapping);
        prop_assert!(before.is_none(), "given twice: {:x?}", mapping);
    }
    if walked.repeated > 0 {
        return Ok(());
    }
    let mut addresses = vec![0_u64];
    for (depth, indices) in used.iter().enumerate() {
        let span = root.span(root.levels - depth as u32);
        // Include an unused one.
        let indices: Vec<u64> = indices.iter().copied().take(6).chain([1]).collect();
        addresses =
            addresses.iter().flat_map(|virt| indices.iter().map(move |index| virt + index * span)).collect();
    }
    for virt in addresses {
        let virt = virt % (1 << root.bits) + 0x123;
        let negative = match root.half {
            Half::Lower => false,
            Half::Upper => true,
            Half::Both => virt >> (root.bits - 1) == 1,
        };
        let virt = if negative { virt.wrapping_sub(1 << root.bits) } else { virt };
        let found = by_address
            .range(..=virt)
            .next_back()
            .map(|(_, mapping)| (virt - mapping.virt, mapping))
            .filter(|(inside, mapping)| *inside < mapping.length)
            .map(|(inside, mapping)| mapping.phys + inside);
        prop_assert_eq!(found, translate(virt), "{:#x}", virt);
        let alone = super::translate(&[*root], virt, &mut |address| memory.get(address));
        prop_assert_eq!(alone, found, "{:#x} by itself", virt);
    }
    Ok(())
}

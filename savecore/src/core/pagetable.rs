//! Walks the page tables of a crashed x86_64 kernel (Intel SDM volume 3A, section 4.5: 4-level and 5-level paging).
//!
//! Tables are memory of a kernel that has crashed: they may point anywhere, also in circles. So each table is
//! looked at a few times at most, and the walk as a whole is bounded.

use std::collections::HashMap;
use std::ops::ControlFlow;

use dumpcore::format::Block;
use dumpcore::format::note::CpuState;

/// How often a table is followed at one level: kernels share tables between a few parts of the address space.
const MAX_VISITS: u8 = 8;

/// Tables that are followed in all: enough to map 512 GiB in pages of 4 KiB.
const MAX_TABLES: u64 = 1 << 20;

const PRESENT: u64 = 1;
/// The entry maps a large page (levels 2 and 3).
const PAGE_SIZE_BIT: u64 = 1 << 7;
/// Bits 51:12, the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

/// Where a walk begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// Page frame number of the topmost table.
    pub pfn: u64,
    /// Levels: 4 or 5.
    pub levels: u32,
}

impl Root {
    /// The root in a CPU's control registers; `None` if it was not in long mode with paging on.
    pub fn of(state: &CpuState) -> Option<Root> {
        let [cr0, _, cr3, cr4, efer, ..] = state.control.map(|register| register.get());
        let long_mode = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && efer & EFER_LMA != 0;
        let levels = if cr4 & CR4_LA57 == 0 { 4 } else { 5 };
        long_mode.then_some(Root { pfn: (cr3 & ADDRESS) >> 12, levels })
    }
}

/// A piece of the virtual address space that one entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Virtual address of the first byte.
    pub virt: u64,
    /// Physical address of the first byte.
    pub phys: u64,
    /// Length in bytes: 4 KiB, 2 MiB or 1 GiB.
    pub length: u64,
}

/// How a walk went.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Walked {
    /// Tables that were followed.
    pub tables: u64,
    /// Tables that are not in the dump: what they map is unknown.
    pub missing: u64,
    /// Entries that were not followed since their table had been followed often enough.
    pub repeated: u64,
    /// Whether the walk ended early, by its bound on tables or by its visitor.
    pub cut_short: bool,
}

struct Walk<'a> {
    levels: u32,
    read: &'a mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &'a mut dyn FnMut(Mapping) -> ControlFlow<()>,
    visits: HashMap<(u64, u32), u8>,
    walked: Walked,
}

/// Walks the tables below `root` and gives each present mapping to `visit`, until that breaks off: the upper half of
/// the address space first, where kernels live, each half in ascending order. `read` gives the page with a page
/// frame number.
pub fn walk(
    root: Root,
    read: &mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &mut dyn FnMut(Mapping) -> ControlFlow<()>,
) -> Walked {
    let mut walk =
        Walk { levels: root.levels, read, visit, visits: HashMap::new(), walked: Walked::default() };
    if walk.table(root.pfn, root.levels, 0).is_break() {
        walk.walked.cut_short = true;
    }
    walk.walked
}

impl Walk<'_> {
    /// Follows the table in page `pfn` at `level`, whose first entry maps `virt`. Calls itself once a level.
    fn table(&mut self, pfn: u64, level: u32, virt: u64) -> ControlFlow<()> {
        let visits = self.visits.entry((pfn, level)).or_default();
        if *visits >= MAX_VISITS {
            self.walked.repeated += 1;
            return ControlFlow::Continue(());
        }
        *visits += 1;
        if self.walked.tables >= MAX_TABLES {
            return ControlFlow::Break(());
        }
        self.walked.tables += 1;
        let Some(table) = (self.read)(pfn) else {
            self.walked.missing += 1;
            return ControlFlow::Continue(());
        };
        let span = 4096_u64 << (9 * (level - 1));
        let top = level == self.levels;
        let order: Box<dyn Iterator<Item = u64>> =
            if top { Box::new((256..512).chain(0..256)) } else { Box::new(0..512) };
        for index in order {
            let at = index as usize * 8;
            let entry = u64::from_le_bytes(table[at..at + 8].try_into().unwrap_or_default());
            if entry & PRESENT == 0 {
                continue;
            }
            let address = self.canonical(virt | (index * span));
            let large = entry & PAGE_SIZE_BIT != 0;
            match level {
                1 => self.leaf(address, entry, span)?,
                2 | 3 if large => self.leaf(address, entry, span)?,
                // Reserved: the processor would fault.
                4 | 5 if large => {}
                _ => self.table((entry & ADDRESS) >> 12, level - 1, virt | (index * span))?,
            }
        }
        ControlFlow::Continue(())
    }

    fn leaf(&mut self, virt: u64, entry: u64, span: u64) -> ControlFlow<()> {
        (self.visit)(Mapping { virt, phys: entry & ADDRESS & !(span - 1), length: span })
    }

    /// The upper half of the address space has all upper bits set.
    fn canonical(&self, virt: u64) -> u64 {
        let unused = 64 - (12 + 9 * self.levels);
        ((virt << unused) as i64 >> unused) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Memory(BTreeMap<u64, Box<Block>>);

    impl Memory {
        fn set(&mut self, pfn: u64, index: usize, entry: u64) {
            let page = self.0.entry(pfn).or_insert_with(|| Box::new([0; 4096]));
            page[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }

        /// What the processor would do for one address, written apart from the walk.
        fn translate(&self, root: Root, virt: u64) -> Option<u64> {
            let mut pfn = root.pfn;
            for level in (1..=root.levels).rev() {
                let shift = 12 + 9 * (level - 1);
                let at = ((virt >> shift) & 511) as usize * 8;
                let entry = u64::from_le_bytes(self.0.get(&pfn)?[at..at + 8].try_into().unwrap());
                if entry & 1 == 0 {
                    return None;
                }
                if level == 1 || entry & 0x80 != 0 {
                    if level > 3 {
                        return None;
                    }
                    let mask = (1_u64 << shift) - 1;
                    return Some((entry & 0x000f_ffff_ffff_f000 & !mask) | (virt & mask));
                }
                pfn = (entry & 0x000f_ffff_ffff_f000) >> 12;
            }
            None
        }

        fn walk(&self, root: Root) -> (Vec<Mapping>, Walked) {
            let mut mappings = Vec::new();
            let walked = walk(root, &mut |pfn| self.0.get(&pfn).cloned(), &mut |mapping| {
                mappings.push(mapping);
                ControlFlow::Continue(())
            });
            (mappings, walked)
        }
    }

    fn check(memory: &Memory, root: Root) {
        let (mappings, _) = memory.walk(root);
        for mapping in mappings {
            for offset in [0, mapping.length / 2, mapping.length - 1] {
                assert_eq!(memory.translate(root, mapping.virt + offset), Some(mapping.phys + offset));
            }
        }
    }

    #[test]
    fn pages_of_all_three_sizes_are_found_at_four_and_five_levels() {
        for levels in [4, 5] {
            let root = Root { pfn: 10 - u64::from(levels), levels };
            let mut memory = Memory::default();
            for level in (4..=levels).rev() {
                memory.set(10 - u64::from(level), 511, (10 - u64::from(level) + 1) << 12 | 1);
            }
            memory.set(7, 3, 0x8_4000_0000 | 0x81);
            memory.set(7, 4, 8 << 12 | 1);
            memory.set(8, 5, 0x1234_0000_0000 | 0x81);
            memory.set(8, 6, 9 << 12 | 1);
            memory.set(9, 7, 0x000f_ffff_ffff_f000 | 0x81);
            let (mappings, walked) = memory.walk(root);
            let base = 0xffff_ff80_0000_0000;
            assert_eq!(
                mappings,
                [
                    Mapping { virt: base + (3 << 30), phys: 0x8_4000_0000, length: 1 << 30 },
                    Mapping { virt: base + (4 << 30) + (5 << 21), phys: 0x1234_0000_0000, length: 2 << 20 },
                    Mapping {
                        virt: base + (4 << 30) + (6 << 21) + (7 << 12),
                        phys: 0x000f_ffff_ffff_f000,
                        length: 4096,
                    },
                ],
                "{levels} levels"
            );
            assert_eq!((walked.missing, walked.cut_short), (0, false));
            check(&memory, root);
        }
    }

    #[test]
    fn a_table_that_maps_itself_everywhere_ends_soon() {
        let mut memory = Memory::default();
        for index in 0..512 {
            memory.set(1, index, 1 << 12 | 1);
        }
        let (mappings, walked) = memory.walk(Root { pfn: 1, levels: 5 });
        assert!(walked.tables <= 5 * u64::from(MAX_VISITS), "{walked:?}");
        assert!(walked.repeated > 0);
        assert!(mappings.len() <= 512 * usize::from(MAX_VISITS));
        assert!(mappings.iter().all(|mapping| mapping.phys == 0x1000));
    }

    #[test]
    fn a_recursive_slot_shows_the_tables_and_hides_nothing_else() {
        let mut memory = Memory::default();
        memory.set(1, 510, 1 << 12 | 1);
        memory.set(1, 0, 2 << 12 | 1);
        memory.set(2, 0, 3 << 12 | 1);
        memory.set(3, 0, 4 << 12 | 1);
        memory.set(4, 9, 77 << 12 | 1);
        let root = Root { pfn: 1, levels: 4 };
        let (mappings, walked) = memory.walk(root);
        assert_eq!(walked.repeated, 0);
        assert!(mappings.contains(&Mapping { virt: 9 << 12, phys: 77 << 12, length: 4096 }));
        // The root itself, seen at the address that a kernel with this slot uses.
        let own = 0xffff_ff7f_bfdf_e000;
        assert!(mappings.contains(&Mapping { virt: own, phys: 1 << 12, length: 4096 }), "{mappings:x?}");
        check(&memory, root);
    }

    #[test]
    fn missing_tables_are_counted_and_the_rest_is_found() {
        let mut memory = Memory::default();
        memory.set(1, 0, 99 << 12 | 1);
        memory.set(1, 300, 2 << 12 | 1);
        memory.set(2, 1, 0x4000_0000 | 0x81);
        let (mappings, walked) = memory.walk(Root { pfn: 1, levels: 4 });
        assert_eq!(walked.missing, 1);
        assert_eq!(mappings.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn random_tables_agree_with_translating_single_addresses(
            levels in 4_u32..=5,
            entries in prop::collection::vec((1_u64..6, 0_usize..512, 0_u64..8, any::<bool>(), any::<u32>()), 0..60)
        ) {
            let mut memory = Memory::default();
            for (pfn, index, to, large, noise) in entries {
                let bits = u64::from(noise) & 0xf00;
                memory.set(pfn, index, (to << 12) | bits | 1 | if large { 0x80 } else { 0 });
            }
            check(&memory, Root { pfn: 1, levels });
        }
    }
}

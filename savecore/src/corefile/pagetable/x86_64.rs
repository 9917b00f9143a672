//! Page tables of x86_64 (Intel SDM volume 3A, sections 4.1 and 4.5: 4-level and 5-level paging).

use dumpcore::format::note::CONTROL_REGISTERS;

use super::table::{Entry, Format, Half, Paging, Refused, Root};

const PRESENT: u64 = 1;
/// The entry maps a large page (levels 2 and 3).
const PAGE_SIZE_BIT: u64 = 1 << 7;
/// Bits 51:12, the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

/// Decodes cr0, cr2, cr3, cr4 and efer.
pub(super) fn paging(control: &[u64; CONTROL_REGISTERS]) -> Paging {
    let [cr0, _, cr3, cr4, efer, ..] = *control;
    // CR0.ET is always set.
    if cr0 == 0 {
        return Paging::Unknown;
    }
    if cr0 & CR0_PG == 0 {
        return Paging::Off;
    }
    if cr4 & CR4_PAE == 0 || efer & EFER_LMA == 0 {
        return Paging::On { roots: Vec::new(), refused: Some(Refused::NotLongMode) };
    }
    let levels = if cr4 & CR4_LA57 == 0 { 4 } else { 5 };
    let root = Root {
        table: cr3 & ADDRESS,
        levels,
        page_bits: 12,
        bits: 12 + 9 * levels,
        half: Half::Both,
        format: Format::X86_64,
    };
    Paging::On { roots: vec![root], refused: None }
}

/// Decodes an entry; `span` is the size that an entry at its level maps.
pub(super) fn read(entry: u64, level: u32, span: u64) -> Entry {
    let large = entry & PAGE_SIZE_BIT != 0;
    let address = entry & ADDRESS;
    match level {
        _ if entry & PRESENT == 0 => Entry::Nothing,
        1 => Entry::Memory(address),
        2 | 3 if large => Entry::Memory(address & !(span - 1)),
        // Reserved: the processor would fault.
        _ if large => Entry::Nothing,
        _ => Entry::Table(address),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::{Control, Memory, compare, lay, plans, roots};
    use super::super::{MAX_VISITS, Mapping};
    use super::*;

    fn control(table: u64, levels: u32) -> Control {
        [0x8000_0011, 0, table | 0x18, if levels == 5 { 0x1020 } else { 0x20 }, 0xd00, 0, 0, 0]
    }

    fn root(table: u64, levels: u32) -> Root {
        roots(paging(&control(table, levels)))[0]
    }

    /// Translates one address like the processor, independently of the walk.
    fn translate(memory: &Memory, control: &Control, virt: u64) -> Option<u64> {
        let levels = if control[3] & 0x1000 == 0 { 4 } else { 5 };
        let mut table = control[2] & 0x000f_ffff_ffff_f000;
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = memory.get(table + ((virt >> shift) & 511) * 8)?;
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
            table = entry & 0x000f_ffff_ffff_f000;
        }
        None
    }

    #[test]
    fn registers_without_long_mode_have_no_root() {
        assert_eq!(paging(&[0; 8]), Paging::Unknown);
        assert_eq!(paging(&[0x11, 0, 0x1000, 0x20, 0, 0, 0, 0]), Paging::Off);
        let refused = Paging::On { roots: Vec::new(), refused: Some(Refused::NotLongMode) };
        assert_eq!(paging(&[0x8000_0011, 0, 0x1000, 0x20, 0, 0, 0, 0]), refused);
    }

    #[test]
    fn pages_of_all_three_sizes_are_found_at_four_and_five_levels() {
        for levels in [4, 5] {
            let top = 10 - u64::from(levels);
            let root = root(top << 12, levels);
            let mut memory = Memory::default();
            let mut set = |pfn: u64, index: u64, entry| memory.set((pfn << 12) + index * 8, entry);
            for table in top..7 {
                set(table, 511, (table + 1) << 12 | 1);
            }
            set(7, 3, 0x8_4000_0000 | 0x81);
            set(7, 4, 8 << 12 | 1);
            set(8, 5, 0x1234_0000_0000 | 0x81);
            set(8, 6, 9 << 12 | 1);
            set(9, 7, 0x000f_ffff_ffff_f000 | 0x81);
            let (mappings, walked) = memory.walk(&[root]);
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
        }
    }

    #[test]
    fn a_table_that_maps_itself_everywhere_ends_soon() {
        let mut memory = Memory::default();
        for index in 0..512 {
            memory.set((1 << 12) + index * 8, 1 << 12 | 1);
        }
        let (mappings, walked) = memory.walk(&[root(1 << 12, 5)]);
        assert!(walked.tables <= 5 * u64::from(MAX_VISITS), "{walked:?}");
        assert!(walked.repeated > 0);
        assert!(mappings.len() <= 512 * usize::from(MAX_VISITS));
        assert!(mappings.iter().all(|mapping| mapping.phys == 0x1000));
    }

    #[test]
    fn a_recursive_slot_shows_the_tables_and_hides_nothing_else() {
        let mut memory = Memory::default();
        for (pfn, index, entry) in
            [(1, 510, 1 << 12 | 1), (1, 0, 2 << 12 | 1), (2, 0, 3 << 12 | 1), (3, 0, 4 << 12 | 1)]
        {
            memory.set((pfn << 12) + index * 8, entry);
        }
        memory.set((4 << 12) + 9 * 8, 77 << 12 | 1);
        let (mappings, walked) = memory.walk(&[root(1 << 12, 4)]);
        assert_eq!(walked.repeated, 0);
        assert!(mappings.contains(&Mapping { virt: 9 << 12, phys: 77 << 12, length: 4096 }));
        // The root itself, at the address that a kernel with this slot uses.
        let own = 0xffff_ff7f_bfdf_e000;
        assert!(mappings.contains(&Mapping { virt: own, phys: 1 << 12, length: 4096 }), "{mappings:x?}");
    }

    #[test]
    fn missing_tables_are_counted_and_the_rest_is_found() {
        let mut memory = Memory::default();
        memory.set(1 << 12, 99 << 12 | 1);
        memory.set((1 << 12) + 300 * 8, 2 << 12 | 1);
        memory.set((2 << 12) + 8, 0x4000_0000 | 0x81);
        let (mappings, walked) = memory.walk(&[root(1 << 12, 4)]);
        assert_eq!(walked.missing, 1);
        assert_eq!(mappings.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn random_tables_are_walked_as_the_processor_translates(
            levels in 4_u32..=5,
            plans in plans(3),
        ) {
            let control = control(0x7000, levels);
            let root = root(0x7000, levels);
            let mut memory = Memory::default();
            let used = lay(&mut memory, &root, 0x10_0000, &plans, |level, address, leaf, noise| {
                let size = if leaf && level > 1 { 0x80 } else { 0 };
                let present = u64::from(noise % 8 != 0);
                address & 0x000f_ffff_ffff_f000 | noise & 0xfff0_0000_0000_0f7e | size | present
            });
            compare(&memory, &root, &used, |virt| translate(&memory, &control, virt))?;
        }
    }
}

//! Page tables of riscv64 (RISC-V Privileged Architecture, chapter "Supervisor-Level ISA": Sv39, Sv48 and
//! Sv57, with Svnapot and Svpbmt).

use dumpcore::format::note::CONTROL_REGISTERS;

use super::table::{Entry, Format, Half, Paging, Refused, Root};

/// satp.MODE without translation.
const BARE: u64 = 0;

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
/// One of 16 entries that map 64 KiB together (Svnapot).
const N: u64 = 1 << 63;
/// Memory type (Svpbmt); 3 is reserved.
const PBMT: u64 = 3 << 61;
/// Bits that must be zero. Bits 60:59 are available to software with Svrsw60t59b; other kernels leave them
/// clear.
const RESERVED: u64 = 0x1f << 54;

const PPN_MASK: u64 = (1 << 44) - 1;

/// Decodes satp, sstatus, scause and stval.
pub(super) fn paging(control: &[u64; CONTROL_REGISTERS]) -> Paging {
    let [satp, sstatus, ..] = *control;
    let levels = match satp >> 60 {
        // sstatus.UXL is never 0 on a CPU with a 64-bit user mode, and FS or SPP is set on most others.
        BARE if sstatus == 0 => return Paging::Unknown,
        BARE => return Paging::Off,
        8 => 3,
        9 => 4,
        10 => 5,
        mode => return Paging::On { roots: Vec::new(), refused: Some(Refused::Mode(mode)) },
    };
    let root = Root {
        table: (satp & PPN_MASK) << 12,
        levels,
        page_bits: 12,
        bits: 12 + 9 * levels,
        half: Half::Both,
        format: Format::Riscv64,
    };
    Paging::On { roots: vec![root], refused: None }
}

/// Decodes entry number `index` of a table; `span` is the size that an entry at its level maps.
pub(super) fn read(entry: u64, level: u32, index: u64, span: u64) -> Entry {
    let ppn = entry >> 10 & PPN_MASK;
    let has = |bits: u64| entry & bits != 0;
    // Here and below: entries that would fault map nothing.
    if !has(V) || (has(W) && !has(R)) || has(RESERVED) || entry & PBMT == PBMT {
        return Entry::Nothing;
    }
    if !has(R | X) {
        return if has(A | D | U | N | PBMT) { Entry::Nothing } else { Entry::Table(ppn << 12) };
    }
    if has(N) {
        // All 16 have the same page number; 8 in its last digit encodes 64 KiB.
        let napot = level == 1 && ppn & 0xf == 8;
        return if napot { Entry::Memory((ppn & !0xf | index & 0xf) << 12) } else { Entry::Nothing };
    }
    if (ppn << 12).is_multiple_of(span) { Entry::Memory(ppn << 12) } else { Entry::Nothing }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::{Control, Memory, compare, lay, plans, roots};
    use super::super::{MAX_VISITS, Mapping};
    use super::*;

    fn control(table: u64, levels: u64) -> Control {
        [(levels + 5) << 60 | 0x1234 << 44 | table >> 12, 0x2_0000_0000, 0, 0, 0, 0, 0, 0]
    }

    /// The specification's "Virtual Address Translation Process", step by step, for one address.
    fn translate(memory: &Memory, control: &Control, va: u64) -> Option<u64> {
        let levels = (control[0] >> 60) - 5;
        let bits = 12 + 9 * levels;
        if (va as i64) >> (bits - 1) != 0 && (va as i64) >> (bits - 1) != -1 {
            return None;
        }
        let vpn = |i: u64| va >> (12 + 9 * i) & 0x1ff;
        let mut a = (control[0] & 0xfff_ffff_ffff) * 4096;
        let mut i = levels - 1;
        loop {
            let pte = memory.get(a + vpn(i) * 8)?;
            let bit = |n: u64| pte >> n & 1 == 1;
            if !bit(0) || (!bit(1) && bit(2)) || (54..59).any(bit) || (bit(61) && bit(62)) {
                return None;
            }
            let ppn = pte >> 10 & 0xfff_ffff_ffff;
            if bit(1) || bit(3) {
                if bit(63) && (i > 0 || ppn % 16 != 8) {
                    return None;
                }
                if (0..9 * i).any(|n| ppn >> n & 1 == 1) {
                    return None;
                }
                let below = if bit(63) { 16 } else { 12 + 9 * i };
                return Some((((ppn << 12) >> below) << below) | (va % (1 << below)));
            }
            if bit(4) || bit(6) || bit(7) || bit(61) || bit(62) || bit(63) || i == 0 {
                return None;
            }
            a = ppn * 4096;
            i -= 1;
        }
    }

    #[test]
    fn registers_say_whether_there_are_tables_and_how_many_levels() {
        assert_eq!(paging(&[0; 8]), Paging::Unknown);
        assert_eq!(paging(&[0, 0x2_0000_0000, 0, 0, 0, 0, 0, 0]), Paging::Off);
        for levels in 3..=5 {
            let root = roots(paging(&control(0x8_1234_5000, levels)))[0];
            assert_eq!((root.table, u64::from(root.levels)), (0x8_1234_5000, levels));
        }
        for mode in (1..8).chain(11..16) {
            let refused = Paging::On { roots: Vec::new(), refused: Some(Refused::Mode(mode)) };
            assert_eq!(paging(&[mode << 60 | 1, 0, 0, 0, 0, 0, 0, 0]), refused);
        }
    }

    #[test]
    fn pages_of_all_sizes_are_found_and_addresses_extended_by_their_sign() {
        let mut memory = Memory::default();
        let mut set = |pfn: u64, index: u64, ppn: u64, bits: u64| {
            memory.set((pfn << 12) + index * 8, ppn << 10 | bits);
        };
        set(1, 256, 1 << 18, 0xcf);
        set(1, 257, 1 << 18 | 1, 0xcf);
        set(1, 3, 2, 0x01);
        set(2, 5, 7 << 9, 0xcf);
        set(2, 6, 3, 0x01);
        set(3, 7, 0xfff_ffff_ffff, 0x4b);
        for index in 16..32 {
            set(3, index, 0x1238, 1 << 63 | 0xc7);
        }
        let (mappings, walked) = memory.walk(&roots(paging(&control(1 << 12, 3))));
        let mut expected = vec![
            Mapping { virt: 0xffff_ffc0_0000_0000, phys: 1 << 30, length: 1 << 30 },
            Mapping { virt: (3 << 30) + (5 << 21), phys: 7 << 21, length: 2 << 20 },
            Mapping { virt: (3 << 30) + (6 << 21) + (7 << 12), phys: 0xff_ffff_ffff_f000, length: 4096 },
        ];
        expected.extend((0..16).map(|n| Mapping {
            virt: (3 << 30) + (6 << 21) + ((16 + n) << 12),
            phys: 0x123_0000 + (n << 12),
            length: 4096,
        }));
        assert_eq!(mappings, expected);
        assert_eq!(walked.tables, 3);
    }

    #[test]
    fn a_table_that_points_to_itself_everywhere_ends_soon() {
        let mut memory = Memory::default();
        for index in 0..512 {
            memory.set((1 << 12) + index * 8, 1 << 10 | 1);
        }
        let (mappings, walked) = memory.walk(&roots(paging(&control(1 << 12, 5))));
        assert!(walked.tables <= 5 * u64::from(MAX_VISITS), "{walked:?}");
        assert!(walked.repeated > 0);
        assert_eq!(mappings, [], "at the last level, a pointer to a table maps nothing");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn random_tables_are_walked_as_the_specification_translates(
            levels in 3..=5_u64,
            plans in plans(3),
        ) {
            let control = control(0x7000, levels);
            let root = roots(paging(&control))[0];
            let mut memory = Memory::default();
            let used = lay(&mut memory, &root, 0x10_0000, &plans, |level, address, leaf, noise| {
                let span = 1_u64 << (12 + 9 * (level - 1));
                // Most superpages are aligned, and most reserved bits are clear.
                let ppn = match noise % 16 {
                    0 => address >> 12,
                    1..6 if leaf && level == 1 => (address >> 16) << 4 | 8,
                    _ if leaf => (address & !(span - 1)) >> 12,
                    _ => address >> 12,
                } & PPN_MASK;
                let flags = match (leaf, noise >> 4 & 7) {
                    (true, 0..6) => noise >> 8 & 0xff | 0b0011,
                    (true, _) => noise >> 8 & 0xff | 0b1001,
                    (false, 0) => noise >> 8 & 0xff & !0b1010 | 1,
                    (false, _) => 1,
                };
                let upper = match noise >> 56 {
                    0..16 => noise & 0xffc0_0000_0000_0000,
                    16..32 => 1 << 59,
                    32..48 => 1 << 61,
                    48..96 if noise % 16 < 6 => 1 << 63,
                    _ => 0,
                };
                upper | ppn << 10 | (noise >> 16 & 3) << 8 | flags
            });
            compare(&memory, &root, &used, |virt| translate(&memory, &control, virt))?;
        }
    }
}

//! Page tables of aarch64 (Arm Architecture Reference Manual for A-profile, chapter D8: VMSAv8-64, stage 1).
//!
//! The two halves of the address space have separate tables, each with its own size and page size: 4, 16 or
//! 64 KiB. Addresses have 48 bits, or 52 with the right setting of TCR_EL1 (FEAT_LPA, FEAT_LVA, FEAT_LPA2).

use dumpcore::format::note::CONTROL_REGISTERS;

use super::table::{ENTRY, Entry, Format, Half, Paging, Refused, Root, Width};

const SCTLR_M: u64 = 1;

const TCR_EPD0: u64 = 1 << 7;
const TCR_EPD1: u64 = 1 << 23;
const TCR_DS: u64 = 1 << 59;
/// TCR_EL1.IPS for physical addresses of 52 bits.
const IPS_52: u64 = 6;

const VALID: u64 = 1;
/// At the last level: a page. At higher levels: a table, not a block.
const TABLE: u64 = 1 << 1;

/// Bits `low` to `high` of a number.
const fn field(number: u64, low: u32, high: u32) -> u64 {
    (number >> low) & ((1 << (high - low + 1)) - 1)
}

/// Decodes ttbr0_el1, ttbr1_el1, tcr_el1 and sctlr_el1.
pub(super) fn paging(control: &[u64; CONTROL_REGISTERS]) -> Paging {
    let [ttbr0, ttbr1, tcr, sctlr, ..] = *control;
    if control.iter().all(|register| *register == 0) {
        return Paging::Unknown;
    }
    if sctlr & SCTLR_M == 0 {
        return Paging::Off;
    }
    let mut roots = Vec::new();
    let mut refused = None;
    for root in [upper(ttbr1, tcr), lower(ttbr0, tcr)] {
        match root {
            Ok(root) => roots.extend(root),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Paging::On { roots, refused }
}

/// The tables of the lower half; `None` if it has none.
fn lower(ttbr: u64, tcr: u64) -> Result<Option<Root>, Refused> {
    let page_bits = match field(tcr, 14, 15) {
        0 => Ok(12),
        1 => Ok(16),
        2 => Ok(14),
        value => Err(Refused::Granule { half: 0, value }),
    };
    half(Half::Lower, ttbr, tcr, tcr & TCR_EPD0 != 0, page_bits, field(tcr, 0, 5))
}

/// The tables of the upper half; `None` if it has none.
fn upper(ttbr: u64, tcr: u64) -> Result<Option<Root>, Refused> {
    let page_bits = match field(tcr, 30, 31) {
        1 => Ok(14),
        2 => Ok(12),
        3 => Ok(16),
        value => Err(Refused::Granule { half: 1, value }),
    };
    half(Half::Upper, ttbr, tcr, tcr & TCR_EPD1 != 0, page_bits, field(tcr, 16, 21))
}

fn half(
    half: Half,
    ttbr: u64,
    tcr: u64,
    disabled: bool,
    page_bits: Result<u32, Refused>,
    size: u64,
) -> Result<Option<Root>, Refused> {
    // A kernel that uses only one half leaves the other's fields at their reset values, without disabling it.
    if disabled || (ttbr == 0 && (page_bits.is_err() || size == 0)) {
        return Ok(None);
    }
    let page_bits = page_bits?;
    let large_pages = page_bits == 16;
    let ds = tcr & TCR_DS != 0 && !large_pages;
    let wide = field(tcr, 32, 34) == IPS_52 && (ds || large_pages);
    // 52 bits with FEAT_LVA or FEAT_LPA2, otherwise 48; at least 16 or 17 with FEAT_TTST.
    let smallest = if ds || large_pages { 12 } else { 16 };
    let largest = if large_pages { 47 } else { 48 };
    if !(smallest..=largest).contains(&size) {
        return Err(Refused::Size {
            half: u32::from(half == Half::Upper),
            value: size,
            page: 1 << page_bits,
        });
    }
    let bits = 64 - size as u32;
    let levels = (bits - page_bits).div_ceil(page_bits - ENTRY.ilog2());
    let width = match (large_pages, ds) {
        (true, _) => Width::Pages64 { wide },
        (false, true) => Width::Bits52,
        (false, false) => Width::Bits48,
    };
    let mut root = Root { table: 0, levels, page_bits, bits, half, format: Format::Aarch64(width) };
    let (upper_bits, least) = if wide { (field(ttbr, 2, 5) << 48, 64) } else { (0, 1) };
    // The topmost table is only as large as necessary, and aligned to its size.
    let align = (root.entries(levels) * ENTRY).max(least);
    root.table = upper_bits | (field(ttbr, 0, 47) & !(align - 1));
    Ok(Some(root))
}

/// Decodes an entry.
pub(super) fn read(entry: u64, level: u32, root: &Root, width: Width) -> Entry {
    let page_bits = root.page_bits;
    let address = match width {
        Width::Bits48 => field(entry, page_bits, 47) << page_bits,
        Width::Bits52 => field(entry, page_bits, 49) << page_bits | field(entry, 8, 9) << 50,
        Width::Pages64 { .. } => field(entry, page_bits, 47) << page_bits | field(entry, 12, 15) << 48,
    };
    if entry & VALID == 0 {
        return Entry::Nothing;
    }
    match (level, entry & TABLE != 0) {
        (1, true) => Entry::Memory(address),
        // Reserved: the processor would fault.
        (1, false) => Entry::Nothing,
        (_, true) => Entry::Table(address),
        (_, false) if level <= largest_block(page_bits, width) => {
            Entry::Memory(address & !(root.span(level) - 1))
        }
        (_, false) => Entry::Nothing,
    }
}

/// The highest level, counted from the last one, whose entries may map blocks.
fn largest_block(page_bits: u32, width: Width) -> u32 {
    match (page_bits, width) {
        (12, Width::Bits52) => 4,
        (12, _) | (14, Width::Bits52) | (_, Width::Pages64 { wide: true }) => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::{Control, Memory, compare, lay, plans, roots};
    use super::super::{MAX_VISITS, Mapping};
    use super::*;

    /// The layout of a test's tables.
    #[derive(Clone, Copy, Debug)]
    struct Shape {
        upper: bool,
        granule: u32,
        size: u64,
        ds: bool,
        ips: u64,
    }

    impl Shape {
        /// Whether the highest address bit is 51 instead of 47.
        fn is_wide(&self) -> bool {
            self.ips == 6 && (self.ds || self.granule == 16)
        }

        /// Control registers with the topmost table at `table`, and the other half disabled.
        fn control(&self, table: u64) -> Control {
            let ttbr = 0xabc << 48
                | 1
                | table & 0xffff_ffff_ffff
                | if self.is_wide() { table >> 48 << 2 } else { 0 };
            let common = self.ips << 32 | u64::from(self.ds) << 59;
            let (ttbr0, ttbr1, tcr) = if self.upper {
                let granule = match self.granule {
                    12 => 2,
                    14 => 1,
                    _ => 3,
                };
                (0xdead_0000, ttbr, self.size << 16 | granule << 30 | TCR_EPD0)
            } else {
                let granule = match self.granule {
                    12 => 0,
                    14 => 2,
                    _ => 1,
                };
                (ttbr, 0xdead_0000, self.size | granule << 14 | TCR_EPD1)
            };
            [ttbr0, ttbr1, tcr | common, 0x30d0_1805, 0, 0, 0, 0]
        }

        /// A descriptor with an address in it.
        fn descriptor(&self, address: u64, bits: u64) -> u64 {
            let below = (1_u64 << self.granule) - 1;
            let upper = match (self.granule, self.ds) {
                (16, _) => (address >> 48 & 0xf) << 12,
                (_, true) => address & 3 << 48 | (address >> 50 & 3) << 8,
                (_, false) => 0,
            };
            address & 0xffff_ffff_ffff & !below | upper | bits
        }

        /// The architecture's pseudocode for one address, starting from the registers.
        fn translate(&self, memory: &Memory, control: &Control, va: u64) -> Option<u64> {
            let (ttbr, tsz) = if self.upper {
                (control[1], control[2] >> 16 & 0x3f)
            } else {
                (control[0], control[2] & 0x3f)
            };
            let iasize = 64 - tsz as u32;
            let (sign, ones) = if self.upper { (u64::MAX, u64::MAX) } else { (0, 0) };
            if va >> iasize != sign >> iasize || (va >> 63 == 1) != (ones != 0) {
                return None;
            }
            let granulebits = self.granule as i32;
            let stride = granulebits - 3;
            let mut level = 3 - (iasize as i32 - 1 - granulebits) / stride;
            let topbits = iasize as i32 - ((3 - level) * stride + granulebits);
            let tablebits = topbits + 3;
            let mut base = ttbr & 0xffff_ffff_fffe;
            if self.is_wide() {
                base = base & !0x3f | (ttbr >> 2 & 0xf) << 48;
            }
            base = base >> tablebits << tablebits;
            let mut indexbits = topbits;
            loop {
                let lsb = (3 - level) * stride + granulebits;
                let index = va >> lsb & ((1 << indexbits) - 1);
                let descriptor = memory.get(base + index * 8)?;
                let address = |lsb: i32| {
                    let plain = (descriptor & 0xffff_ffff_ffff) >> lsb << lsb;
                    match (self.granule, self.ds) {
                        (16, _) => plain | (descriptor >> 12 & 0xf) << 48,
                        (_, true) => plain | (descriptor >> 48 & 3) << 48 | (descriptor >> 8 & 3) << 50,
                        (_, false) => plain,
                    }
                };
                match descriptor & 3 {
                    0 | 2 => return None,
                    1 => {
                        let blocks = match (self.granule, self.ds) {
                            (12, false) => 1..=2,
                            (12, true) => 0..=2,
                            (14, true) => 1..=2,
                            (16, _) if self.ips == 6 => 1..=2,
                            _ => 2..=2,
                        };
                        return blocks
                            .contains(&level)
                            .then(|| address(lsb) >> lsb << lsb | va & ((1_u64 << lsb) - 1));
                    }
                    _ if level == 3 => return Some(address(lsb) | va & ((1 << lsb) - 1)),
                    _ => {
                        base = address(granulebits);
                        level += 1;
                        indexbits = stride;
                    }
                }
            }
        }
    }

    prop_compose! {
        fn shapes()(
            upper: bool, granule in prop::sample::select(vec![12_u32, 14, 16]), size in 12..=47_u64, usual: bool, ds: bool,
            ips in 0..=6_u64,
        ) -> Shape {
            let ds = ds && granule != 16;
            let least = if ds || granule == 16 { 12 } else { 16 };
            let size = if usual { [16, 25, 28][size as usize % 3] } else { size.max(least) };
            Shape { upper, granule, size, ds, ips: if ips < 4 { ips } else { 6 } }
        }
    }

    #[test]
    fn registers_say_which_halves_have_tables() {
        assert_eq!(paging(&[0; 8]), Paging::Unknown);
        assert_eq!(paging(&[0, 0, 0x19, 0x30d0_0800, 0, 0, 0, 0]), Paging::Off);
        // Linux's configuration: both halves, 48 bits, 4 KiB.
        let both = roots(paging(&[0x4100_0000, 0x5_4200_1001, 0x32_b550_3510, 0x30d0_1805, 0, 0, 0, 0]));
        let shown: Vec<_> = both.iter().map(|root| (root.half, root.table, root.levels, root.bits)).collect();
        assert_eq!(
            shown,
            [(Half::Upper, 0x5_4200_1000, 4, 48), (Half::Lower, 0x4100_0000, 4, 48)],
            "the kernel's half first"
        );
        // Only one half, the other one's fields at their reset values.
        let lower = roots(paging(&[0x4100_0000, 0, 0x19, 1, 0, 0, 0, 0]));
        assert_eq!((lower.len(), lower[0].levels, lower[0].bits), (1, 3, 39));
    }

    #[test]
    fn what_no_table_goes_with_is_refused_by_name_and_the_other_half_walked() {
        let refusal = |tcr: u64| match paging(&[0x4100_0000, 0x4200_0000, tcr, 1, 0, 0, 0, 0]) {
            Paging::On { roots, refused } => (roots.len(), refused.map(|refused| refused.to_string())),
            paging => panic!("{paging:?}"),
        };
        let reserved = "TCR_EL1.TG1 has the reserved value 0";
        assert_eq!(refusal(0x19), (1, Some(reserved.to_owned())));
        let size = "TCR_EL1.T0SZ is 12, which does not go with pages of 4 KiB";
        assert_eq!(refusal(0x8019_000c), (1, Some(size.to_owned())));
        assert_eq!(refusal(0x8019_000c | TCR_DS), (2, None));
        assert_eq!(refusal(0x8019_0019), (2, None));
        assert_eq!(refusal(0x8019_0031).0, 1);
        assert_eq!(refusal(0xc000), (0, Some(reserved.to_owned())));
    }

    #[test]
    fn pages_and_blocks_of_each_size_of_pages_are_found() {
        for (granule, size, page, block) in
            [(12, 16, 1 << 12, 1 << 21), (14, 17, 1 << 14, 1 << 25), (16, 22, 1 << 16, 1 << 29)]
        {
            let shape = Shape { upper: true, granule, size, ds: false, ips: 2 };
            let root = roots(paging(&shape.control(0x10_0000)))[0];
            let mut memory = Memory::default();
            for depth in 1..u64::from(root.levels) {
                memory.set(0x10_0000 * depth + 8, shape.descriptor(0x10_0000 * (depth + 1), 3));
            }
            let last = 0x10_0000 * u64::from(root.levels);
            memory.set(last + 7 * 8, shape.descriptor(0x1234_5678_0000, 0x0060_0000_0000_0703));
            memory.set(last + 8 * 8, shape.descriptor(0x1234_5678_0000, 0x701));
            memory.set(last - 0x10_0000 + 2 * 8, shape.descriptor(0x1234_4000_0000, 0x0060_0000_0001_0701));
            let (mappings, walked) = memory.walk(&[root]);
            let top = u64::MAX << (64 - size);
            let base: u64 = top + (2..=root.levels).map(|level| root.span(level)).sum::<u64>();
            assert_eq!(
                mappings,
                [
                    Mapping { virt: base + 7 * page, phys: 0x1234_5678_0000, length: page },
                    Mapping { virt: base + block, phys: 0x1234_4000_0000, length: block },
                ],
                "pages of {page} bytes"
            );
            // Of a table of 16 or 64 KiB, only the first page is in memory.
            assert_eq!(walked.missing, if granule == 12 { 0 } else { walked.tables });
        }
    }

    #[test]
    fn tables_that_point_to_themselves_everywhere_end_soon() {
        for granule in [12, 14, 16] {
            let shape = Shape { upper: false, granule, size: 16, ds: false, ips: 0 };
            let mut memory = Memory::default();
            for index in 0..(1 << granule) / 8 {
                memory.set(0x10_0000 + index * 8, shape.descriptor(0x10_0000, 3));
            }
            let (mappings, walked) = memory.walk(&roots(paging(&shape.control(0x10_0000))));
            assert!(walked.tables <= 4 * u64::from(MAX_VISITS), "{walked:?}");
            assert!(walked.repeated > 0 && !mappings.is_empty());
            assert!(mappings.iter().all(|mapping| mapping.phys == 0x10_0000));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn random_tables_are_walked_as_the_architecture_translates(
            shape in shapes(), far: bool, plans in plans(3),
        ) {
            let base = match (far, shape.is_wide()) {
                (true, true) => 0x9_8000_0010_0000,
                (true, false) => 0x8000_0010_0000,
                (false, _) => 0x10_0000,
            };
            // Small topmost tables are in the middle of a page.
            let entries = roots(paging(&shape.control(0)))[0].entries(roots(paging(&shape.control(0)))[0].levels);
            let table = base + (entries * 8).max(64);
            let control = shape.control(table);
            let root = roots(paging(&control))[0];
            prop_assert_eq!(root.table, table);
            let mut memory = Memory::default();
            let used = lay(&mut memory, &root, base, &plans, |level, address, leaf, noise| {
                let kind = match (leaf, noise % 16) {
                    (_, 0) => noise >> 4 & 3,
                    (true, _) if level > 1 => 1,
                    _ => 3,
                };
                shape.descriptor(address, noise & 0xfffc_0000_0000_0c00 | kind)
            });
            compare(&memory, &root, &used, |virt| shape.translate(&memory, &control, virt))?;
        }
    }
}

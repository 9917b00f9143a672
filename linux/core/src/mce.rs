//! Memory that failed: a machine check that was not corrected leaves its address in the registers of a CPU, and the page is not read
//! again by the dump, which would end there.
//!
//! Intel SDM 3B, "Machine-Check Architecture"; AMD64 volume 2, chapter 9. Linux marks such a page only if a crash kernel is loaded
//! (arch/x86/kernel/cpu/mce/core.c), which is not so where we dump.

use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::format::PAGE_BYTES;
use dumpcore::platform::{ClassRun, PageClass};

/// How many banks of registers there are, in the lower bits of this register (IA32_MCG_CAP).
const CAPABILITIES: u32 = 0x179;
const COUNT: u64 = 0xff;

/// Banks that are looked at, at most: other registers follow.
const BANKS: u64 = 32;

/// Of a bank: its status, the address, and more about that. The next bank is four registers further on.
const STATUS: u32 = 0x401;
const ADDRESS: u32 = 0x402;
const MORE: u32 = 0x403;
const BANK: u32 = 4;

/// Of the status: it is one, of an error that was not corrected, and the other two registers say something.
const IS_VALID: u64 = 1 << 63;
const IS_UNCORRECTED: u64 = 1 << 61;
const HAS_MORE: u64 = 1 << 59;
const HAS_ADDRESS: u64 = 1 << 58;

/// Of what is more: what kind of address it is, of which these two are physical ones.
const KIND: u32 = 6;
const KINDS: u64 = 7;
const PHYSICAL: u64 = 2;
const OF_MEMORY: u64 = 3;

/// Physical addresses have no more bits (AMD64 volume 2, 5.1).
const ADDRESS_BITS: u64 = (1 << 52) - 1;

/// Model-specific registers of the CPU that this runs on.
pub trait ModelRegisters {
    /// Reads one. Only those are asked for that a CPU with machine-check banks has.
    fn read(&self, number: u32) -> u64;
}

/// Pages that are remembered, at most.
const PAGES: usize = 8;

/// No page has this number.
const NONE: u64 = u64::MAX;

/// Pages whose memory failed.
#[derive(Debug)]
pub struct Broken([AtomicU64; PAGES]);

impl Default for Broken {
    fn default() -> Broken {
        Broken::new()
    }
}

impl Broken {
    /// None.
    pub const fn new() -> Broken {
        Broken([const { AtomicU64::new(NONE) }; PAGES])
    }

    /// Remembers what this CPU's registers tell. Of too many, the first ones are remembered.
    pub fn look(&self, registers: &dyn ModelRegisters) {
        let banks = (registers.read(CAPABILITIES) & COUNT).min(BANKS);
        for bank in 0..banks {
            let bank = (bank as u32).saturating_mul(BANK);
            let status = registers.read(STATUS.saturating_add(bank));
            let wanted = IS_VALID | IS_UNCORRECTED | HAS_ADDRESS;
            if status & wanted != wanted {
                continue;
            }
            if status & HAS_MORE != 0 {
                let kind = registers.read(MORE.saturating_add(bank)) >> KIND & KINDS;
                if kind != PHYSICAL && kind != OF_MEMORY {
                    continue;
                }
            }
            let address = registers.read(ADDRESS.saturating_add(bank)) & ADDRESS_BITS;
            self.note(address / PAGE_BYTES);
        }
    }

    fn note(&self, pfn: u64) {
        for slot in &self.0 {
            match slot.compare_exchange(NONE, pfn, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) if other == pfn => return,
                Err(_) => {}
            }
        }
    }

    /// What a page is for, and how many from it on are for the same, if the kernel says `run` of it: a page that failed is not to be read,
    /// and ends what comes before it.
    pub fn cut(&self, pfn: u64, run: ClassRun) -> ClassRun {
        let mut cut = run;
        for slot in &self.0 {
            match slot.load(Ordering::Acquire) {
                // They are filled in order.
                NONE => break,
                broken if broken == pfn => return ClassRun { class: PageClass::Device, pages: 1 },
                broken if broken > pfn => cut.pages = cut.pages.min(broken.saturating_sub(pfn)),
                _ => {}
            }
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Registers; one that a CPU may not have faults.
    struct Fake(BTreeMap<u32, u64>);

    impl ModelRegisters for Fake {
        fn read(&self, number: u32) -> u64 {
            *self.0.get(&number).expect("the register is there")
        }
    }

    /// A CPU with these banks: status, address, and more.
    fn cpu(banks: &[[u64; 3]]) -> Fake {
        let mut registers = BTreeMap::from([(0x179, 1 << 24 | banks.len() as u64)]);
        for (bank, [status, address, more]) in (0..).zip(banks) {
            registers.extend([
                (0x401 + 4 * bank, *status),
                (0x402 + 4 * bank, *address),
                (0x403 + 4 * bank, *more),
            ]);
        }
        Fake(registers)
    }

    /// An error in memory as processors tell it: uncorrected, with an address of a line, which is a physical one.
    const FAILED: u64 = 0xbd80_0000_0010_0134;
    const LINE: u64 = 0x86;

    const RUN: ClassRun = ClassRun { class: PageClass::User, pages: 100 };

    #[test]
    fn only_what_was_not_corrected_and_has_a_physical_address_counts() {
        for (status, more, counts) in [
            (FAILED, LINE, true),
            // One of memory, and one without more about it.
            (FAILED, 0xc6, true),
            (FAILED & !(1 << 59), 0, true),
            // Corrected; no address; nothing at all; an address of a program's.
            (FAILED & !(1 << 61), LINE, false),
            (FAILED & !(1 << 58), LINE, false),
            (FAILED & !(1 << 63), LINE, false),
            (FAILED, 0x46, false),
        ] {
            let broken = Broken::new();
            broken.look(&cpu(&[[0; 3], [status, 0x1234_5678, more]]));
            let expected = if counts { ClassRun { class: PageClass::Device, pages: 1 } } else { RUN };
            assert_eq!(broken.cut(0x12345, RUN), expected, "{status:#x} {more:#x}");
        }
    }

    proptest! {
        #[test]
        fn pages_that_failed_are_never_among_others(
            failed in prop::collection::btree_set(0..300_u64, 0..8), start in 0..300_u64, pages in 1..300_u64,
        ) {
            let broken = Broken::new();
            // Of several CPUs, of which each tells the same again.
            for pfn in failed.iter().chain(&failed) {
                broken.look(&cpu(&[[FAILED, pfn * 4096 + 64, LINE]]));
            }
            let run = broken.cut(start, ClassRun { class: PageClass::Cache, pages });
            if failed.contains(&start) {
                prop_assert_eq!(run, ClassRun { class: PageClass::Device, pages: 1 });
            } else {
                prop_assert_eq!(run.class, PageClass::Cache);
                let next = failed.range(start..).next().map_or(pages, |next| pages.min(next - start));
                prop_assert_eq!(run.pages, next);
            }
        }
    }
}

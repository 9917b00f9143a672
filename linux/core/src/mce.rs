//! Failed memory: an uncorrected machine check leaves its address in a CPU's registers. The dump must not
//! read that page, or the read would end the dump.
//!
//! Intel SDM 3B, "Machine-Check Architecture"; AMD64 volume 2, chapter 9. Linux marks such a page only if a
//! crash kernel is loaded (arch/x86/kernel/cpu/mce/core.c), which is not the case when we dump.

use core::sync::atomic::{AtomicU64, Ordering};

use dumpcore::format::PAGE_BYTES;
use dumpcore::memory::class::{ClassRun, PageClass};

/// The number of register banks, in the low bits of this register (IA32_MCG_CAP).
const CAPABILITIES: u32 = 0x179;
const COUNT: u64 = 0xff;

/// Maximum number of banks examined: other registers follow.
const BANKS: u64 = 32;

/// A bank's registers: status, address, and miscellaneous. The next bank is four registers further.
const STATUS: u32 = 0x401;
const ADDRESS: u32 = 0x402;
const MORE: u32 = 0x403;
const BANK: u32 = 4;

/// Status bits: valid, uncorrected, miscellaneous valid, address valid.
const IS_VALID: u64 = 1 << 63;
const IS_UNCORRECTED: u64 = 1 << 61;
const HAS_MORE: u64 = 1 << 59;
const HAS_ADDRESS: u64 = 1 << 58;

/// In the miscellaneous register: the kind of address. These two kinds are physical addresses.
const KIND: u32 = 6;
const KINDS: u64 = 7;
const PHYSICAL: u64 = 2;
const OF_MEMORY: u64 = 3;

/// Maximum width of a physical address (AMD64 volume 2, 5.1).
const ADDRESS_BITS: u64 = (1 << 52) - 1;

/// Model-specific registers of the current CPU.
pub trait ModelRegisters {
    /// Reads a register. Only called for registers that exist on a CPU with machine-check banks.
    fn read(&self, number: u32) -> u64;
}

/// Maximum number of pages remembered.
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
    /// No pages.
    pub const fn new() -> Broken {
        Broken([const { AtomicU64::new(NONE) }; PAGES])
    }

    /// Remembers the failed pages in this CPU's registers. If there are too many, the first ones are kept.
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

    /// Corrects the kernel's class `run` for page `pfn`: a failed page is a run of its own that must not be
    /// read, and it ends the run before it.
    pub fn cut(&self, pfn: u64, run: ClassRun) -> ClassRun {
        let mut cut = run;
        for slot in &self.0 {
            match slot.load(Ordering::Acquire) {
                // Slots are filled in order.
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

    /// Registers, of which a missing one faults.
    struct Fake(BTreeMap<u32, u64>);

    impl ModelRegisters for Fake {
        fn read(&self, number: u32) -> u64 {
            *self.0.get(&number).expect("the register is there")
        }
    }

    /// A CPU with these banks: status, address, miscellaneous.
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

    /// A memory error as processors report it: uncorrected, with the physical address of a cache line.
    const FAILED: u64 = 0xbd80_0000_0010_0134;
    const LINE: u64 = 0x86;

    const RUN: ClassRun = ClassRun { class: PageClass::User, pages: 100 };

    #[test]
    fn only_what_was_not_corrected_and_has_a_physical_address_counts() {
        for (status, more, counts) in [
            (FAILED, LINE, true),
            // A memory address, and one without the miscellaneous register.
            (FAILED, 0xc6, true),
            (FAILED & !(1 << 59), 0, true),
            // Corrected; no address; not valid; a linear address.
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
            // Several CPUs report the same errors.
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

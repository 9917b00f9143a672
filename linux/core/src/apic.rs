//! The local APIC of the CPU that dumps: it stops the others by an NMI, and is kept from sending one to itself.
//!
//! Intel SDM 3A, "Advanced Programmable Interrupt Controller (APIC)"; AMD64 volume 2, chapter 16. Registers have the offsets that they
//! have in memory, also where they are reached as model-specific registers.

/// Where a CPU's own local APIC is reached.
pub trait LocalApic {
    /// Reads a register.
    fn read(&self, offset: u32) -> u32;

    /// Writes one.
    fn write(&self, offset: u32, value: u32);
}

/// How many entries of the table there are: the highest one's index, in these bits.
const VERSION: u32 = 0x30;
const HIGHEST: u32 = 16;

/// The command register's lower half. A write there sends.
const COMMAND: u32 = 0x300;

/// NMI, asserted, to all but this CPU.
const NMI_TO_OTHERS: u32 = 0b11 << 18 | 1 << 14 | NMI;

/// Of a command and of an entry: how it is delivered, and that as an NMI.
const DELIVERY: u32 = 0b111 << 8;
const NMI: u32 = 0b100 << 8;

/// Of an entry: nothing is delivered.
const MASKED: u32 = 1 << 16;

/// Entries of the table that can deliver an NMI, each with the least index of the highest entry with which it is there: LINT0, LINT1,
/// performance counters, thermal sensor, corrected machine checks. The timer's and the one of errors cannot.
const ENTRIES: [Entry; 5] = [
    Entry { offset: 0x350, least: 0 },
    Entry { offset: 0x360, least: 0 },
    Entry { offset: 0x340, least: 4 },
    Entry { offset: 0x330, least: 5 },
    Entry { offset: 0x2f0, least: 6 },
];

struct Entry {
    offset: u32,
    least: u32,
}

/// Sends an NMI to all CPUs but this one.
pub fn send_nmi_to_others(apic: &dyn LocalApic) {
    apic.write(COMMAND, NMI_TO_OTHERS);
}

/// Masks what this CPU's own sources would deliver as NMIs: the performance counter of the hard lockup detector, and the pin that a
/// management controller, a hardware watchdog or a bus error pulls. The kernel does so on each of its own ways to stop CPUs in a panic.
/// Ordinary interrupts are off there, and stay as they are.
pub fn mask_nmis(apic: &dyn LocalApic) {
    let highest = apic.read(VERSION) >> HIGHEST & 0xff;
    for entry in ENTRIES.iter().filter(|entry| entry.least <= highest) {
        let value = apic.read(entry.offset);
        if value & DELIVERY == NMI && value & MASKED == 0 {
            apic.write(entry.offset, value | MASKED);
        }
    }
}

/// What an NMI is to the CPU that gets it, while something is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nmi {
    /// Somebody else's.
    Others,
    /// Nobody's: this is the CPU that dumps, and whatever asks for it has to wait until the dump is over.
    Ignored,
    /// The request to stop.
    Stop,
}

impl Nmi {
    /// On this CPU; `dumping` is the one that stops the others and dumps, if any does, and `is_freezing` says whether it has sent NMIs.
    pub fn on(cpu: u32, dumping: Option<u32>, is_freezing: bool) -> Nmi {
        if dumping == Some(cpu) {
            Nmi::Ignored
        } else if is_freezing {
            Nmi::Stop
        } else {
            Nmi::Others
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Registers; one that is not there faults.
    struct Fake(RefCell<BTreeMap<u32, u32>>);

    impl LocalApic for Fake {
        fn read(&self, offset: u32) -> u32 {
            *self.0.borrow().get(&offset).expect("the register is there")
        }

        fn write(&self, offset: u32, value: u32) {
            *self.0.borrow_mut().get_mut(&offset).expect("the register is there") = value;
        }
    }

    #[test]
    fn all_others_get_an_nmi() {
        let apic = Fake(RefCell::new(BTreeMap::from([(COMMAND, 0)])));
        send_nmi_to_others(&apic);
        // As Linux's APIC_DEST_ALLBUT | APIC_INT_ASSERT | APIC_DM_NMI.
        assert_eq!(apic.read(COMMAND), 0xc_4400);
    }

    proptest! {
        #[test]
        fn after_masking_no_entry_delivers_an_nmi_and_all_others_are_as_they_were(
            highest in 3..=6_u32, values: [u32; 5], rest: u32,
        ) {
            let mut registers = BTreeMap::from([(VERSION, highest << 16 | 0x14), (0x320, rest), (0x370, rest)]);
            for (offset, least, value) in [
                (0x350, 0, values[0]), (0x360, 0, values[1]), (0x340, 4, values[2]),
                (0x330, 5, values[3]), (0x2f0, 6, values[4]),
            ] {
                if highest >= least {
                    registers.insert(offset, value);
                }
            }
            let apic = Fake(RefCell::new(registers.clone()));
            mask_nmis(&apic);
            for (offset, before) in registers {
                let is_nmi = ![VERSION, 0x320, 0x370].contains(&offset) && before >> 8 & 7 == 4;
                prop_assert_eq!(apic.read(offset), if is_nmi { before | 1 << 16 } else { before }, "{:#x}", offset);
            }
        }

        #[test]
        fn the_cpu_that_dumps_is_never_stopped(cpu: u32, other: u32, is_freezing: bool) {
            prop_assert_eq!(Nmi::on(cpu, Some(cpu), is_freezing), Nmi::Ignored);
            prop_assume!(cpu != other);
            let expected = if is_freezing { Nmi::Stop } else { Nmi::Others };
            prop_assert_eq!(Nmi::on(cpu, Some(other), is_freezing), expected);
            prop_assert_eq!(Nmi::on(cpu, None, false), Nmi::Others);
        }
    }
}

//! The local APIC of the dumping CPU: it sends an NMI to stop the other CPUs, and must not deliver one to
//! itself.
//!
//! Intel SDM 3A, "Advanced Programmable Interrupt Controller (APIC)"; AMD64 volume 2, chapter 16. Registers
//! are identified by their MMIO offsets, even when accessed as model-specific registers.

/// Access to a CPU's own local APIC.
pub trait LocalApic {
    /// Reads a register.
    fn read(&self, offset: u32) -> u32;

    /// Writes a register.
    fn write(&self, offset: u32, value: u32);

    /// Writes both halves of the command register, which sends the command. `to` is the destination, unless
    /// the command itself implies it.
    fn send(&self, to: u32, command: u32);
}

/// A CPU, by its kernel number and its APIC id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The kernel's number.
    pub number: u32,
    /// The APIC id.
    pub apic: u32,
}

/// Version register, with the index of the highest entry of the local vector table in these bits.
const VERSION: u32 = 0x30;
const HIGHEST: u32 = 16;

/// NMI, asserted: to one CPU, and to all except this one.
const NMI_TO_ONE: u32 = 1 << 14 | NMI;
const NMI_TO_OTHERS: u32 = 0b11 << 18 | NMI_TO_ONE;

/// In a command or an entry: the delivery mode, and its value for an NMI.
const DELIVERY: u32 = 0b111 << 8;
const NMI: u32 = 0b100 << 8;

/// In an entry: masked.
const MASKED: u32 = 1 << 16;

/// Entries of the local vector table that can deliver an NMI: LINT0, LINT1, performance counters, thermal
/// sensor, corrected machine checks. Each has the lowest "highest index" with which it exists. The timer and
/// error entries cannot deliver NMIs.
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

/// Sends an NMI to all CPUs except this one, whose number is `own`: to all that exist, or to `some` of them.
///
/// A broadcast also reaches CPUs that the kernel never started (`maxcpus=`) and that firmware left in an
/// unknown state: there it "might cause havoc" (Linux, arch/x86/kernel/apic/ipi.c). In that case the kernel
/// itself sends to one CPU after another.
pub fn send_nmi_to_others(apic: &dyn LocalApic, own: u32, some: Option<&[Cpu]>) {
    let Some(some) = some else { return apic.send(0, NMI_TO_OTHERS) };
    for cpu in some.iter().filter(|cpu| cpu.number != own) {
        apic.send(cpu.apic, NMI_TO_ONE);
    }
}

/// Masks this CPU's own NMI sources: the performance counter of the hard lockup detector, and the pin that a
/// management controller, a hardware watchdog or a bus error pulls. The kernel does this whenever it stops
/// CPUs in a panic. Ordinary interrupts are off there and stay unchanged.
pub fn mask_nmis(apic: &dyn LocalApic) {
    let highest = apic.read(VERSION) >> HIGHEST & 0xff;
    for entry in ENTRIES.iter().filter(|entry| entry.least <= highest) {
        let value = apic.read(entry.offset);
        if value & DELIVERY == NMI && value & MASKED == 0 {
            apic.write(entry.offset, value | MASKED);
        }
    }
}

/// The meaning of an NMI for the CPU that gets it, while a dump is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nmi {
    /// It is for another handler.
    Others,
    /// To be ignored: this is the dumping CPU, and the sender has to wait until the dump is over.
    Ignored,
    /// The request to stop.
    Stop,
}

impl Nmi {
    /// The meaning of an NMI on this CPU. `dumping` is the CPU that stops the others and dumps, if any;
    /// `is_freezing` tells whether it has sent NMIs.
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

    /// Registers, of which a missing one faults; and the commands sent.
    #[derive(Default)]
    struct Fake {
        registers: RefCell<BTreeMap<u32, u32>>,
        sent: RefCell<Vec<(u32, u32)>>,
    }

    impl LocalApic for Fake {
        fn read(&self, offset: u32) -> u32 {
            *self.registers.borrow().get(&offset).expect("the register is there")
        }

        fn write(&self, offset: u32, value: u32) {
            *self.registers.borrow_mut().get_mut(&offset).expect("the register is there") = value;
        }

        fn send(&self, to: u32, command: u32) {
            self.sent.borrow_mut().push((to, command));
        }
    }

    #[test]
    fn all_others_get_an_nmi() {
        let apic = Fake::default();
        send_nmi_to_others(&apic, 0, None);
        // Same as Linux's APIC_DEST_ALLBUT | APIC_INT_ASSERT | APIC_DM_NMI.
        assert_eq!(*apic.sent.borrow(), [(0, 0xc_4400)]);
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
            let apic = Fake { registers: RefCell::new(registers.clone()), ..Fake::default() };
            mask_nmis(&apic);
            for (offset, before) in registers {
                let is_nmi = ![VERSION, 0x320, 0x370].contains(&offset) && before >> 8 & 7 == 4;
                prop_assert_eq!(apic.read(offset), if is_nmi { before | 1 << 16 } else { before }, "{:#x}", offset);
            }
        }

        #[test]
        fn where_cpus_were_never_started_each_of_the_others_gets_an_nmi_of_its_own(
            apics in proptest::collection::btree_set(any::<u32>(), 1..40), own: proptest::sample::Index,
        ) {
            let some: Vec<Cpu> = (0..).zip(apics).map(|(number, apic)| Cpu { number, apic }).collect();
            let own = own.index(some.len()) as u32;
            let apic = Fake::default();
            send_nmi_to_others(&apic, own, Some(&some));
            // Same as Linux's APIC_DEST_PHYSICAL | APIC_INT_ASSERT | APIC_DM_NMI.
            let others = some.iter().filter(|cpu| cpu.number != own);
            let expected: Vec<(u32, u32)> = others.map(|cpu| (cpu.apic, 0x4400)).collect();
            prop_assert_eq!(&*apic.sent.borrow(), &expected);
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

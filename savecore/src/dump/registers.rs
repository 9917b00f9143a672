//! The registers of a CPU by name, in the usual order.

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;

/// A register of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Its name in the architecture's manual.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}

/// Names, and indexes in Linux's `elf_gregset_t` (arch/x86/include/asm/user_64.h).
const X86_64: [(&str, usize); 27] = [
    ("rip", 16),
    ("rsp", 19),
    ("rflags", 18),
    ("rax", 10),
    ("rbx", 5),
    ("rcx", 11),
    ("rdx", 12),
    ("rsi", 13),
    ("rdi", 14),
    ("rbp", 4),
    ("r8", 9),
    ("r9", 8),
    ("r10", 7),
    ("r11", 6),
    ("r12", 3),
    ("r13", 2),
    ("r14", 1),
    ("r15", 0),
    ("orig_rax", 15),
    ("cs", 17),
    ("ss", 20),
    ("ds", 23),
    ("es", 24),
    ("fs", 25),
    ("gs", 26),
    ("fs_base", 21),
    ("gs_base", 22),
];

/// From number 0 on, except for the first three.
const AARCH64: [&str; 31] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
    "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// The program counter has the place of x0.
const RISCV64: [&str; 32] = [
    "pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

/// The general registers of a CPU.
pub fn general_registers(arch: Arch, state: &CpuState) -> Vec<Register> {
    let value = |index: usize| state.general.get(index).map_or(0, |register| register.get());
    let named = |names: &[&'static str]| -> Vec<(&'static str, usize)> {
        names.iter().enumerate().map(|(index, name)| (*name, index)).collect()
    };
    let places = match arch {
        Arch::X86_64 => X86_64.to_vec(),
        Arch::Aarch64 => [vec![("pc", 32), ("sp", 31), ("pstate", 33)], named(&AARCH64)].concat(),
        Arch::Riscv64 => named(&RISCV64),
    };
    places.into_iter().map(|(name, index)| Register { name, value: value(index) }).collect()
}

/// The control registers of a CPU; empty if the dump does not have them.
pub fn control_registers(arch: Arch, state: &CpuState) -> Vec<Register> {
    let names: &[&str] = match arch {
        Arch::X86_64 => &["cr0", "cr2", "cr3", "cr4", "efer"],
        Arch::Aarch64 => {
            &["ttbr0_el1", "ttbr1_el1", "tcr_el1", "sctlr_el1", "mair_el1", "esr_el1", "far_el1"]
        }
        Arch::Riscv64 => &["satp", "sstatus", "scause", "stval"],
    };
    if state.control.iter().all(|register| register.get() == 0) {
        return Vec::new();
    }
    let values = state.control.iter().map(|register| register.get());
    names.iter().zip(values).map(|(name, value)| Register { name, value }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn each_register_has_one_name_and_one_place() {
        let mut state = CpuState::new_zeroed();
        for (index, register) in state.general.iter_mut().enumerate() {
            *register = (index as u64 + 1).into();
        }
        for (arch, count) in [(Arch::X86_64, 27), (Arch::Aarch64, 34), (Arch::Riscv64, 32)] {
            let registers = general_registers(arch, &state);
            let names: BTreeSet<&str> = registers.iter().map(|register| register.name).collect();
            let values: BTreeSet<u64> = registers.iter().map(|register| register.value).collect();
            assert_eq!((names.len(), values), (count, (1..=count as u64).collect()), "{arch:?}");
        }
        assert_eq!(control_registers(Arch::X86_64, &state), []);
    }
}

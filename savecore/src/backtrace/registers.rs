//! The registers of a frame, by DWARF numbers: System V ABI for AMD64, section 3.6.2; DWARF for the Arm
//! 64-bit Architecture, section 4.1; RISC-V DWARF Specification, chapter 1.

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;

/// DWARF numbers in use: 0 to 32 at most. The program counter is separate.
const REGISTERS: usize = 33;

/// Index in `elf_gregset_t` of x86_64's DWARF numbers 0 to 15: rax rdx rcx rbx rsi rdi rbp rsp r8 … r15.
const X86_64: [usize; 16] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];

/// The known registers of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Registers {
    pub(super) arch: Arch,
    pub(super) pc: u64,
    values: [Option<u64>; REGISTERS],
}

impl Registers {
    /// The registers of a CPU when it stopped.
    pub(super) fn of(arch: Arch, state: &CpuState) -> Registers {
        let general = |index: usize| state.general.get(index).map(|register| register.get());
        let mut values = [None; REGISTERS];
        let pc = match arch {
            Arch::X86_64 => {
                for (value, place) in values.iter_mut().zip(X86_64) {
                    *value = general(place);
                }
                general(16)
            }
            Arch::Aarch64 => {
                for (number, value) in values.iter_mut().take(32).enumerate() {
                    *value = general(number);
                }
                general(32)
            }
            Arch::Riscv64 => {
                // The program counter has the place of x0.
                for (number, value) in values.iter_mut().take(32).enumerate().skip(1) {
                    *value = general(number);
                }
                general(0)
            }
        };
        Registers { arch, pc: pc.unwrap_or_default(), values }
    }

    /// Only stack pointer and program counter are known.
    pub(super) fn only(arch: Arch, pc: u64, sp: u64) -> Registers {
        let mut registers = Registers { arch, pc, values: [None; REGISTERS] };
        registers.set(registers.sp_number(), Some(sp));
        registers
    }

    pub(super) fn get(&self, number: u16) -> Option<u64> {
        // The frame's own program counter, if the architecture has a number for it.
        if Some(number) == self.pc_number() {
            return Some(self.pc);
        }
        self.values.get(usize::from(number)).copied().flatten()
    }

    pub(super) fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(slot) = self.values.get_mut(usize::from(number)) {
            *slot = value;
        }
    }

    /// DWARF's number of the stack pointer.
    pub(super) fn sp_number(&self) -> u16 {
        match self.arch {
            Arch::X86_64 => 7,
            Arch::Aarch64 => 31,
            Arch::Riscv64 => 2,
        }
    }

    /// DWARF's number of the frame pointer.
    pub(super) fn fp_number(&self) -> u16 {
        match self.arch {
            Arch::X86_64 => 6,
            Arch::Aarch64 => 29,
            Arch::Riscv64 => 8,
        }
    }

    pub(super) fn pc_number(&self) -> Option<u16> {
        match self.arch {
            Arch::X86_64 => Some(16),
            Arch::Aarch64 => Some(32),
            Arch::Riscv64 => None,
        }
    }

    pub(super) fn sp(&self) -> Option<u64> {
        self.get(self.sp_number())
    }

    pub(super) fn fp(&self) -> Option<u64> {
        self.get(self.fp_number())
    }

    /// The return address of a function that was just called, on architectures that keep it in a register.
    pub(super) fn link(&self) -> Option<u64> {
        match self.arch {
            Arch::X86_64 => None,
            Arch::Aarch64 => self.get(30),
            Arch::Riscv64 => self.get(1),
        }
    }
}

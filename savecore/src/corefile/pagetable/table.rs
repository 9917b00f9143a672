//! What tables of all architectures have in common: where a walk begins, how large they are, and what an entry can say.

use std::ops::Range;

/// Bytes of an entry, on all architectures.
pub(super) const ENTRY: u64 = 8;

/// What a CPU's control registers say about its address space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Paging {
    /// Nothing: they are zero, and no CPU that runs has such values.
    Unknown,
    /// It used physical addresses.
    Off,
    /// It had page tables.
    On {
        /// Where those begin that can be walked, the kernel's usual half of the address space first.
        roots: Vec<Root>,
        /// Why others, or all, cannot be walked.
        refused: Option<Refused>,
    },
}

/// Why page tables cannot be walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// x86_64: paging is on, and the CPU is not in long mode.
    #[error("the CPU was not in long mode")]
    NotLongMode,
    /// aarch64: the field of TCR_EL1 for the size of pages has a reserved value.
    #[error("TCR_EL1.TG{half} has the reserved value {value}")]
    Granule {
        /// 0 for the lower half of the address space, 1 for the upper one.
        half: u32,
        /// What is there.
        value: u64,
    },
    /// aarch64: the field of TCR_EL1 for the size of the address space has a value that goes with no table.
    #[error("TCR_EL1.T{half}SZ is {value}, which does not go with pages of {} KiB", page >> 10)]
    Size {
        /// 0 for the lower half of the address space, 1 for the upper one.
        half: u32,
        /// What is there.
        value: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// riscv64: satp names another mode than bare, Sv39, Sv48 and Sv57.
    #[error("satp has mode {0}, which is none of bare, Sv39, Sv48 and Sv57")]
    Mode(u64),
}

/// aarch64: where an entry has the upper bits of a physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// Pages of 4 or 16 KiB: there are none above bit 47.
    Bits48,
    /// Pages of 4 or 16 KiB with TCR_EL1.DS: 51:50 in bits 9:8.
    Bits52,
    /// Pages of 64 KiB: 51:48 in bits 15:12, which are zeros on processors without FEAT_LPA. Whether addresses of 52 bits
    /// are in use decides whether level 2 maps blocks.
    Pages64 { wide: bool },
}

/// How entries are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    X86_64,
    Aarch64(Width),
    Riscv64,
}

/// Which virtual addresses tables are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    /// Those whose upper bits are zeros.
    Lower,
    /// Those whose upper bits are ones.
    Upper,
    /// Both: the upper bits equal the highest one that is translated.
    Both,
}

/// Where a walk begins, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// Physical address of the topmost table.
    pub(super) table: u64,
    /// Levels of tables; level 1 is the last.
    pub(super) levels: u32,
    /// A page has 2 to the power of this bytes, and so has a table, except for the topmost one.
    pub(super) page_bits: u32,
    /// Bits of a virtual address that are translated.
    pub(super) bits: u32,
    pub(super) half: Half,
    pub(super) format: Format,
}

/// What an entry says.
pub(super) enum Entry {
    /// Nothing is mapped, or the processor would fault since a bit is set that must not be.
    Nothing,
    /// The next level's table is at this physical address.
    Table(u64),
    /// Memory from this physical address on is mapped.
    Memory(u64),
}

impl Root {
    /// Bits of a virtual address that select an entry in a table, except for the topmost one.
    pub(super) fn index_bits(&self) -> u32 {
        self.page_bits - ENTRY.ilog2()
    }

    /// Bytes of the address space for which an entry at `level` is.
    pub(super) fn span(&self, level: u32) -> u64 {
        1 << (self.page_bits + self.index_bits() * (level - 1))
    }

    /// Entries of a table at `level`.
    pub(super) fn entries(&self, level: u32) -> u64 {
        if level == self.levels {
            1 << (self.bits - self.span(level).ilog2())
        } else {
            1 << self.index_bits()
        }
    }

    /// The entries of a table at `level`, in the order in which they are looked at.
    pub(super) fn order(&self, level: u32) -> [Range<u64>; 2] {
        let all = self.entries(level);
        let middle = if level == self.levels && self.half == Half::Both { all / 2 } else { 0 };
        [middle..all, 0..middle]
    }

    /// The whole address of which the translated bits are `virt`.
    pub(super) fn whole(&self, virt: u64) -> u64 {
        let above = u64::MAX << self.bits;
        match self.half {
            Half::Lower => virt,
            Half::Upper => virt | above,
            Half::Both if virt >> (self.bits - 1) & 1 == 1 => virt | above,
            Half::Both => virt,
        }
    }
}

//! Page tables of all architectures: roots, sizes, and decoded entries.

use std::ops::Range;

/// Bytes of an entry, on all architectures.
pub(super) const ENTRY: u64 = 8;

/// The address space of a CPU, from its control registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Paging {
    /// Unknown: the registers are zero, which no running CPU has.
    Unknown,
    /// It used physical addresses.
    Off,
    /// It used page tables.
    On {
        /// The roots that can be walked, the kernel's usual half of the address space first.
        roots: Vec<Root>,
        /// Why other roots, or all, cannot be walked.
        refused: Option<Refused>,
    },
}

/// Why page tables cannot be walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// x86_64: paging is on, but the CPU is not in long mode.
    #[error("the CPU was not in long mode")]
    NotLongMode,
    /// aarch64: TCR_EL1's page size field has a reserved value.
    #[error("TCR_EL1.TG{half} has the reserved value {value}")]
    Granule {
        /// 0 for the lower half of the address space, 1 for the upper one.
        half: u32,
        /// The value.
        value: u64,
    },
    /// aarch64: TCR_EL1's address space size fits no table.
    #[error("TCR_EL1.T{half}SZ is {value}, which does not go with pages of {} KiB", page >> 10)]
    Size {
        /// 0 for the lower half of the address space, 1 for the upper one.
        half: u32,
        /// The value.
        value: u64,
        /// Page size in bytes.
        page: u64,
    },
    /// riscv64: satp has a mode other than bare, Sv39, Sv48 and Sv57.
    #[error("satp has mode {0}, which is none of bare, Sv39, Sv48 and Sv57")]
    Mode(u64),
}

/// aarch64: the place of the upper bits of a physical address in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// Pages of 4 or 16 KiB: there are none above bit 47.
    Bits48,
    /// Pages of 4 or 16 KiB with TCR_EL1.DS: 51:50 in bits 9:8.
    Bits52,
    /// Pages of 64 KiB: 51:48 in bits 15:12, which are zeros on processors without FEAT_LPA. With addresses
    /// of 52 bits (`wide`), level 2 may map blocks.
    Pages64 { wide: bool },
}

/// The format of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    X86_64,
    Aarch64(Width),
    Riscv64,
}

/// The virtual addresses that tables cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    /// Those whose upper bits are zeros.
    Lower,
    /// Those whose upper bits are ones.
    Upper,
    /// Both: the upper bits equal the highest one that is translated.
    Both,
}

/// The root of a walk, and its geometry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// Physical address of the topmost table.
    pub(super) table: u64,
    /// Levels of tables; level 1 is the last.
    pub(super) levels: u32,
    /// A page has 2 to the power of this bytes, and so has each table except the topmost one.
    pub(super) page_bits: u32,
    /// Number of translated bits of a virtual address.
    pub(super) bits: u32,
    pub(super) half: Half,
    pub(super) format: Format,
}

/// A decoded entry.
pub(super) enum Entry {
    /// No mapping, or an entry that would fault because of a reserved bit.
    Nothing,
    /// The physical address of the next level's table.
    Table(u64),
    /// The physical address of mapped memory.
    Memory(u64),
}

impl Root {
    /// Bits of a virtual address that select an entry in a table, except for the topmost one.
    pub(super) fn index_bits(&self) -> u32 {
        self.page_bits - ENTRY.ilog2()
    }

    /// Bytes of the address space per entry at `level`.
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

    /// The entries of a table at `level`, in the order of the walk.
    pub(super) fn order(&self, level: u32) -> [Range<u64>; 2] {
        let all = self.entries(level);
        let middle = if level == self.levels && self.half == Half::Both { all / 2 } else { 0 };
        [middle..all, 0..middle]
    }

    /// The complete address whose translated bits are `virt`.
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

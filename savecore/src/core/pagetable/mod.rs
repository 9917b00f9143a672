//! Walks the page tables of a crashed kernel.
//!
//! What the architectures have in common is here: tables whose entries of 8 bytes map memory, point to a table of the
//! next level, or say nothing. Where tables begin, and what an entry says, is in a file for each architecture.
//!
//! Tables are memory of a kernel that has crashed: they may point anywhere, also in circles. So each table is
//! looked at a few times at most, and the walk as a whole is bounded.

mod aarch64;
#[cfg(test)]
mod memory;
mod riscv64;
mod x86_64;

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use dumpcore::format::{Block, PAGE_SIZE};

/// How often a table is followed at one level: kernels share tables between a few parts of the address space.
const MAX_VISITS: u8 = 8;

/// Pages of tables that are looked at in all: enough to map 512 GiB in pages of 4 KiB.
const MAX_PAGES: u64 = 1 << 20;

/// Bytes of an entry, on all architectures.
const ENTRY: u64 = 8;

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

impl Paging {
    /// What the registers of a CPU of this architecture say.
    pub fn of(arch: Arch, state: &CpuState) -> Paging {
        let control = state.control.map(|register| register.get());
        match arch {
            Arch::X86_64 => x86_64::paging(&control),
            Arch::Aarch64 => aarch64::paging(&control),
            Arch::Riscv64 => riscv64::paging(&control),
        }
    }
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

/// How entries are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    X86_64,
    Aarch64(aarch64::Width),
    Riscv64,
}

/// Which virtual addresses tables are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
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
    table: u64,
    /// Levels of tables; level 1 is the last.
    levels: u32,
    /// A page has 2 to the power of this bytes, and so has a table, except for the topmost one.
    page_bits: u32,
    /// Bits of a virtual address that are translated.
    bits: u32,
    half: Half,
    format: Format,
}

/// What an entry says.
enum Entry {
    /// Nothing is mapped, or the processor would fault since a bit is set that must not be.
    Nothing,
    /// The next level's table is at this physical address.
    Table(u64),
    /// Memory from this physical address on is mapped.
    Memory(u64),
}

impl Root {
    /// Bits of a virtual address that select an entry in a table, except for the topmost one.
    fn index_bits(&self) -> u32 {
        self.page_bits - ENTRY.ilog2()
    }

    /// Bytes of the address space for which an entry at `level` is.
    fn span(&self, level: u32) -> u64 {
        1 << (self.page_bits + self.index_bits() * (level - 1))
    }

    /// Entries of a table at `level`.
    fn entries(&self, level: u32) -> u64 {
        if level == self.levels {
            1 << (self.bits - self.span(level).ilog2())
        } else {
            1 << self.index_bits()
        }
    }

    /// The entries of a table at `level`, in the order in which they are looked at.
    fn order(&self, level: u32) -> [Range<u64>; 2] {
        let all = self.entries(level);
        let middle = if level == self.levels && self.half == Half::Both { all / 2 } else { 0 };
        [middle..all, 0..middle]
    }

    /// What entry number `index` of a table at `level` says.
    fn read(&self, entry: u64, level: u32, index: u64) -> Entry {
        match self.format {
            Format::X86_64 => x86_64::read(entry, level, self.span(level)),
            Format::Aarch64(width) => aarch64::read(entry, level, self, width),
            Format::Riscv64 => riscv64::read(entry, level, index, self.span(level)),
        }
    }

    /// The whole address of which the translated bits are `virt`.
    fn whole(&self, virt: u64) -> u64 {
        let above = u64::MAX << self.bits;
        match self.half {
            Half::Lower => virt,
            Half::Upper => virt | above,
            Half::Both if virt >> (self.bits - 1) & 1 == 1 => virt | above,
            Half::Both => virt,
        }
    }
}

/// A piece of the virtual address space that one entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Virtual address of the first byte.
    pub virt: u64,
    /// Physical address of the first byte.
    pub phys: u64,
    /// Length in bytes: a power of two, 4 KiB or more.
    pub length: u64,
}

/// How a walk went.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Walked {
    /// Tables that were followed.
    pub tables: u64,
    /// Tables that are not, or not whole, in the dump: what they map is unknown.
    pub missing: u64,
    /// Entries that were not followed since their table had been followed often enough.
    pub repeated: u64,
    /// Whether the walk ended early, by its bound on tables or by its visitor.
    pub cut_short: bool,
}

/// Where one virtual address is, physically: what the processor would find. `read` gives the table entry at a physical
/// address. `None` if nothing is mapped there, or a table is not known.
pub fn translate(roots: &[Root], virt: u64, read: &mut dyn FnMut(u64) -> Option<u64>) -> Option<u64> {
    let root = roots.iter().find(|root| root.whole(virt & !(u64::MAX << root.bits)) == virt)?;
    let mut table = root.table;
    for level in (1..=root.levels).rev() {
        let span = root.span(level);
        let index = virt / span % root.entries(level);
        match root.read(read(table.wrapping_add(index * ENTRY))?, level, index) {
            Entry::Nothing => return None,
            Entry::Table(next) => table = next,
            Entry::Memory(phys) => return Some(phys + virt % span),
        }
    }
    None
}

struct Walk<'a> {
    root: Root,
    read: &'a mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &'a mut dyn FnMut(Mapping) -> ControlFlow<()>,
    visits: HashMap<(u64, u32), u8>,
    pages: u64,
    walked: Walked,
}

/// Walks the tables below `roots` and gives each present mapping to `visit`, until that breaks off: one root after
/// another, and the upper half of the address space first, where kernels live, each half in ascending order. `read`
/// gives the page with a page frame number.
pub fn walk(
    roots: &[Root],
    read: &mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &mut dyn FnMut(Mapping) -> ControlFlow<()>,
) -> Walked {
    let mut walked = Walked::default();
    let mut pages = 0;
    for root in roots {
        let mut walk = Walk { root: *root, read, visit, visits: HashMap::new(), pages, walked };
        let ended = walk.table(root.table, root.levels, 0);
        (walked, pages) = (walk.walked, walk.pages);
        if ended.is_break() {
            walked.cut_short = true;
            break;
        }
    }
    walked
}

impl Walk<'_> {
    /// Follows the table at physical address `table` and `level`, whose first entry maps `virt`. Calls itself once a
    /// level.
    fn table(&mut self, table: u64, level: u32, virt: u64) -> ControlFlow<()> {
        let visits = self.visits.entry((table, level)).or_default();
        if *visits >= MAX_VISITS {
            self.walked.repeated += 1;
            return ControlFlow::Continue(());
        }
        *visits += 1;
        if self.pages >= MAX_PAGES {
            return ControlFlow::Break(());
        }
        self.walked.tables += 1;
        let span = self.root.span(level);
        // A table may be larger than a page of the dump, or smaller.
        let mut page: Option<(u64, Option<Box<Block>>)> = None;
        let mut whole = true;
        for index in self.root.order(level).into_iter().flatten() {
            let at = table + index * ENTRY;
            let pfn = at / PAGE_SIZE as u64;
            if page.as_ref().is_none_or(|(held, _)| *held != pfn) {
                self.pages += 1;
                page = Some((pfn, (self.read)(pfn)));
            }
            let Some((_, Some(bytes))) = &page else {
                whole = false;
                continue;
            };
            let (entries, _) = bytes.as_chunks::<{ ENTRY as usize }>();
            let entry = u64::from_le_bytes(entries[(at % PAGE_SIZE as u64 / ENTRY) as usize]);
            let virt = virt | (index * span);
            match self.root.read(entry, level, index) {
                Entry::Nothing => {}
                Entry::Table(next) if level > 1 => self.table(next, level - 1, virt)?,
                Entry::Table(_) => {}
                Entry::Memory(phys) => {
                    (self.visit)(Mapping { virt: self.root.whole(virt), phys, length: span })?;
                }
            }
        }
        self.walked.missing += u64::from(!whole);
        ControlFlow::Continue(())
    }
}
